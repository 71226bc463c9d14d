"""Meta's folder: shards for model parallelism, merged, split, checked."""

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from puna.errors import InputError
from puna.model import places
from puna.model.meta import metas_params, open_meta, shard_shapes, verify_checklist, write_meta
from puna.model.presets import preset
from puna.model.source import Source, Stored, expected_tensors
from puna.model.transformer import ModelArgs, Transformer
from puna.text.files import read_json, write_json
from puna.text.tokenizer import Tokenizer
from tests.models import generator
from tests.pickles import growth

# Llama 2 70B made small: 64 heads, 8 key/value heads, a feed-forward width by the multiplier 1.3
TWIN = ModelArgs(
    dim=128,
    n_layers=2,
    n_heads=64,
    n_kv_heads=8,
    vocab_size=384,
    multiple_of=32,
    ffn_dim_multiplier=1.3,
)
LAST = "layers.1.feed_forward.w2.weight"


def weights(args: ModelArgs = TWIN) -> dict[str, Tensor]:
    """The tensors of a new model in bfloat16, its norms no longer all one."""
    state = Transformer(args).init_weights(generator()).bfloat16().state_dict()
    return {
        name: tensor
        if tensor.ndim > 1
        else torch.randn(len(tensor), generator=generator()).to(tensor)
        for name, tensor in state.items()
    }


def source(tokenizer: Tokenizer, tensors: dict[str, Tensor], args: ModelArgs = TWIN) -> Source:
    """A model in memory as if it were in a file."""
    stored = {n: Stored(tuple(t.shape), t.dtype, lambda t=t: t.clone()) for n, t in tensors.items()}
    return Source(args, stored, tokenizer.path)


def shard(tensors: dict[str, Tensor], shards: int) -> list[dict[str, Tensor]]:
    """Every tensor cut by the table of Meta's release: each axis written out."""
    axis = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w3": 0, "w2": 1}
    axis |= {"tok_embeddings": 1, "output": 0}
    pieces: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    for name, tensor in tensors.items():
        kind = name.split(".")[-2]
        parts = [tensor] * shards if "norm" in kind else tensor.chunk(shards, axis[kind])
        for piece, part in zip(pieces, parts, strict=True):
            piece[name] = part.clone()
    return pieces


