"""An adapter and its base, wherever the base is, as one model of any format."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from puna.errors import InputError
from puna.model import checkpoint, gguf, lora, places
from puna.model.lora import LoraConfig
from puna.model.peft import FILES, write_peft
from puna.model.transformer import Transformer
from puna.recipes import convert
from puna.text.files import read_json
from tests.models import ARGS, generator, new_model, normal

CONFIG = LoraConfig(rank=4, alpha=8)
TOKENS = torch.arange(40).view(2, 20)


def adapted(base: Path, config: LoraConfig = CONFIG) -> Transformer:
    """A model on the base whose adapter does something."""
    model, _ = checkpoint.load_tuned(base, config, generator(1))
    for number, tensor in enumerate(lora.adapter_tensors(model).values()):
        tensor.data.copy_(normal(number, *tensor.shape, scale=0.1))
    return model


def saved(base: Path, folder: Path, config: LoraConfig = CONFIG) -> Path:
    """A checkpoint of `adapted`."""
    model, tokenizer = adapted(base, config), checkpoint.load(base)[1]
    checkpoint.save(folder, model, tokenizer)
    return folder


def equal(one: Transformer, two: Transformer) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- merged as it is read


@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
def test_a_checkpoint_with_an_adapter_is_converted_to_the_merged_model(base, tmp_path, kind):
    folder = saved(base, tmp_path / "chat", replace(CONFIG, base=kind))
    convert.main(convert.Config(src=str(folder), dst=tmp_path / "whole"))
    wanted = lora.merge(checkpoint.load(folder)[0])
    assert equal(checkpoint.load(tmp_path / "whole")[0], wanted)


def test_a_matrix_is_merged_when_it_is_read_and_not_before(base, tmp_path, monkeypatch):
    folder = saved(base, tmp_path / "chat")
    calls = []
    fold = lora.fold
    monkeypatch.setattr(lora, "fold", lambda *given: calls.append(1) or fold(*given))
    source = places.open_source(folder)
    assert not calls
    source.tensors["layers.0.attention.wq.weight"].read()
    source.tensors["norm.weight"].read()
    assert len(calls) == 1


def test_a_matrix_without_an_adapter_is_as_it_was(base, tmp_path):
    source = places.open_source(saved(base, tmp_path / "chat", replace(CONFIG, targets=("wq",))))
    found = source.tensors["layers.0.attention.wk.weight"].read()
    assert torch.equal(found, new_model().layers[0].attention.wk.weight)


def test_a_type_that_is_asked_for_leaves_the_shared_trunk_its_own(base, tmp_path):
    folder = saved(base, tmp_path / "chat")
    other, _ = checkpoint.load(folder)
    model, _ = checkpoint.load(folder, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    wanted = lora.merge(other).bfloat16()
    assert equal(model, wanted)


def test_a_changed_adapter_is_not_converted(base, tmp_path):
    folder = saved(base, tmp_path / "chat")
    content = bytearray((folder / FILES[1]).read_bytes())
    content[-1] ^= 1
    (folder / FILES[1]).write_bytes(content)
    with pytest.raises(InputError, match=r"its content differs from the SHA-256"):
        places.open_source(folder)


# --- a base in another format, or with a name


@pytest.mark.parametrize("to", ["hf", "gguf", "meta"])
def test_the_base_may_be_a_model_in_any_format(base, tmp_path, to):
    place = tmp_path / ("model.gguf" if to == "gguf" else "model")
    more = {"gguf_type": "F32"} if to == "gguf" else {}
    convert.main(convert.Config(src=str(base), dst=place, to=to, **more))
    folder = saved(place, tmp_path / "chat")
    assert torch.equal(checkpoint.load(folder)[0](TOKENS), adapted(base)(TOKENS))


def test_another_file_in_the_place_of_a_base_is_refused(base, tmp_path):
    place = tmp_path / "model.gguf"
    convert.main(convert.Config(src=str(base), dst=place, to="gguf", gguf_type="F32"))
    folder = saved(place, tmp_path / "chat")
    gguf.write_gguf(places.open_source(base), place, "F16")
    with pytest.raises(InputError, match=r"its base model .*model\.gguf has other weights"):
        checkpoint.load(folder)


@pytest.fixture
def named(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file that the name smollm2 leads to."""
    place = tmp_path / "package" / "model.gguf"
    place.parent.mkdir()
    convert.main(convert.Config(src=str(base), dst=place, to="gguf", gguf_type="F32"))
    monkeypatch.setattr(places, "packaged", lambda: place)
    monkeypatch.chdir(tmp_path)
    return place


