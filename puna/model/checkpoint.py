"""Checkpoint folders: a model with its settings and tokenizer, checked down to the last byte.

    model.safetensors   tensors under Meta's names, and head.weight, head.bias of a reward model
    params.json         Meta's settings
    tokenizer.model     the tokenizer the model was trained with; or tokenizer.json
    manifest.json       kind (transformer, reward, value), prompt format, meta, and the SHA-256 of
                        the others

A model with adapters is saved without its trunk (`puna.model.adapters`) and loaded on it.
The state of a training, from which it goes on as if never stopped, is in `puna.model.state`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from safetensors.torch import save_file
from torch import nn

from puna.errors import InputError
from puna.model import adapters, folders, lora, places
from puna.model.heads import Pool, RewardModel, ValueModel
from puna.model.lora import LoraConfig
from puna.model.settings import model_args, params
from puna.model.source import Source
from puna.model.state import load_state, save_state
from puna.model.tensors import read_tensors, refuse_differences
from puna.model.transformer import ModelArgs, Transformer
from puna.text.files import PathLike, write_json
from puna.text.tokenizer import Tokenizer, open_tokenizer

__all__ = [
    "load",
    "load_reward",
    "load_state",
    "load_tuned",
    "load_value",
    "meta",
    "save",
    "save_state",
]

KINDS: Mapping[str, type[nn.Module]] = {
    "transformer": Transformer,
    "reward": RewardModel,
    "value": ValueModel,
}
FILES = ("model.safetensors", "params.json")
M = TypeVar("M", bound=nn.Module)
TRUNK = "transformer."  # where RewardModel and ValueModel keep their transformer


def save(
    folder: PathLike, model: nn.Module, tokenizer: Tokenizer, meta: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint folder atomically, replacing an earlier one of that name.

    meta: JSON values carried along in the manifest (stage, step). InputError for a model of another
    class, or if the folder holds files that are not a checkpoint's.
    """
    kind = next((kind for kind, cls in KINDS.items() if type(model) is cls), None)
    if kind is None:
        raise InputError(f"{type(model).__name__} cannot be saved, expected one of {list(KINDS)}")
    trunk = model if isinstance(model, Transformer) else model.transformer
    assert isinstance(trunk, Transformer)

    def write(place: Path) -> None:
        base: dict[str, Any] = {}
        if lora.config_of(trunk) is not None:
            base = adapters.write(place, Path(folder), model, trunk)
        else:
            tensors = {name.removeprefix(TRUNK): t for name, t in model.state_dict().items()}
            whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            save_file(whole, place / FILES[0])
        write_json(place / FILES[1], params(trunk.args))
        tokenizer.save(place)
        record = {"prompt_format": tokenizer.format, "meta": dict(meta or {}), **base}
        if isinstance(model, RewardModel):
            record["pool"] = model.pool
        folders.seal(place, kind=kind, **record)

    folders.commit(Path(folder), write)


def load(where: PathLike, dtype: torch.dtype | None = None) -> tuple[Transformer, Tokenizer]:
    """The transformer and tokenizer of a model in any format (`puna.model.places`), on the CPU.

    dtype: of the weights; None: the type saved, and float32 for a model that is not a checkpoint of
    ours, which somebody may want to train. With a dtype, adapters are merged. InputError names what
    differs: a hash, a tensor that is missing, unknown or of another shape, a setting.
    """
    path = places.locate(Path(where))
    if places.format_of(path) == "puna":
        model, tokenizer = _load(path, "transformer", lambda transformer: transformer)
        if dtype and lora.config_of(model):  # others share its trunk: that keeps its type
            return from_source(places.open_source(path), dtype), tokenizer
        for weight in model.parameters() if dtype else ():
            weight.data = weight.data.to(dtype)
        return model, tokenizer
    source = places.open_source(path)
    tokenizer = tokenizer_for(source, path)
    return from_source(source, dtype or torch.float32), tokenizer


def tokenizer_for(source: Source, place: PathLike, format: str | None = None) -> Tokenizer:
    """The tokenizer of a model in any format, in its own or another prompt format.

    InputError: the model has none, or it has more ids than the model has embeddings.
    """
    if source.tokenizer is None:
        raise InputError(f"{place}: has no tokenizer.model and no tokenizer.json")
    tokenizer = open_tokenizer(source.tokenizer, format or source.meta.get("prompt_format"))
    refuse_size(Path(place), tokenizer, source.args)
    return tokenizer


