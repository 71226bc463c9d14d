"""Checkpoint folders: complete and bit-equal, or refused with a reason."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from puna.errors import InputError
from puna.model import checkpoint, folders, transformer
from puna.model.heads import RewardModel, ValueModel
from puna.recipes import convert
from puna.text.files import read_json, write_json
from puna.text.tokenizer import Tokenizer
from tests.faults import Killed, kill_at_rename
from tests.models import ARGS, generator, new_model


def same(one: nn.Module, two: nn.Module) -> bool:
    """Whether two modules have the same names and bits."""
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Path:
    """A saved transformer with seed 0."""
    checkpoint.save(tmp_path / "model", new_model(), tiny_tokenizer, {"stage": "test"})
    return tmp_path / "model"


def reseal(folder: Path) -> None:
    """Give the folder a manifest that fits its changed files, so that later checks are reached."""
    record = read_json(folder / "manifest.json")
    (folder / "manifest.json").unlink()
    del record["files"], record["format"]
    folders.seal(folder, **record)


def rewrite(folder: Path, change) -> None:
    """Change the tensors of a checkpoint in place and reseal it."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    reseal(folder)


# --- round trips


def test_a_transformer_comes_back_bit_equal_with_its_settings(folder):
    model, tokenizer = checkpoint.load(folder)
    assert same(model, new_model())
    assert model.args == ARGS
    assert tokenizer.vocab_size == 384
    batch = torch.arange(20)[None]
    assert torch.equal(model(batch), new_model()(batch))


def test_a_loaded_model_can_be_trained(folder):
    model, _ = checkpoint.load(folder)
    assert all(p.requires_grad for p in model.parameters())
    model(torch.arange(5)[None]).sum().backward()


def test_half_precision_weights_keep_their_type(tmp_path, tiny_tokenizer):
    checkpoint.save(tmp_path / "half", new_model().bfloat16(), tiny_tokenizer)
    model, _ = checkpoint.load(tmp_path / "half")
    assert same(model, new_model().bfloat16())
    assert model.rope.dtype == torch.complex64


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_rotary_table_of_a_loaded_model_is_computed_once(folder, tmp_path, monkeypatch, dtype):
    calls = []
    table = transformer.rotary_table
    monkeypatch.setattr(transformer, "rotary_table", lambda args: calls.append(1) or table(args))
    copy = tmp_path / "copy"
    convert.main(convert.Config(src=str(folder), dst=copy, to="hf"))
    for place in (folder, copy):
        calls.clear()
        model, _ = checkpoint.load(place, dtype)
        assert len(calls) == 1
        assert torch.equal(model.rope, table(ARGS)) and model.rope.device.type == "cpu"


def test_a_reward_model_comes_back_with_its_head(tmp_path, tiny_tokenizer):
    model = RewardModel(new_model(), generator(7), "last+max")
    model.head.bias.data.fill_(0.5)
    checkpoint.save(tmp_path / "reward", model, tiny_tokenizer)
    loaded, _ = checkpoint.load_reward(tmp_path / "reward")
    assert same(loaded, model) and loaded.pool == "last+max"


def test_a_value_model_comes_back_with_its_head(tmp_path, tiny_tokenizer):
    model = ValueModel(new_model(), generator(7))
    checkpoint.save(tmp_path / "value", model, tiny_tokenizer)
    assert same(checkpoint.load_value(tmp_path / "value")[0], model)


def test_tensor_names_in_the_file_are_metas(tmp_path, tiny_tokenizer):
    checkpoint.save(tmp_path / "reward", RewardModel(new_model()), tiny_tokenizer)
    names = set(load_file(tmp_path / "reward" / "model.safetensors"))
    layers = {name.split(".", 2)[2] for name in names if name.startswith("layers.1.")}
    assert layers == {
        *(f"attention.{w}.weight" for w in ("wq", "wk", "wv", "wo")),
        *(f"feed_forward.{w}.weight" for w in ("w1", "w2", "w3")),
        "attention_norm.weight",
        "ffn_norm.weight",
    }
    others = {name for name in names if not name.startswith("layers.")}
    assert others == {
        "tok_embeddings.weight",
        "norm.weight",
        "output.weight",
        "head.weight",
        "head.bias",
    }


