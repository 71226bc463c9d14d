"""Checkpoints that hold adapters only, and the trunk that they share.

    adapter_config.json, adapter_model.safetensors   the adapter, as PEFT reads it
    head.safetensors                                 head of a reward or value model
    params.json, the tokenizer, manifest.json        as in any checkpoint

The manifest's "base" says where the trunk is (`folder`: relative to the checkpoint; `path`: its
whole path, or its name such as smollm2), the SHA-256 of its weights, and how it is held in memory
(`stored`: none, int8, nf4). A trunk is read once in a process and shared by every model that is
loaded on it. It may be a model in any format that `puna.model.places` knows.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors.torch import save_file
from torch import nn

from puna.errors import InputError
from puna.model import folders, lora, peft
from puna.model.lora import LoraConfig, Trunk
from puna.model.quantised import KINDS
from puna.model.tensors import read_tensors, refuse_differences
from puna.model.transformer import ModelArgs, Transformer
from puna.text.files import sha256
from puna.text.tokenizer import Tokenizer

HEAD = "head.safetensors"
WEIGHTS = "model.safetensors"
ENDINGS = (".safetensors", ".pth", ".gguf")  # of files of weights
Loader = Callable[[Path], tuple[Transformer, Tokenizer]]  # `checkpoint.load`
Locate = Callable[[Path], Path]  # `places.locate`: the path of a model that is given by name

_trunks: WeakValueDictionary[tuple[Path, str, str], Trunk] = WeakValueDictionary()


def holds(folder: Path) -> bool:
    """Whether a checkpoint holds an adapter and no weights of its own."""
    place = folders.current(folder)
    return (place / folders.MANIFEST).is_file() and "base" in folders.manifest(place)


def files(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that a manifest of an adapter's checkpoint has to list."""
    head = (HEAD,) * (record.get("kind") != "transformer")
    return (*peft.FILES, *head, "params.json")


def trunk(place: Path, stored: str, load: Loader, name: str = "") -> Trunk:
    """The frozen model at a path, shared: read once in a process as long as it is used.

    stored: how its matrices are held (none, int8, nf4); name: what the user calls it, if that is
    no path. InputError as in `load`, or if it is an adapter itself.
    """
    if holds(place):
        raise InputError(f"{place}: holds an adapter, a base model was expected")
    key = (place.resolve(), fingerprint(place), stored)
    found = _trunks.get(key)
    if found is None:
        with torch.inference_mode(False):
            model, tokenizer = load(place)
            frozen = lora.freeze(model, stored)  # type: ignore[arg-type]
            found = Trunk(place, key[1], frozen, tokenizer, name)
        _trunks[key] = found
    return found


def adopt(place: Path, model: Transformer) -> Trunk:
    """A model that was loaded whole from `place`, frozen in place to be a trunk."""
    return Trunk(place, fingerprint(place), lora.freeze(model))


def fingerprint(place: Path) -> str:
    """The SHA-256 of a base's weights: as the manifest of a checkpoint has it, or of the file.

    Weights in several files: of their names and hashes. InputError if nothing is there.
    """
    here = folders.current(place)
    if here.is_file():
        return _file_hash(here)
    if (here / folders.MANIFEST).is_file() and folders.manifest(here).get("kind") == "transformer":
        record = folders.manifest(here)["files"].get(WEIGHTS)
        if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
            raise InputError(f"{here / folders.MANIFEST}: does not list {WEIGHTS}")
        return record["sha256"]
    found = sorted(path for path in here.glob("*") if path.suffix in ENDINGS)
    if not found:
        raise InputError(f"{place}: there is no model here")
    if len(found) == 1:
        return _file_hash(found[0])
    hashes = [f"{path.name} {_file_hash(path)}" for path in found]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def fresh(
    place: Path, config: LoraConfig, generator: torch.Generator, load: Loader, name: str = ""
) -> tuple[Transformer, Tokenizer]:
    """New adapters on the shared trunk of a model; arguments and errors as in `trunk`."""
    base = trunk(place, config.base, load, name)
    model = lora.attach(lora.share(base.model), config, generator, base)
    return model, base.tokenizer