def test_a_base_with_a_name_is_remembered_by_it(named, tmp_path, monkeypatch):
    folder = saved(Path("smollm2"), tmp_path / "chat")
    assert read_json(folder / "manifest.json")["base"]["path"] == "smollm2"
    assert read_json(folder / FILES[0])["base_model_name_or_path"] == "smollm2"
    wanted = checkpoint.load(folder)[0](TOKENS)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(named, elsewhere / "model.gguf")  # the package is installed in another place
    monkeypatch.setattr(places, "packaged", lambda: elsewhere / "model.gguf")
    again, _ = checkpoint.load(folder)
    assert torch.equal(again(TOKENS), wanted)


def test_an_adapter_that_is_saved_again_keeps_its_base_s_name(named, tmp_path):
    model, tokenizer = checkpoint.load(saved(Path("smollm2"), tmp_path / "chat"))
    checkpoint.save(tmp_path / "again", model, tokenizer)
    assert read_json(tmp_path / "again/manifest.json")["base"]["path"] == "smollm2"


def test_a_base_with_a_name_that_is_not_installed_is_asked_for(named, tmp_path, monkeypatch):
    folder = saved(Path("smollm2"), tmp_path / "chat")
    named.unlink()

    def missing() -> Path:
        raise InputError("smollm2: not installed")

    monkeypatch.setattr(places, "packaged", missing)
    with pytest.raises(InputError, match=r"smollm2: not installed"):
        checkpoint.load(folder)


# --- a folder in PEFT's format


def test_a_folder_in_peft_s_format_is_read_as_the_model_it_makes(base, tmp_path):
    model = adapted(base)
    write_peft(tmp_path / "adapter", model, str(base))
    loaded, tokenizer = checkpoint.load(tmp_path / "adapter")
    assert equal(loaded, lora.merge(model))
    assert tokenizer.vocab_size == ARGS.vocab_size


def test_a_folder_in_peft_s_format_is_converted(base, tmp_path):
    model = adapted(base)
    write_peft(tmp_path / "adapter", model, str(base))
    convert.main(convert.Config(src=str(tmp_path / "adapter"), dst=tmp_path / "whole"))
    assert equal(checkpoint.load(tmp_path / "whole")[0], lora.merge(model))


def test_an_adapter_in_peft_s_format_without_a_base_is_refused(base, tmp_path):
    write_peft(tmp_path / "adapter", adapted(base))
    with pytest.raises(InputError, match=r"base_model_name_or_path is empty"):
        checkpoint.load(tmp_path / "adapter")


def test_an_adapter_in_peft_s_format_whose_base_is_not_there_is_refused(base, tmp_path):
    write_peft(tmp_path / "adapter", adapted(base), "owner/name")
    with pytest.raises(InputError, match=r"owner/name: does not exist"):
        checkpoint.load(tmp_path / "adapter")


def test_an_adapter_in_peft_s_format_for_another_base_is_refused(base, tmp_path, tiny_tokenizer):
    other = Transformer(replace(ARGS, dim=64)).init_weights(generator())
    checkpoint.save(tmp_path / "other", other, tiny_tokenizer)
    write_peft(tmp_path / "adapter", adapted(base), str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"was made for another base"):
        checkpoint.load(tmp_path / "adapter")


def test_an_adapter_that_names_itself_as_base_is_refused(base, tmp_path):
    folder = tmp_path / "adapter"
    write_peft(folder, adapted(base), str(folder))
    with pytest.raises(InputError, match=r"which is an adapter itself"):
        checkpoint.load(folder)