def test_saving_the_same_model_twice_writes_the_same_bytes(tmp_path, tiny_tokenizer):
    for name in ("one", "two"):
        checkpoint.save(tmp_path / name, new_model(), tiny_tokenizer, {"step": 3})
    for name in (*checkpoint.FILES, "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_meta_is_carried_along(folder):
    assert checkpoint.meta(folder) == {"stage": "test"}


def test_a_model_of_another_class_is_refused(tmp_path, tiny_tokenizer):
    with pytest.raises(InputError, match=r"Linear cannot be saved, expected one of"):
        checkpoint.save(tmp_path / "x", nn.Linear(2, 2), tiny_tokenizer)


# --- damage


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_flipped_bit_is_found_in_every_file(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: its content differs from the SHA-256"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_truncated_file_is_found(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    expected = f"{name}: has {len(content) - 1} bytes, the manifest says {len(content)}"
    with pytest.raises(InputError, match=expected):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: is missing"):
        checkpoint.load(folder)


def test_a_folder_without_a_manifest_is_no_checkpoint(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"holds no model; a checkpoint folder"):
        checkpoint.load(folder)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: does not exist"):
        checkpoint.load(tmp_path / "nowhere")


def test_a_reward_model_is_not_taken_for_a_transformer(tmp_path, tiny_tokenizer):
    checkpoint.save(tmp_path / "reward", RewardModel(new_model()), tiny_tokenizer)
    with pytest.raises(InputError, match=r"holds a reward model, a transformer model was expected"):
        checkpoint.load(tmp_path / "reward")


def test_a_missing_tensor_is_named(folder):
    rewrite(folder, lambda tensors: tensors.pop("layers.1.attention.wq.weight"))
    with pytest.raises(InputError, match=r"tensor layers.1.attention.wq.weight is missing$"):
        checkpoint.load(folder)


def test_an_extra_tensor_is_named(folder):
    rewrite(folder, lambda tensors: tensors.update({"rope.freqs": torch.zeros(4)}))
    with pytest.raises(InputError, match=r"rope.freqs is not part of the model"):
        checkpoint.load(folder)


def test_a_renamed_tensor_is_named_on_both_sides(folder):
    rewrite(
        folder, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("output.weight")})
    )
    expected = "output.weight is missing; lm_head.weight is not part of the model"
    with pytest.raises(InputError, match=expected):
        checkpoint.load(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder):
    rewrite(folder, lambda tensors: tensors.update({"norm.weight": torch.ones(16)}))
    with pytest.raises(InputError, match=r"norm.weight has shape \[16\], expected \[32\]"):
        checkpoint.load(folder)


def test_a_tensor_of_whole_numbers_is_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({"norm.weight": torch.ones(32).int()}))
    with pytest.raises(InputError, match=r"norm.weight is torch.int32"):
        checkpoint.load(folder)


def test_of_many_differences_three_are_named_and_the_rest_counted(folder):
    write_json(folder / "params.json", {**checkpoint.params(ARGS), "n_layers": 3})
    reseal(folder)
    with pytest.raises(InputError, match=r"is missing; and 6 more$"):
        checkpoint.load(folder)