def refuse_other(place: Path, found: LoraConfig, config: LoraConfig) -> None:
    """InputError unless settings say no adapters, or the very ones that the checkpoint holds."""
    if config.rank == 0:
        return
    for name in ("rank", "alpha", "targets", "base"):
        here, wanted = getattr(found, name), getattr(config, name)
        if here != wanted and (name != "targets" or set(here) != set(wanted)):
            raise InputError(
                f"{place}: holds an adapter with lora.{name}={here}, which is trained further; "
                f"lora.{name}={wanted} was asked for (leave it out, or merge the adapter first)"
            )


def write(place: Path, target: Path, model: nn.Module, transformer: Transformer) -> dict[str, Any]:
    """Write adapter and head of `model` into `place`; returns what the manifest says of the base.

    target: the folder that `place` will become. InputError if the base came from no checkpoint.
    """
    base, config = lora.trunk_of(transformer), lora.config_of(transformer)
    assert config is not None
    if base is None:
        raise InputError(f"{target}: the adapter's base came from no checkpoint; merge it to save")
    path = os.path.abspath(base.place)
    peft.write_peft(place, transformer, base.name or path)
    if head := head_tensors(model):
        save_file({n: t.detach().cpu().contiguous() for n, t in head.items()}, place / HEAD)
    relative = os.path.relpath(path, os.path.abspath(target))
    said = base.name or path
    record = {"folder": relative, "path": said, "sha256": base.sha256, "stored": config.base}
    return {"base": record}


def read(
    folder: Path, record: Mapping[str, Any], args: ModelArgs, load: Loader, locate: Locate
) -> Transformer:
    """The transformer of an adapter's checkpoint, on the shared trunk.

    InputError: the base is missing, has other weights or another shape, or the adapter's files are
    refused (`peft.read_peft`).
    """
    place, said = find_base(folder, record, locate)
    name = "" if os.path.isabs(said["path"]) else said["path"]
    base = trunk(place, said["stored"], load, name)
    refuse_shape(folder, args, base.model.args, place)
    config, tensors = peft.read_peft(folder, args)
    config = replace(config, base=said["stored"])  # type: ignore[arg-type]
    return lora.load_adapter(lora.share(base.model), tensors, config, base)


def find_base(
    folder: Path, record: Mapping[str, Any], locate: Locate
) -> tuple[Path, Mapping[str, str]]:
    """Where the base of an adapter is, and what the manifest says of it.

    It is beside the adapter as when it was saved, or at its old path, or has a name. InputError: it
    is missing, or has other weights.
    """
    said, manifest = record.get("base"), folder / folders.MANIFEST
    names = ("folder", "path", "sha256", "stored")
    if not isinstance(said, dict) or not all(isinstance(said.get(name), str) for name in names):
        raise InputError(f"{manifest}: base lacks one of {', '.join(names)}")
    if said["stored"] not in ("none", *KINDS):
        raise InputError(f"{manifest}: base.stored is {said['stored']!r}")
    places = [Path(os.path.normpath(folder / said["folder"])), Path(said["path"])]
    there = [place for place in places if folders.current(place).exists()]
    if not there and not os.path.isabs(said["path"]):
        there = [locate(Path(said["path"]))]
    there = [place for place in there if folders.current(place).exists()]
    if not there:
        raise InputError(f"{folder}: its base model {places[0]} is missing")
    for place in there:
        if fingerprint(place) == said["sha256"]:
            return place, said
    raise InputError(f"{folder}: its base model {there[0]} has other weights than it was made for")


def refuse_shape(folder: Path, args: ModelArgs, base: ModelArgs, place: Path) -> None:
    """InputError if the settings beside an adapter are not those of its base."""
    if base != args:
        raise InputError(f"{folder / 'params.json'}: differs from the settings of the base {place}")


def read_head(folder: Path, model: nn.Module) -> None:
    """Fill the head of a reward or value model. InputError names a tensor that differs."""
    expected = head_tensors(model)
    if not expected:
        return
    tensors = read_tensors(folder / HEAD)
    refuse_differences(folder / HEAD, tensors, expected)
    for name, tensor in expected.items():
        tensor.data.copy_(tensors[name])


def head_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a reward or value model has beside its transformer: "head.weight" and so on."""
    if isinstance(model, Transformer):
        return {}
    named = model.named_parameters()
    return {name: tensor for name, tensor in named if not name.startswith("transformer.")}


def _file_hash(path: Path) -> str:
    """The SHA-256 of a file, computed once for each of its states."""
    state = path.stat()
    return _hashed(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hashed(path: Path, size: int, changed: int) -> str:
    return sha256(path)
