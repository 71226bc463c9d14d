"""`puna convert`: around all formats and back, bit by bit; and what a conversion leaves behind."""

import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from puna import cli
from puna.errors import InputError
from puna.model import checkpoint, folders, places
from puna.model.lora import LoraConfig
from puna.model.source import Source, Stored, expected_tensors
from puna.model.transformer import ModelArgs, Transformer
from puna.recipes import convert
from puna.text.files import read_json, write_json
from puna.text.tokenizer import open_tokenizer
from tests.models import ARGS, generator, new_model
from tests.test_byte_pairs import trained
from tests.test_family import FAMILY, random_source

ROUND = ("meta", "puna", "hf", "gguf", "meta")


@pytest.fixture
def model(tmp_path, tiny_tokenizer):
    """A checkpoint of a small random model in bfloat16."""
    checkpoint.save(tmp_path / "model", new_model().bfloat16(), tiny_tokenizer)
    return tmp_path / "model"


def converted(src: Path, to: str, **settings) -> Path:
    dst = src.with_name(f"{src.stem}-{to}" + ".gguf" * (to == "gguf"))
    convert.main(convert.Config(src=str(src), dst=dst, to=to, **settings))
    return dst


def weights(place: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.read() for name, tensor in places.open_source(place).tensors.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    names = one.keys() == other.keys()
    return (
        names
        and all(one[n].dtype == other[n].dtype for n in one)
        and all(torch.equal(one[n], other[n]) for n in one)
    )


def test_around_all_formats_every_bit_comes_back(model):
    place = converted(model, "hf", dtype="float32")
    first = weights(place)
    for to in ROUND:
        place = converted(place, to, **({"gguf_type": "F32"} if to == "gguf" else {}))
        assert same(weights(place), first), to
    texts = ["A latte, please.", "  2 x flat white\n\t(oat)", "🙂é\x00</s><0x0A>"]
    one, other = (checkpoint.load(p)[1] for p in (model, place))
    assert one.encode_batch(texts) == other.encode_batch(texts)
    assert [one.piece(n) for n in range(384)] == [other.piece(n) for n in range(384)]


@pytest.mark.parametrize("name", ["llama2-70b", "mistral", "llama3.1", "smollm2"])
def test_every_member_survives_the_round(name, tmp_path, tiny_tokenizer):
    args = replace(FAMILY[name], vocab_size=390)  # more than the tokenizer has
    source = random_source(args)
    shutil.copyfile(tiny_tokenizer.path, tmp_path / "tokenizer.model")
    source = Source(args, source.tensors, tmp_path / "tokenizer.model")
    place = tmp_path / "first"
    folders.commit(place, lambda p: convert.fill(convert.Config(src="x", dst=p), source, p))
    first = weights(place)
    for to in ROUND:
        place = converted(place, to, **({"gguf_type": "F32"} if to == "gguf" else {}))
    found = places.open_source(place)
    assert same(weights(place), first)
    assert found.args.ffn_dim == args.ffn_dim
    assert (found.args.sliding_window, found.args.rope_scaling, found.args.tie_embeddings) == (
        args.sliding_window,
        args.rope_scaling,
        args.tie_embeddings,
    )


def flip(file: Path) -> None:
    """Change a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("to", ["puna", "hf", "meta"])
def test_a_folder_of_ours_with_a_flipped_bit_is_not_converted(model, to):
    place = converted(model, to)
    file = next(path for path in place.iterdir() if path.suffix in (".safetensors", ".pth"))
    flip(file)
    with pytest.raises(InputError, match=rf"{file.name}: its content differs from the SHA-256"):
        converted(place, "puna")
    assert places.open_source(place, verify=False).args.dim == 32


def test_an_adapter_on_a_base_with_a_flipped_bit_is_not_converted(model, tmp_path):
    tuned, tokenizer = checkpoint.load_tuned(model, LoraConfig(rank=2), generator())
    checkpoint.save(tmp_path / "chat", tuned, tokenizer)
    flip(model / "model.safetensors")
    with pytest.raises(InputError, match=r"model/model\.safetensors: its content differs"):
        converted(tmp_path / "chat", "puna")


def test_a_checkpoint_whose_manifest_leaves_the_weights_out_is_not_converted(model):
    record = read_json(model / "manifest.json")
    del record["files"]["model.safetensors"]
    write_json(model / "manifest.json", record)
    with pytest.raises(InputError, match=r"manifest\.json: does not list model\.safetensors"):
        converted(model, "hf")


def test_a_manifest_that_is_not_ours_is_passed_over(model):
    place = converted(model, "hf")
    (place / "manifest.json").write_text('{"name": "some model"}')
    assert same(weights(place), weights(model))


def test_a_manifest_of_a_gigabyte_is_not_read(model):
    with open(model / "manifest.json", "r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match=r"manifest\.json: has 1073741824 bytes, a manifest has"):
        converted(model, "hf")


def test_shards_merge_to_the_model_they_were_cut_from(model):
    assert same(weights(converted(model, "meta", shards=2)), weights(model))


def test_another_type_is_the_rounding_that_torch_does(model):
    wide = converted(model, "puna", dtype="float16")
    assert same(weights(wide), {n: t.to(torch.float16) for n, t in weights(model).items()})


def test_a_number_too_large_for_the_type_is_refused_and_nothing_is_left(tmp_path, tiny_tokenizer):
    big = new_model()
    big.norm.weight.data[3] = 1e6
    checkpoint.save(tmp_path / "big", big, tiny_tokenizer)
    with pytest.raises(InputError, match=r"tensor norm\.weight: holds a number that is not finite"):
        converted(tmp_path / "big", "hf", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"to": "hf", "shards": 2}, "shards=2: only --to meta has shards"),
        ({"to": "hf", "gguf_type": "Q8_0"}, "gguf_type=Q8_0: only --to gguf has it"),
        ({"to": "gguf", "dtype": "float16"}, "a GGUF's type is --gguf_type"),
    ],
)
def test_a_setting_that_the_format_lacks_is_refused(model, settings, reason):
    with pytest.raises(InputError, match=reason):
        convert.main(convert.Config(src=str(model), dst=model.with_name("x"), **settings))


def test_a_folder_with_other_files_in_it_is_not_replaced(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds thesis\.txt"):
        convert.main(convert.Config(src=str(model), dst=tmp_path / "mine", to="hf"))


def test_a_killed_conversion_leaves_nothing_under_the_name(model, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*args, **record) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(convert.folders, "seal", killed)
        with pytest.raises(Killed):
            converted(model, "hf")
    assert not model.with_name("model-hf").exists()
    converted(model, "hf")
    assert sorted(p.name for p in model.parent.iterdir()) == ["model", "model-hf"]


def test_the_command_takes_source_and_target_by_their_place(model, capsys):
    dst = model.with_name("out.gguf")
    assert cli.main(["convert", str(model), str(dst), "--to", "gguf", "--gguf_type=BF16"]) == 0
    assert same({n: t.to(torch.bfloat16) for n, t in weights(dst).items()}, weights(model))
    line = dst.with_name("out.gguf.sha256").read_text()
    assert line.endswith("  out.gguf\n") and len(line.split()[0]) == 64


@pytest.mark.parametrize("to", ["hf", "gguf"])
@pytest.mark.parametrize("place", ["model", "model/inside", "."])
def test_the_source_is_never_the_target(model, to, place):
    before = weights(model)
    with pytest.raises(InputError, match="is, holds or lies in the model to convert"):
        convert.main(convert.Config(src=str(model), dst=model.parent / place, to=to))
    assert same(weights(model), before)


def test_a_file_that_is_no_gguf_is_not_replaced(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=r"thesis\.txt: is there and is no GGUF file"):
        convert.main(convert.Config(src=str(model), dst=tmp_path / "thesis.txt", to="gguf"))
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_a_link_is_not_replaced(model, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(InputError, match="link: is a link"):
        convert.main(convert.Config(src=str(model), dst=tmp_path / "link", to="hf"))


def test_a_second_conversion_to_the_same_name_is_refused_while_the_first_runs(model, monkeypatch):
    fill = convert.fill

    def slow(config, source, place) -> None:
        code = "import sys; from puna.cli import main; sys.exit(main(sys.argv[1:]))"
        words = ["convert", str(model), str(config.dst), "--to", "hf"]
        run = [sys.executable, "-c", code, *words]
        second = subprocess.run(run, capture_output=True, text=True, check=False)
        assert second.returncode == 2 and "works in this folder" in second.stderr
        fill(config, source, place)

    monkeypatch.setattr(convert, "fill", slow)
    assert same(weights(converted(model, "hf")), weights(model))
    assert sorted(p.name for p in model.parent.iterdir()) == ["model", "model-hf"]


def test_nan_is_refused_by_name_also_where_the_type_stays(tmp_path, tiny_tokenizer):
    broken = new_model()
    broken.norm.weight.data[3] = float("nan")
    checkpoint.save(tmp_path / "broken", broken, tiny_tokenizer)
    for to in ("hf", "meta", "gguf", "puna"):
        with pytest.raises(InputError, match=r"tensor norm\.weight: holds a number"):
            converted(tmp_path / "broken", to)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


# --- what transformers makes of the folder


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("format", ["llama2", "llama3", "chatml"])
def test_transformers_takes_begin_end_and_ids_from_the_folder(tmp_path, tiny_tokenizer, format):
    transformers = pytest.importorskip("transformers")
    own = tiny_tokenizer
    if format != "llama2":
        trained(format).save(str(tmp_path / "tokenizer.json"))
        own = open_tokenizer(tmp_path / "tokenizer.json")
    args = replace(ARGS, vocab_size=own.vocab_size)
    checkpoint.save(tmp_path / "model", Transformer(args).init_weights(generator()), own)
    found = transformers.AutoTokenizer.from_pretrained(converted(tmp_path / "model", "hf"))
    assert (found.bos_token_id, found.eos_token_id) == (own.bos_id, own.eos_id)
    for text in ("A latte, please.", "  2 x flat white (oat) ", "tea\n\n\tno sugar", "🙂é"):
        ids = own.encode(text)
        assert found.encode(text, add_special_tokens=False) == ids
        assert found.decode(ids) == own.decode(ids)


# --- a real model: stories260K of llama2.c


def stories(folder: Path) -> tuple[Source, list[bytes]]:
    """The model in llama2.c's first format, and the text of its tokens; read independently."""
    data = (folder / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv, vocab, seq = struct.unpack("7i", data[:28])
    floats = torch.from_numpy(np.frombuffer(data, dtype=np.float32, offset=28).copy())
    args = ModelArgs(
        dim=dim,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=kv,
        vocab_size=abs(vocab),
        hidden_dim=hidden,
        max_seq_len=seq,
        tie_embeddings=True,
    )
    shapes, found, at = expected_tensors(args), {}, 0
    order = ["attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo"]
    order += ["ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]
    names = ["tok_embeddings.weight"]
    names += [f"layers.{n}.{part}.weight" for part in order for n in range(layers)]
    for name in [*names, "norm.weight"]:
        size = int(np.prod(shapes[name]))
        value = floats[at : at + size].reshape(shapes[name])
        found[name] = Stored(shapes[name], torch.float32, lambda value=value: value.clone())
        at += size
    words, place = [], 4
    raw = (folder / "tok512.bin").read_bytes()
    while place < len(raw):
        length = struct.unpack("i", raw[place + 4 : place + 8])[0]
        words.append(raw[place + 8 : place + 8 + length])
        place += 8 + length
    return Source(args, found, None), words


@pytest.mark.shared
@pytest.mark.filterwarnings("default")
def test_stories260k_tells_the_same_story_through_every_format(shared, tmp_path, tiny_tokenizer):
    source, words = stories(shared / "weights-stories260K")
    shutil.copyfile(tiny_tokenizer.path, tmp_path / "tokenizer.model")  # of fewer pieces
    source = Source(source.args, source.tensors, tmp_path / "tokenizer.model")
    place = tmp_path / "first"
    folders.commit(place, lambda p: convert.fill(convert.Config(src="x", dst=p), source, p))
    told = {"llama2.c": story(checkpoint.from_source(source))}
    for to in ROUND:
        place = converted(place, to, **({"gguf_type": "F32"} if to == "gguf" else {}))
        told[to] = story(checkpoint.load(place)[0])
    assert len(set(map(tuple, told.values()))) == 1
    text = b"".join(words[i] for i in told["llama2.c"]).decode()
    assert text.startswith(" Once upon a time, there was a little girl named")


def story(model) -> list[int]:
    """The greedy continuation of the beginning of a text, 100 tokens."""
    ids = [1]
    for _ in range(100):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[1:]