def refuse_size(place: Path, tokenizer: Tokenizer, args: ModelArgs) -> None:
    """InputError if the tokenizer has ids that the model has no embedding for."""
    if tokenizer.vocab_size > args.vocab_size:
        raise InputError(
            f"{place}: the tokenizer has {tokenizer.vocab_size} pieces, "
            f"the model's vocab_size is {args.vocab_size}"
        )


def from_source(source: Source, dtype: torch.dtype = torch.float32) -> Transformer:
    """The transformer of a model in any format. InputError: a tensor holds NaN or infinity."""
    with torch.device("meta"):  # shapes only: the weights come from the file
        model = Transformer(source.args)
    for name, tensor in source.tensors.items():
        value = tensor.read().to(dtype)
        if not torch.isfinite(value).all():
            raise InputError(f"tensor {name}: holds NaN or infinity")
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, nn.Parameter(value))
    return model


def load_tuned(
    folder: PathLike, config: LoraConfig, generator: torch.Generator
) -> tuple[Transformer, Tokenizer]:
    """The transformer to train and its tokenizer: whole, or frozen with adapters to train.

    A checkpoint that holds an adapter goes on with it, whatever the rank; else rank 0 gives the
    model of `load` in float32, and a rank above 0 new adapters, drawn from the generator, on the
    shared trunk. InputError as in `load`, or for settings that differ from those of the adapter.
    """
    place = places.locate(Path(folder))
    name = "" if place == Path(folder) else places.pinned(str(folder), place)  # smollm2, hf:...
    if adapters.holds(place):
        model, tokenizer = load(place)
        found = lora.config_of(model)
        assert found is not None
        adapters.refuse_other(place, found, config)
        return model, tokenizer
    if config.rank == 0:
        return load(place, torch.float32)
    return adapters.fresh(place, config, generator, load, name)


def load_reward(folder: PathLike) -> tuple[RewardModel, Tokenizer]:
    """The reward model and tokenizer of a checkpoint folder; errors as in `load`."""
    place = folders.current(Path(folder))
    pool = folders.manifest(place).get("pool", "last")
    if pool not in get_args(Pool):
        raise InputError(f"{place / folders.MANIFEST}: pool is {pool!r}, expected {get_args(Pool)}")
    return _load(place, "reward", lambda transformer: RewardModel(transformer, pool=pool))


def load_value(folder: PathLike) -> tuple[ValueModel, Tokenizer]:
    """The value model and tokenizer of a checkpoint folder; errors as in `load`."""
    return _load(Path(folder), "value", ValueModel)


def meta(folder: PathLike) -> dict[str, Any]:
    """What `save` was given as meta. InputError if the folder is no checkpoint."""
    return dict(folders.manifest(folders.current(Path(folder))).get("meta") or {})


def _load(folder: Path, kind: str, build: Callable[[Transformer], M]) -> tuple[M, Tokenizer]:
    folder = folders.current(folder)
    record = folders.manifest(folder)
    files = adapters.files(record) if "base" in record else FILES
    if folders.verify(folder, files).get("kind") != kind:
        raise InputError(
            f"{folder}: holds a {record.get('kind')} model, a {kind} model was expected"
        )
    tokenizer = open_tokenizer(folder, record.get("prompt_format"))
    args = model_args(folder / FILES[1], tokenizer.vocab_size)
    refuse_size(folder, tokenizer, args)
    if "base" in record:
        model = build(adapters.read(folder, record, args, load, places.locate))
        adapters.read_head(folder, model)
        return model, tokenizer
    with torch.device("meta"):  # shapes only: the weights come from the file
        transformer = Transformer(args)
        model = build(transformer)
    tensors = read_tensors(folder / FILES[0])
    names = {name.removeprefix(TRUNK): name for name in model.state_dict()}
    shapes = {short: model.state_dict()[name] for short, name in names.items()}
    refuse_differences(folder / FILES[0], tensors, shapes)
    model.load_state_dict({names[n]: tensor for n, tensor in tensors.items()}, assign=True)
    return model, tokenizer