@pytest.fixture
def released(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Path:
    """A folder of two shards as Meta releases it: rope.freqs inside, vocab_size -1."""
    folder = tmp_path / "llama" / "twin"
    folder.mkdir(parents=True)
    for number, piece in enumerate(shard(weights(), 2)):
        piece["rope.freqs"] = torch.ones(1)
        torch.save(piece, folder / f"consolidated.{number:02}.pth")
    settings = {"dim": 128, "n_layers": 2, "n_heads": 64, "n_kv_heads": 8, "norm_eps": 1e-5}
    settings |= {"vocab_size": -1, "multiple_of": 32, "ffn_dim_multiplier": 1.3}
    write_json(folder / "params.json", settings)
    shutil.copyfile(tiny_tokenizer.path, folder / "tokenizer.model")
    return folder


def rewrite(folder: Path, number: int, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of one shard."""
    path = folder / f"consolidated.{number:02}.pth"
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)


def same(found: Source, expected: dict[str, Tensor]) -> bool:
    """Whether a source holds exactly these tensors."""
    return found.tensors.keys() == expected.keys() and all(
        torch.equal(stored.read(), expected[name]) and stored.dtype == expected[name].dtype
        for name, stored in found.tensors.items()
    )


# --- shapes


def test_a_shard_of_70b_has_the_shapes_of_meta_s_release():
    shapes = shard_shapes(preset("llama2-70b"), 8)
    first = {
        name.removeprefix("layers.0.").removesuffix(".weight"): s for name, s in shapes.items()
    }
    assert {name: s for name, s in first.items() if not name.startswith("layers")} == {
        "tok_embeddings": (32000, 1024),
        "attention.wq": (1024, 8192),
        "attention.wk": (128, 8192),
        "attention.wv": (128, 8192),
        "attention.wo": (8192, 1024),
        "feed_forward.w1": (3584, 8192),
        "feed_forward.w2": (8192, 3584),
        "feed_forward.w3": (3584, 8192),
        "attention_norm": (8192,),
        "ffn_norm": (8192,),
        "norm": (8192,),
        "output": (4000, 8192),
    }
    assert len(shapes) == 80 * 9 + 3


def test_a_shard_of_13b_has_the_shapes_of_meta_s_release():
    shapes = shard_shapes(preset("llama2-13b"), 2)
    assert shapes["layers.39.attention.wq.weight"] == (2560, 5120)
    assert shapes["layers.39.attention.wo.weight"] == (5120, 2560)
    assert shapes["layers.39.feed_forward.w1.weight"] == (6912, 5120)
    assert shapes["layers.39.feed_forward.w2.weight"] == (5120, 6912)
    assert shapes["tok_embeddings.weight"] == (32000, 2560)
    assert shapes["output.weight"] == (16000, 5120)


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_the_shards_of_70b_put_together_have_the_shapes_of_the_model(shards):
    with torch.device("meta"):
        pieces = [
            {name: torch.empty(shape) for name, shape in shard_shapes(args, shards).items()}
            for args in [preset("llama2-70b")] * shards
        ]
    whole = expected_tensors(preset("llama2-70b"))
    for name in (
        "tok_embeddings.weight",
        "layers.79.attention.wo.weight",
        "layers.7.feed_forward.w2.weight",
    ):
        assert torch.cat([piece[name] for piece in pieces], 1).shape == whole[name]
    for name in (
        "output.weight",
        "layers.79.attention.wk.weight",
        "layers.7.feed_forward.w3.weight",
    ):
        assert torch.cat([piece[name] for piece in pieces], 0).shape == whole[name]


@pytest.mark.parametrize(
    ("args", "shards", "fault"),
    [
        ("llama2-70b", 16, "n_kv_heads 8 does not divide by 16"),
        ("llama2-7b", 3, "n_heads 32 does not divide by 3"),
        ("llama2-7b", 0, "0 shards: 1 to 64 were expected"),
        ("llama2-7b", 128, "128 shards: 1 to 64 were expected"),
    ],
)
def test_a_number_of_shards_that_does_not_fit_is_refused(args, shards, fault):
    with pytest.raises(InputError, match=fault):
        shard_shapes(preset(args), shards)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"vocab_size": 385}, "vocab_size 385 does not divide by 2"),
        ({"hidden_dim": 333}, "feed-forward width 333 does not divide by 2"),
        ({"n_kv_heads": 1}, "n_kv_heads 1 does not divide by 2"),
    ],
)
def test_a_setting_that_does_not_divide_is_named(change, fault):
    with pytest.raises(InputError, match=fault):
        shard_shapes(dataclasses.replace(TWIN, **change), 2)


# --- merged


def test_shards_are_merged_equal_to_what_was_cut(released):
    assert same(open_meta(released), weights())


def test_settings_and_tokenizer_of_a_release_are_found(released):
    found = open_meta(released)
    assert found.args == TWIN
    assert found.tokenizer == released / "tokenizer.model"


def test_a_tokenizer_one_folder_above_is_found(released):
    shutil.move(released / "tokenizer.model", released.parent)
    found = open_meta(released)
    assert found.tokenizer == released.parent / "tokenizer.model"
    assert found.args.vocab_size == 384


def test_embeddings_cut_by_rows_as_llama_3_s_are_merged_too(released):
    halves = weights()["tok_embeddings.weight"].chunk(2, 0)
    for number in range(2):
        piece = {"tok_embeddings.weight": halves[number].clone()}
        rewrite(released, number, lambda tensors, piece=piece: tensors.update(piece))
    assert same(open_meta(released), weights())


def test_opening_reads_no_tensor(released):
    path = released / "consolidated.01.pth"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # in the middle of a matrix
    path.write_bytes(content)
    found = open_meta(released)
    with pytest.raises(InputError, match=r"consolidated.01.pth: .* is damaged"):
        same(found, weights())


def test_a_norm_that_differs_between_shards_is_refused_when_read(released):
    rewrite(released, 1, lambda tensors: tensors["norm.weight"].add_(1))
    norm = open_meta(released).tensors["norm.weight"]
    expected = r"consolidated.01.pth: tensor norm.weight differs from that in consolidated.00.pth"
    with pytest.raises(InputError, match=expected):
        norm.read()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t.pop(LAST), f"tensor {LAST} is missing$"),
        (lambda t: t.update(x=torch.ones(2)), "tensor x is not part of the model$"),
        (
            lambda t: t.update({LAST: torch.ones(2, 2)}),
            r"has shape \[2, 2\], expected \[128, 224\]",
        ),
        (lambda t: t.update({LAST: t[LAST].float()}), r"is torch.float32, .* torch.bfloat16"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_with_its_shard(released, change, fault):
    rewrite(released, 1, change)
    with pytest.raises(InputError, match=rf"consolidated.01.pth: .*{fault}"):
        open_meta(released)


def test_whole_numbers_as_weights_are_refused(released):
    for number in range(2):
        rewrite(released, number, lambda tensors: tensors.update({LAST: tensors[LAST].int()}))
    with pytest.raises(InputError, match=r"w2.weight is torch.int32, .* one floating type"):
        open_meta(released)


@pytest.mark.parametrize(
    ("old", "new"),
    [("consolidated.00.pth", "x"), ("consolidated.01.pth", "consolidated.02.pth")],
)
def test_a_gap_in_the_shards_is_refused(released, old, new):
    (released / old).rename(released / new)
    with pytest.raises(InputError, match=r"consolidated.00.pth, .01.pth and so on without a gap"):
        open_meta(released)


def test_a_shard_that_is_missing_at_the_end_is_refused_by_its_shapes(released):
    (released / "consolidated.01.pth").unlink()
    with pytest.raises(InputError, match=r"tok_embeddings.weight has shape \[384, 64\], expected"):
        open_meta(released)


def test_a_folder_without_settings_is_refused(released):
    (released / "params.json").unlink()
    with pytest.raises(InputError, match=r"twin: has no params.json"):
        open_meta(released)


def test_a_vocabulary_by_the_tokenizer_needs_one(released):
    (released / "tokenizer.model").unlink()
    with pytest.raises(InputError, match=r"vocab_size is -1, and no tokenizer.model"):
        open_meta(released)


def test_settings_of_a_gigabyte_are_not_read(released):
    with open(released / "params.json", "r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match=r"params\.json: has 1073741824 bytes"):
        open_meta(released)


def test_a_million_million_layers_are_refused_without_being_listed(released):
    settings = read_json(released / "params.json") | {"n_layers": 10**12}
    write_json(released / "params.json", settings)
    with pytest.raises(InputError, match=r"n_layers"):
        open_meta(released)


def test_a_pickle_among_the_shards_is_refused(released):
    whole = torch.load(released / "consolidated.00.pth", weights_only=True)
    torch.save(whole, released / "consolidated.00.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"consolidated.00.pth: is not a zip .pth"):
        open_meta(released)


# --- split


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_every_shard_holds_what_the_table_says(tmp_path, tiny_tokenizer, shards):
    write_meta(source(tiny_tokenizer, weights()), tmp_path / "out", shards)
    assert len(list((tmp_path / "out").glob("*.pth"))) == shards
    for number, expected in enumerate(shard(weights(), shards)):
        path = tmp_path / "out" / f"consolidated.{number:02}.pth"
        found = torch.load(path, weights_only=True)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_what_was_split_is_merged_equal(tmp_path, tiny_tokenizer, shards):
    write_meta(source(tiny_tokenizer, weights()), tmp_path / "out", shards)
    verify_checklist(tmp_path / "out")
    found = open_meta(tmp_path / "out")
    assert same(found, weights())
    assert found.args == TWIN


def test_eight_shards_are_written_from_two(tmp_path, released):
    write_meta(open_meta(released), tmp_path / "eight", 8)
    write_meta(open_meta(tmp_path / "eight"), tmp_path / "two", 2)
    for number, expected in enumerate(shard(weights(), 2)):
        path = tmp_path / "two" / f"consolidated.{number:02}.pth"
        found = torch.load(path, weights_only=True)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_tensor_is_read_once_for_all_shards(tmp_path, tiny_tokenizer):
    whole = source(tiny_tokenizer, weights())
    reads: Counter[str] = Counter()

    def counted(name: str, stored: Stored) -> Stored:
        def read() -> Tensor:
            reads[name] += 1
            return stored.read()

        return dataclasses.replace(stored, read=read)

    tensors = {name: counted(name, stored) for name, stored in whole.tensors.items()}
    write_meta(dataclasses.replace(whole, tensors=tensors), tmp_path / "out", 8)
    assert reads == Counter(dict.fromkeys(tensors, 1))


def test_splitting_and_merging_take_little_more_memory_than_the_largest_tensor(
    tmp_path, tiny_tokenizer
):
    args = dataclasses.replace(TWIN, n_layers=1, vocab_size=1 << 17)
    largest = (1 << 17) * 128 * 4
    shapes = expected_tensors(args).items()
    stored = {
        name: Stored(shape, torch.float32, lambda shape=shape: torch.zeros(shape))
        for name, shape in shapes
    }
    write_meta(Source(args, stored, tiny_tokenizer.path), tmp_path / "8", 8)
    opened = open_meta(tmp_path / "8")
    assert growth(lambda: write_meta(opened, tmp_path / "4", 4)) < 1.25 * largest + (16 << 20)


def test_a_model_without_a_tokenizer_is_refused(tmp_path, tiny_tokenizer):
    whole = dataclasses.replace(source(tiny_tokenizer, weights()), tokenizer=None)
    with pytest.raises(InputError, match="holds a tokenizer, the model has none"):
        write_meta(whole, tmp_path / "meta")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path, tiny_tokenizer):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(InputError, match=r"holds files, a new or empty folder was expected"):
        write_meta(source(tiny_tokenizer, weights()), tmp_path)
    assert (tmp_path / "note").read_text() == "mine"


def test_a_source_without_one_of_its_tensors_is_refused(tmp_path, tiny_tokenizer):
    tensors = weights()
    del tensors[LAST]
    with pytest.raises(InputError, match=rf"the model to write: tensor {LAST} is missing"):
        write_meta(source(tiny_tokenizer, tensors), tmp_path / "out")


# --- settings


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "llama2-7b",
            '{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, '
            '"norm_eps": 1e-05, "vocab_size": 32000}',
        ),
        (
            "llama2-70b",
            '{"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, '
            '"n_kv_heads": 8, "n_layers": 80, "norm_eps": 1e-05, "vocab_size": 32000}',
        ),
    ],
)
def test_settings_are_those_of_meta_s_release(name, expected):
    assert metas_params(preset(name)) == json.loads(expected)


@pytest.mark.parametrize("width", [1536, 8192, 14336, 11008, 1000, 5632, 22016, 28672])
@pytest.mark.parametrize("dim", [576, 2048, 4096, 8192])
def test_a_feed_forward_width_is_written_in_terms_of_meta_s_rule(dim, width):
    settings = metas_params(ModelArgs(dim=dim, hidden_dim=width))
    assert "hidden_dim" not in settings
    hidden = int(2 * (4 * dim) / 3)  # Meta's rule, written out
    if "ffn_dim_multiplier" in settings:
        hidden = int(settings["ffn_dim_multiplier"] * hidden)
    multiple = settings["multiple_of"]
    assert multiple * ((hidden + multiple - 1) // multiple) == width


def test_a_width_that_the_rule_gives_anyway_changes_no_setting():
    seventy = preset("llama2-70b")
    assert metas_params(dataclasses.replace(seventy, hidden_dim=28672)) == metas_params(seventy)


def test_settings_that_meta_s_code_lacks_are_kept_and_said(tmp_path, tiny_tokenizer):
    args = dataclasses.replace(TWIN, sliding_window=16, max_seq_len=64)
    extra = write_meta(source(tiny_tokenizer, weights(), args), tmp_path / "out")
    assert extra == ["max_seq_len", "sliding_window"]
    assert read_json(tmp_path / "out" / "params.json")["sliding_window"] == 16


def test_settings_that_meta_s_code_knows_are_not_said(tmp_path, tiny_tokenizer):
    assert write_meta(source(tiny_tokenizer, weights()), tmp_path / "out") == []


# --- check sums


def test_the_checklist_holds_the_md5_of_every_other_file(tmp_path, tiny_tokenizer):
    folder = tmp_path / "out"
    write_meta(source(tiny_tokenizer, weights()), folder, 2)
    lines = (folder / "checklist.chk").read_text().splitlines()
    assert dict(line.split("  ")[::-1] for line in lines) == {
        path.name: hashlib.md5(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "checklist.chk"
    }


def test_a_changed_file_is_found_by_the_checklist(tmp_path, tiny_tokenizer):
    folder = tmp_path / "out"
    write_meta(source(tiny_tokenizer, weights()), folder, 2)
    settings = (folder / "params.json").read_text()
    (folder / "params.json").write_text(settings + "\n")
    with pytest.raises(InputError, match=r"params.json: its content differs from the MD5"):
        places.open_source(folder)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", r"checklist.chk: does not list params.json"),
        ("0" * 32 + "  ../../x\n", r"checklist.chk:1: an MD5, two blanks and a file's name"),
        ("params.json\n", r"checklist.chk:1: an MD5"),
    ],
)
def test_a_checklist_that_lists_something_else_is_refused(released, text, fault):
    (released / "checklist.chk").write_text(text)
    with pytest.raises(InputError, match=fault):
        verify_checklist(released)


def test_a_checklist_that_is_not_there_cannot_be_compared(released):
    with pytest.raises(InputError, match=r"checklist.chk: cannot be read"):
        verify_checklist(released)
