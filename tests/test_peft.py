"""Adapters in PEFT's format: PEFT reads ours, we read PEFT's, what is not plain is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from puna.errors import InputError
from puna.model import lora
from puna.model.huggingface import from_meta, to_meta
from puna.model.lora import LoraConfig
from puna.model.peft import FILES, read_peft, write_peft
from puna.model.settings import MOST_BYTES
from puna.model.transformer import ModelArgs, Transformer
from tests.models import generator, normal, random_model, their_llama

ARGS = ModelArgs(
    dim=64, n_layers=2, n_heads=8, n_kv_heads=2, vocab_size=97, multiple_of=16, max_seq_len=64
)
CONFIG = LoraConfig(rank=4, alpha=12)
TOKENS = torch.randint(0, 97, (3, 30), generator=generator())


def adapted(config: LoraConfig = CONFIG) -> Transformer:
    """A model whose adapter changes the logits by a good part of them."""
    model = lora.attach(random_model(ARGS), config, generator(1))
    for number, tensor in enumerate(lora.adapter_tensors(model).values()):
        tensor.data.copy_(normal(number, *tensor.shape, scale=0.1))
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter that we wrote."""
    write_peft(tmp_path / "adapter", adapted(), "base")
    return tmp_path / "adapter"


def settings(folder: Path, **change: Any) -> None:
    """Change adapter_config.json; None takes a setting away where it is needed."""
    path = folder / FILES[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change adapter_model.safetensors."""
    found = load_file(folder / FILES[1])
    found = {name: tensor.clone() for name, tensor in found.items()}
    change(found)
    save_file(found, folder / FILES[1])


# --- with PEFT itself


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("targets", [CONFIG.targets, ("wq", "wk"), ("w2",)], ids="-".join)
def test_peft_loads_our_adapter_and_gives_the_same_logits(tmp_path, targets):
    peft = pytest.importorskip("peft", reason="needs peft to compare with")
    ours = adapted(LoraConfig(rank=4, alpha=12, targets=targets))
    write_peft(tmp_path, ours, "base")
    theirs = peft.PeftModel.from_pretrained(their_llama(random_model(ARGS)), tmp_path).eval()
    with torch.no_grad():
        wanted, found, plain = theirs(TOKENS).logits, ours(TOKENS), random_model(ARGS)(TOKENS)
    scale = wanted.abs().max()
    assert (found - wanted).abs().max() < 1e-5 * scale
    assert (plain - wanted).abs().max() > 0.1 * scale  # the adapter does something


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "k_proj", "down_proj"]])
def test_we_load_peft_s_adapter_and_give_the_same_logits(tmp_path, targets):
    peft = pytest.importorskip("peft", reason="needs peft to compare with")
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(their_llama(random_model(ARGS)), config).eval()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(theirs.named_parameters()):
            if "lora_" in name:
                parameter.copy_(normal(number, *parameter.shape, scale=0.1))
        wanted = theirs(TOKENS).logits
    theirs.save_pretrained(tmp_path)
    found, stored = read_peft(tmp_path, ARGS)
    assert (found.rank, found.alpha) == (3, 7.0)
    ours = lora.load_adapter(random_model(ARGS), stored, found)
    with torch.no_grad():
        assert (ours(TOKENS) - wanted).abs().max() < 1e-5 * wanted.abs().max()
        plain = random_model(ARGS)(TOKENS)
    assert (plain - wanted).abs().max() > 0.1 * wanted.abs().max()


@pytest.mark.filterwarnings("default")
def test_our_merge_is_peft_s_merge(tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft to compare with")
    ours = adapted()
    write_peft(tmp_path, ours)
    theirs = peft.PeftModel.from_pretrained(
        their_llama(random_model(ARGS)), tmp_path
    ).merge_and_unload()
    value = theirs.state_dict()["model.layers.1.self_attn.v_proj.weight"]
    mine = lora.merge(ours).layers[1].attention.wv.weight
    assert (mine - value).abs().max() < 1e-6


# --- round trips


def test_an_adapter_comes_back_bit_equal(folder):
    config, found = read_peft(folder, ARGS)
    wanted = lora.adapter_tensors(adapted())
    assert config == CONFIG
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_names_and_settings_are_peft_s(folder):
    names = set(load_file(folder / FILES[1]))
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert "base_model.model.model.layers.1.mlp.gate_proj.lora_B.weight" in names
    found = json.loads((folder / FILES[0]).read_text())
    assert (found["r"], found["lora_alpha"], found["base_model_name_or_path"]) == (4, 12, "base")
    assert found["target_modules"] == [
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj")
    ]


def test_only_b_of_queries_and_keys_changes_its_order(folder):
    theirs, ours = load_file(folder / FILES[1]), lora.adapter_tensors(adapted())
    prefix = "base_model.model.model.layers.0.self_attn."
    for our, their, moved in (("wq", "q_proj", True), ("wk", "k_proj", True), ("wv", "v_proj", 0)):
        a, b = (ours[f"layers.0.attention.{our}.lora_{which}"] for which in "ab")
        assert torch.equal(theirs[f"{prefix}{their}.lora_A.weight"], a)
        assert torch.equal(theirs[f"{prefix}{their}.lora_B.weight"], b) != bool(moved)


def test_rows_of_a_head_go_from_pairs_to_halves_and_back():
    rows = torch.arange(8)[:, None]  # two heads of four rows
    assert from_meta(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(to_meta(from_meta(rows, 2), 2), rows)


def test_an_adapter_in_half_precision_is_read_as_float32(folder):
    tensors(folder, lambda t: t.update({n: v.bfloat16() for n, v in t.items()}))
    _, found = read_peft(folder, ARGS)
    assert {t.dtype for t in found.values()} == {torch.float32}


def test_targets_that_are_named_in_full_are_read(folder):
    modules = ["self_attn.q_proj", "self_attn.k_proj", "v_proj", "o_proj"]
    settings(folder, target_modules=[*modules, "mlp.up_proj", "gate_proj", "mlp.down_proj"])
    assert read_peft(folder, ARGS)[0] == CONFIG


def test_a_model_without_adapters_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"has no adapters to write"):
        write_peft(tmp_path, random_model(ARGS))


# --- what is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": 0}, r"r is 0, expected a whole number of 1 or more"),
        ({"r": -4}, r"r is -4"),
        ({"r": 4.0}, r"r is 4\.0"),
        ({"r": True}, r"r is True"),
        ({"r": 10**12}, r"lora\.rank is 1000000000000"),
        ({"lora_alpha": 0}, r"lora\.alpha is 0\.0"),
        ({"lora_alpha": "8"}, r"lora_alpha is '8', expected a positive number"),
        ({"use_dora": True}, r"use_dora is True: more than plain LoRA"),
        ({"use_rslora": True}, r"use_rslora is True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"bias": "all"}, r"bias is 'all', expected 'none'"),
        ({"rank_pattern": {"q_proj": 8}}, r"rank_pattern is \{'q_proj': 8\}"),
        ({"alpha_pattern": {"q_proj": 8}}, r"alpha_pattern"),
        ({"layers_to_transform": [0]}, r"layers_to_transform is \[0\]"),
        ({"layer_replication": [[0, 1]]}, r"layer_replication"),
        ({"fan_in_fan_out": True}, r"fan_in_fan_out is True"),
        ({"lora_bias": True}, r"lora_bias is True"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights is 'pissa'"),
        ({"peft_type": "IA3"}, r"peft_type is 'IA3', expected 'LORA'"),
        ({"task_type": "SEQ_CLS"}, r"task_type is 'SEQ_CLS'"),
        ({"auto_map": {"a": "b"}}, r"auto_map is"),
        ({"brand_new": 1}, r"brand_new is 1"),
        ({"target_modules": ".*proj"}, r"target_modules is '\.\*proj', expected a list"),
        ({"target_modules": []}, r"target_modules is \[\]"),
        ({"target_modules": ["lm_head"]}, r"target_modules has 'lm_head', expected q_proj"),
        ({"target_modules": [3]}, r"target_modules has 3"),
        ({"target_modules": ["mlp.q_proj"]}, r"target_modules has 'mlp\.q_proj'"),
        (
            {"target_modules": ["model.layers.0.self_attn.q_proj"]},
            r"target_modules has self_attn\.q_proj in layers \[0\], expected all 2 layers",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_be_followed_is_refused_by_name(folder, change, said):
    settings(folder, **change)
    with pytest.raises(InputError, match=rf"adapter_config\.json: {said}"):
        read_peft(folder, ARGS)


def test_an_alpha_that_is_not_a_number_is_refused(folder):
    path = folder / FILES[0]
    path.write_text(path.read_text().replace('"lora_alpha": 12', '"lora_alpha": NaN'))
    with pytest.raises(InputError, match=r"adapter_config\.json:1: .*NaN"):
        read_peft(folder, ARGS)


@pytest.mark.parametrize("key", ["r", "lora_alpha", "target_modules", "peft_type"])
def test_a_missing_setting_is_named(folder, key):
    found = json.loads((folder / FILES[0]).read_text())
    del found[key]
    (folder / FILES[0]).write_text(json.dumps(found))
    with pytest.raises(InputError, match=rf"adapter_config\.json: {key} is missing"):
        read_peft(folder, ARGS)


@pytest.mark.parametrize("content", ["[]", "{", "", '"a"'])
def test_settings_that_are_no_object_are_refused(folder, content):
    (folder / FILES[0]).write_text(content)
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        read_peft(folder, ARGS)


def test_settings_of_a_megabyte_are_not_read(folder):
    (folder / FILES[0]).write_text(" " * (MOST_BYTES + 1))
    with pytest.raises(InputError, match=rf"has {MOST_BYTES + 1} bytes, .* at most {MOST_BYTES}"):
        read_peft(folder, ARGS)


QUERY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(QUERY), rf"{QUERY} is missing"),
        (lambda t: t.update(other=torch.zeros(1)), r"other is no part of this adapter"),
        (
            lambda t: t.update({QUERY.replace("layers.0", "layers.9"): t[QUERY].clone()}),
            r"layers\.9\.self_attn\.q_proj\.lora_A\.weight is no part of this adapter",
        ),
        (
            lambda t: t.update({QUERY: torch.zeros(4, 128)}),
            r"another base: .* has shape \[4, 128\], this base and rank need \[4, 64\]",
        ),
        (lambda t: t.update({QUERY: t[QUERY].int()}), r"is torch\.int32, expected floating-point"),
        (lambda t: t[QUERY].fill_(float("nan")), r"holds a number that is not finite"),
    ],
    ids=["missing", "unknown", "layer", "shape", "type", "nan"],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(folder, change, said):
    tensors(folder, change)
    with pytest.raises(InputError, match=said):
        read_peft(folder, ARGS)


def test_an_adapter_for_a_model_of_another_width_is_refused(folder):
    other = ModelArgs(dim=128, n_layers=2, n_heads=8, n_kv_heads=2, vocab_size=97, multiple_of=16)
    with pytest.raises(InputError, match=r"was made for another base"):
        read_peft(folder, other)


def test_an_adapter_for_fewer_layers_is_refused(folder):
    other = ModelArgs(dim=64, n_layers=3, n_heads=8, n_kv_heads=2, vocab_size=97, multiple_of=16)
    with pytest.raises(
        InputError, match=r"layers\.2\.self_attn\.q_proj\.lora_A\.weight is missing"
    ):
        read_peft(folder, other)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 64, b"\x80" + b"\x00" * 7 + b"{"])
def test_a_file_that_is_no_safetensors_is_refused(folder, content):
    (folder / FILES[1]).write_bytes(content)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: is not a safetensors file"):
        read_peft(folder, ARGS)


def test_a_pickled_adapter_is_not_read(folder):
    (folder / FILES[1]).rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.bin is a pickle and is not read"):
        read_peft(folder, ARGS)


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no adapter_config\.json"):
        read_peft(tmp_path / "nowhere", ARGS)