def test_a_file_that_is_not_safetensors_is_refused_even_if_sealed(folder):
    (folder / "model.safetensors").write_bytes(b"not tensors")
    reseal(folder)
    with pytest.raises(InputError, match=r"is not a safetensors file"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 2}, "unknown setting n_layer, meant n_layers?"),
        ({"dyo": 32}, "unknown setting dyo"),
        ({"dim": "32"}, "dim is '32', a positive whole number was expected"),
        ({"n_layers": True}, "n_layers is True, a positive whole number was expected"),
        ({"norm_eps": 0}, "norm_eps is 0, a positive number was expected"),
        ({"n_heads": 5}, "dim 32 must divide by twice n_heads 5"),
        ({"n_kv_heads": 3}, "n_heads by n_kv_heads 3"),
        ({"vocab_size": 100}, "the tokenizer has 384 pieces, the model's vocab_size is 100"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_be_is_named(folder, change, message):
    write_json(folder / "params.json", {**checkpoint.params(ARGS), **change})
    reseal(folder)
    with pytest.raises(InputError) as caught:
        checkpoint.load(folder)
    assert message in str(caught.value)


def test_a_vocab_size_of_minus_one_means_that_of_the_tokenizer(folder):
    write_json(folder / "params.json", {**checkpoint.params(ARGS), "vocab_size": -1})
    reseal(folder)
    assert checkpoint.load(folder)[0].args == ARGS


# --- the commit


def test_saving_again_replaces_the_earlier_checkpoint(folder, tiny_tokenizer):
    checkpoint.save(folder, new_model(1), tiny_tokenizer)
    assert same(checkpoint.load(folder)[0], new_model(1))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("step", [1, 2], ids=["old-away", "new-in"])
def test_a_kill_during_the_replacement_leaves_the_earlier_model(
    folder, tiny_tokenizer, monkeypatch, step
):
    with monkeypatch.context() as patch:
        kill_at_rename(patch, step)
        with pytest.raises(Killed):
            checkpoint.save(folder, new_model(1), tiny_tokenizer)
    assert same(checkpoint.load(folder)[0], new_model(0))
    checkpoint.save(folder, new_model(2), tiny_tokenizer)
    assert same(checkpoint.load(folder)[0], new_model(2))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_kill_before_the_old_one_is_deleted_leaves_the_new_model(
    folder, tiny_tokenizer, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(folders.shutil, "rmtree", lambda *args, **options: None)
        checkpoint.save(folder, new_model(1), tiny_tokenizer)
    assert same(checkpoint.load(folder)[0], new_model(1))
    checkpoint.save(folder, new_model(2), tiny_tokenizer)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_kill_before_the_first_checkpoint_is_moved_in_shows_none(
    tmp_path, tiny_tokenizer, monkeypatch
):
    with monkeypatch.context() as patch:
        kill_at_rename(patch, 1)
        with pytest.raises(Killed):
            checkpoint.save(tmp_path / "model", new_model(), tiny_tokenizer)
    assert not (tmp_path / "model").exists()


def test_a_full_disk_is_reported_and_leaves_the_earlier_model_alone(
    folder, tiny_tokenizer, monkeypatch
):
    def full(*args) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", full)
        with pytest.raises(InputError, match=r"model: cannot be written: No space left"):
            checkpoint.save(folder, new_model(1), tiny_tokenizer)
    assert same(checkpoint.load(folder)[0], new_model(0))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_not_replaced(folder, tiny_tokenizer):
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis.tex, which is not part of a checkpoint"):
        checkpoint.save(folder, new_model(1), tiny_tokenizer)
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_every_file_is_flushed_before_the_folder_is_moved(tmp_path, tiny_tokenizer, monkeypatch):
    events, fsync, rename = [], os.fsync, os.rename
    flushed = lambda handle: (events.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))  # noqa: E731
    moved = lambda a, b: (events.append("move"), rename(a, b))  # noqa: E731
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", moved)
    checkpoint.save(tmp_path / "model", new_model(), tiny_tokenizer)
    before, after = events[: events.index("move")], events[events.index("move") :]
    assert {Path(path).name for path in before} >= {*checkpoint.FILES, "manifest.json"}
    assert after == ["move", str(tmp_path)]
