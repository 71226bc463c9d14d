"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors, nothing else.

PEFT's names are those of transformers' Llama, whose query and key matrices have their rows in
another order (rotary halves, not pairs): B of wq and wk is permuted on the way, A is as it is.
What a foreign adapter asks for beyond plain LoRA is refused by name, never left out in silence, and
a pickled adapter_model.bin is not read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from puna.errors import InputError
from puna.model.huggingface import LAYER, from_meta, to_meta
from puna.model.lora import PLACES, LoraConfig, adapter_tensors, config_of
from puna.model.settings import read_settings
from puna.model.source import expected_tensors
from puna.model.tensors import read_tensors
from puna.model.transformer import ModelArgs, Transformer
from puna.text.files import PathLike, write_json

FILES = ("adapter_config.json", "adapter_model.safetensors")
PREFIX = "base_model.model.model.layers."
# wq: self_attn.q_proj, and so on
THEIRS = {ours.partition(".")[2]: theirs for ours, theirs in LAYER.items() if "." in ours}
MODULE = re.compile(r"(?:(?:model\.){0,3}layers\.(\d{1,6})\.)?((?:self_attn|mlp)\.)?(\w{1,20})")
OURS = {theirs: ours for ours, theirs in THEIRS.items()}
# settings that say nothing about what the adapter computes
FREE = {
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode"),
    *("lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision"),
    *("r", "lora_alpha", "target_modules", "layers_pattern", "eva_config"),
}
# settings that may only say this
ONLY: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    # the other ways to begin (pissa, olora, corda, loftq) change the base as well
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}


def write_peft(folder: PathLike, model: Transformer, base_name: str = "") -> None:
    """Write the adapters of `model` so that PEFT can load them beside the base `base_name`.

    InputError if the model has none, or the folder cannot be written.
    """
    config, place = config_of(model), Path(folder)
    if config is None:
        raise InputError("the model has no adapters to write")
    tensors = {
        their_name(name): reorder(name, tensor, model.args, from_meta)
        for name, tensor in adapter_tensors(model).items()
    }
    try:
        place.mkdir(parents=True, exist_ok=True)
        save_file(tensors, place / FILES[1], metadata={"format": "pt"})
    except OSError as error:
        raise InputError(f"{place}: cannot be written: {error.strerror or error}") from None
    write_json(place / FILES[0], peft_config(config, base_name))


