"""An adapter and its base as one model that is not yet read: each matrix is merged as it is read.

So `puna convert` turns an adapter into a whole model of any format, one tensor at a time.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from puna.errors import InputError
from puna.model import adapters, folders, huggingface, lora, peft
from puna.model.adapters import Locate
from puna.model.quantised import KINDS
from puna.model.settings import model_args
from puna.model.source import Source, Stored

Opener = Callable[[Path], Source]  # `places.open_source`


def open_adapter(folder: Path, locate: Locate, open_base: Opener) -> Source:
    """A chat adapter's checkpoint and its base. InputError as in `adapters.read`."""
    folder = folders.current(folder)
    record = folders.verify(folder, adapters.files(folders.manifest(folder)))
    place, said = adapters.find_base(folder, record, locate)
    if adapters.holds(place):
        raise InputError(f"{folder}: its base {place} holds an adapter, a base model was expected")
    base = open_base(place)
    adapters.refuse_shape(folder, model_args(folder / "params.json"), base.args, place)
    tokenizer = huggingface.tokenizer_in(folder) or base.tokenizer
    return merged(folder, replace(base, tokenizer=tokenizer), said["stored"])


def open_peft(folder: Path, locate: Locate, open_base: Opener) -> Source:
    """A folder in PEFT's format and the base that it names: a path, smollm2 or hf:owner/name.

    InputError as in `peft.read_peft`, or if there is no such base.
    """
    path, name = folder / peft.FILES[0], peft.base_name(folder)
    if not name:
        raise InputError(f"{path}: base_model_name_or_path is empty, the base model was expected")
    place = locate(Path(name))
    if (place / peft.FILES[0]).exists():
        raise InputError(f"{path}: base_model_name_or_path is {name}, which is an adapter itself")
    return merged(folder, open_base(place), "none")


def merged(folder: Path, base: Source, stored: str) -> Source:
    """The base with the adapter of `folder` in its matrices; `stored` says what it was trained on.

    A quantised base is taken as it was while the adapter was trained, in float32.
    """
    config, tensors = peft.read_peft(folder, base.args)
    quantised = KINDS.get(stored)

    def added(name: str, tensor: Stored) -> Stored:
        matrix = name.removesuffix(".weight")
        kind = quantised if name.startswith("layers.") and len(tensor.shape) == 2 else None
        a, b = tensors.get(f"{matrix}.lora_a"), tensors.get(f"{matrix}.lora_b")
        if kind is None and a is None:
            return tensor

        def read() -> torch.Tensor:
            weight = tensor.read() if kind is None else kind(tensor.read()).dense(torch.float32)
            return weight if a is None or b is None else lora.fold(weight, a, b, config.scale)

        return replace(tensor, dtype=torch.float32 if kind else tensor.dtype, read=read)

    return replace(base, tensors={name: added(name, t) for name, t in base.tensors.items()})
