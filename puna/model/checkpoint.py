"""Checkpoint folders: a model with its settings and tokenizer, checked down to the last byte.

    model.safetensors   tensors under Meta's names, and head.weight, head.bias of a reward model
    params.json         Meta's settings
    tokenizer.model     the tokenizer the model was trained with
    manifest.json       kind (transformer, reward, value), meta, and the SHA-256 of the others

A model with adapters is saved without its trunk (`puna.model.adapters`) and loaded on it.
The state of a training, from which it goes on as if never stopped, is in `puna.model.state`.
"""

import dataclasses
import difflib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from puna.errors import InputError
from puna.model import adapters, folders, lora
from puna.model.heads import RewardModel, ValueModel
from puna.model.lora import LoraConfig
from puna.model.state import load_state, save_state
from puna.model.tensors import read_tensors, refuse_differences
from puna.model.transformer import ModelArgs, Transformer, rotary_table
from puna.text.files import PathLike, read_json, sha256, write_json
from puna.text.tokenizer import Tokenizer

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
FILES = ("model.safetensors", "params.json", "tokenizer.model")
REQUIRED = ("dim", "n_layers", "n_heads", "vocab_size")
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
        shutil.copyfile(tokenizer.path, place / FILES[2])
        if sha256(place / FILES[2]) != tokenizer.sha256:
            raise InputError(f"{tokenizer.path}: has changed since it was loaded")
        folders.seal(place, kind=kind, meta=dict(meta or {}), **base)

    folders.commit(Path(folder), write)


def load(folder: PathLike) -> tuple[Transformer, Tokenizer]:
    """The transformer and tokenizer of a checkpoint folder, on the CPU, in the type saved.

    InputError names what differs: a hash, a tensor that is missing, unknown or of another shape, a
    setting.
    """
    return _load(Path(folder), "transformer", lambda transformer: transformer)


def load_tuned(
    folder: PathLike, config: LoraConfig, generator: torch.Generator
) -> tuple[Transformer, Tokenizer]:
    """The transformer to train and its tokenizer: whole, or frozen with adapters to train.

    A checkpoint that holds an adapter goes on with it, whatever the rank; else rank 0 gives the
    model of `load`, and a rank above 0 new adapters, drawn from the generator, on the shared trunk.
    InputError as in `load`, or for settings that differ from those of the adapter.
    """
    place = Path(folder)
    if adapters.holds(place):
        model, tokenizer = load(place)
        found = lora.config_of(model)
        assert found is not None
        adapters.refuse_other(place, found, config)
        return model, tokenizer
    return adapters.fresh(place, config, generator, load) if config.rank else load(place)


def load_reward(folder: PathLike) -> tuple[RewardModel, Tokenizer]:
    """The reward model and tokenizer of a checkpoint folder; errors as in `load`."""
    return _load(Path(folder), "reward", RewardModel)


def load_value(folder: PathLike) -> tuple[ValueModel, Tokenizer]:
    """The value model and tokenizer of a checkpoint folder; errors as in `load`."""
    return _load(Path(folder), "value", ValueModel)


def meta(folder: PathLike) -> dict[str, Any]:
    """What `save` was given as meta. InputError if the folder is no checkpoint."""
    return dict(folders.manifest(folders.current(Path(folder))).get("meta") or {})


def params(args: ModelArgs) -> dict[str, Any]:
    """The settings as params.json holds them: Meta's names, nothing that is None."""
    return {k: v for k, v in dataclasses.asdict(args).items() if v is not None and v is not False}


def model_args(path: Path, tokenizer_size: int) -> ModelArgs:
    """Settings from a params.json; a vocab_size of -1 (Meta's files) means the tokenizer's.

    InputError names a key that is unknown, missing, of another type or out of range.
    """
    given = read_json(path)
    if not isinstance(given, dict):
        raise InputError(f"{path}: expected a JSON object of model settings")
    fields = {field.name: field for field in dataclasses.fields(ModelArgs)}
    for key in given:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise InputError(f"{path}: unknown setting {key}" + f", meant {near[0]}?" * len(near))
    for key in REQUIRED:
        if key not in given:
            raise InputError(f"{path}: {key} is missing")
    if given["vocab_size"] == -1:
        given["vocab_size"] = tokenizer_size
    for key, value in given.items():
        whole = "int" in str(fields[key].type)
        valid = type(value) is int if whole else type(value) in (int, float)
        if not (valid and value > 0):
            expected = "a positive whole number" if whole else "a positive number"
            raise InputError(f"{path}: {key} is {value!r}, {expected} was expected")
    args = ModelArgs(**given)
    if args.dim % (2 * args.n_heads) or args.n_heads % args.kv_heads:
        raise InputError(
            f"{path}: dim {args.dim} must divide by twice n_heads {args.n_heads}, "
            f"and n_heads by n_kv_heads {args.kv_heads}"
        )
    return args


def _load(folder: Path, kind: str, build: Callable[[Transformer], M]) -> tuple[M, Tokenizer]:
    folder = folders.current(folder)
    record = folders.manifest(folder)
    files = adapters.files(record) if "base" in record else FILES
    found = folders.verify(folder, files).get("kind")
    if found != kind:
        raise InputError(f"{folder}: holds a {found} model, a {kind} model was expected")
    tokenizer = Tokenizer(folder / FILES[2])
    args = model_args(folder / FILES[1], tokenizer.vocab_size)
    if tokenizer.vocab_size > args.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces, "
            f"the model's vocab_size is {args.vocab_size}"
        )
    if "base" in record:
        model = build(adapters.read(folder, record, args, load))
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
    transformer.rope = rotary_table(args)
    return model, tokenizer