def peft_config(config: LoraConfig, base_name: str) -> dict[str, Any]:
    """The content of adapter_config.json."""
    alpha = int(config.alpha) if float(config.alpha).is_integer() else config.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": [THEIRS[name].rpartition(".")[2] for name in config.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def read_peft(folder: PathLike, args: ModelArgs) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Settings and tensors (our names and order, float32) of an adapter for a model of this shape.

    InputError names the file, and what is wrong: a setting that is missing, out of range or changes
    what the adapter computes; a tensor that is missing, unknown, of another base's shape, or not
    finite.
    """
    place = Path(folder)
    if not (place / FILES[0]).is_file():
        raise InputError(f"{place}: has no {FILES[0]}, a folder in PEFT's format was expected")
    if not (place / FILES[1]).is_file():
        pickled = (place / "adapter_model.bin").exists()
        why = "; adapter_model.bin is a pickle and is not read" * pickled
        raise InputError(f"{place}: has no {FILES[1]}{why}")
    config = read_config(place / FILES[0], args.n_layers)
    stored = read_tensors(place / FILES[1])
    expected = expected_names(args, config)
    for name, tensor in stored.items():
        check_tensor(place / FILES[1], name, tensor, expected)
    if missing := [name for name in expected if name not in stored]:
        raise InputError(f"{place / FILES[1]}: {missing[0]} is missing")
    ours = {our_name(name): tensor.float() for name, tensor in stored.items()}
    return config, {name: reorder(name, t, args, to_meta) for name, t in ours.items()}


def base_name(folder: PathLike) -> str:
    """The base model that an adapter names; empty if it names none. InputError as in `read_peft`.

    A name on the hub has to be written hf:owner/name, so that nothing is downloaded unasked.
    """
    name = read_settings(Path(folder) / FILES[0]).get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def read_config(path: Path, layers: int) -> LoraConfig:
    """The settings in an adapter_config.json for a model of so many layers.

    InputError names the setting that cannot be followed.
    """
    given = read_settings(path)
    for key in ("peft_type", "r", "lora_alpha", "target_modules"):
        if key not in given:
            raise InputError(f"{path}: {key} is missing")
    for key, value in given.items():
        if key in ONLY:
            if not any(type(value) is type(good) and value == good for good in ONLY[key]):
                wanted = " or ".join(repr(good) for good in ONLY[key])
                raise InputError(f"{path}: {key} is {value!r}, expected {wanted}")
        elif key not in FREE and value not in (None, False, "", [], {}):
            raise InputError(f"{path}: {key} is {value!r}: more than plain LoRA is not supported")
    rank, alpha, modules = given["r"], given["lora_alpha"], given["target_modules"]
    if type(rank) is not int or rank < 1:
        raise InputError(f"{path}: r is {rank!r}, expected a whole number of 1 or more")
    if type(alpha) not in (int, float):
        raise InputError(f"{path}: lora_alpha is {alpha!r}, expected a positive number")
    targets = targets_of(path, modules, layers)
    try:
        return LoraConfig(rank=rank, alpha=float(alpha), targets=targets)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def targets_of(path: Path, modules: Any, layers: int) -> tuple[str, ...]:
    """Our names, in our order, of PEFT's target_modules: a list of names, no pattern.

    A module may be named with its layer; then all layers must be there.
    """
    if not isinstance(modules, list) or not modules:
        raise InputError(f"{path}: target_modules is {modules!r}, expected a list of names")
    known = {theirs.rpartition(".")[2]: ours for ours, theirs in THEIRS.items()}
    found: dict[str, set[int]] = {}
    for module in modules:
        parts = MODULE.fullmatch(module) if isinstance(module, str) else None
        name = known.get(parts[3]) if parts else None
        if parts is None or name is None or f"{parts[2] or ''}{parts[3]}" not in f".{THEIRS[name]}":
            raise InputError(f"{path}: target_modules has {module!r}, expected {' '.join(known)}")
        named = range(layers) if parts[1] is None else (int(parts[1]),)
        found.setdefault(name, set()).update(named)
    for name, numbers in found.items():
        if numbers != set(range(layers)):
            here = f"{THEIRS[name]} in layers {sorted(numbers)}"
            raise InputError(f"{path}: target_modules has {here}, expected all {layers} layers")
    return tuple(name for name in THEIRS if name in found)


def expected_names(args: ModelArgs, config: LoraConfig) -> dict[str, tuple[int, ...]]:
    """PEFT's name and the shape of every tensor of an adapter for a model of this shape."""
    sizes = expected_tensors(args)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(args.n_layers):
        for name in config.targets:
            out, width = sizes[f"layers.{layer}.{PLACES[name]}.{name}.weight"]
            theirs = f"{PREFIX}{layer}.{THEIRS[name]}.lora_"
            shapes[f"{theirs}A.weight"] = (config.rank, width)
            shapes[f"{theirs}B.weight"] = (out, config.rank)
    return shapes


def check_tensor(
    path: Path, name: str, tensor: Tensor, expected: Mapping[str, tuple[int, ...]]
) -> None:
    """InputError unless a tensor of that name and shape belongs to the adapter."""
    if name not in expected:
        raise InputError(f"{path}: {name[:200]} is no part of this adapter for this base")
    if tuple(tensor.shape) != expected[name]:
        here, wanted = list(tensor.shape), list(expected[name])
        why = f"{name} has shape {here}, this base and rank need {wanted}"
        raise InputError(f"{path}: was made for another base: {why}")
    if not tensor.is_floating_point():
        raise InputError(f"{path}: {name} is {tensor.dtype}, expected floating-point numbers")
    if not torch.isfinite(tensor).all():
        raise InputError(f"{path}: {name} holds a number that is not finite")


def their_name(name: str) -> str:
    """PEFT's name: layers.0.attention.wq.lora_a is ...layers.0.self_attn.q_proj.lora_A.weight."""
    _, layer, _, matrix, which = name.split(".")
    return f"{PREFIX}{layer}.{THEIRS[matrix]}.lora_{which[-1].upper()}.weight"


def our_name(name: str) -> str:
    """The reverse of `their_name`."""
    layer, room, matrix, which, _ = name.removeprefix(PREFIX).split(".")
    ours = OURS[f"{room}.{matrix}"]
    place = "attention" if room == "self_attn" else "feed_forward"
    return f"layers.{layer}.{place}.{ours}.lora_{which[-1].lower()}"


def reorder(name: str, tensor: Tensor, args: ModelArgs, order: Any) -> Tensor:
    """The tensor in the other layout: the rows of B of wq and wk change places, others stay."""
    _, _, _, matrix, which = name.split(".")
    heads = {"wq": args.n_heads, "wk": args.kv_heads}.get(matrix)
    wide = tensor.detach().cpu()
    return order(wide, heads) if heads and which == "lora_b" else wide.contiguous()
