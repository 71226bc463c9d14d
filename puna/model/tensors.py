"""Named tensors in a file, and what is wrong with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from puna.errors import InputError

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMED = 3  # so many differences are named in one message


class Shaped(Protocol):
    """A tensor, or one that is not read yet."""

    @property
    def shape(self) -> Sequence[int]: ...


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. InputError if it is not one.

    They are copied out of the mapped file: into memory aligned as torch aligns it, so that the same
    kernels run (and give the same bits) as before saving, and so that the file may go.
    """
    try:
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is not a safetensors file: {error}") from None


def refuse_shapes(
    place: Path | str,
    found: Mapping[str, Sequence[int]],
    expected: Mapping[str, Sequence[int]],
    further: Sequence[str] = (),
) -> None:
    """InputError unless both have the same names and shapes, and there are no further faults.

    The message names the first differences and counts the rest.
    """
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name[:200]} is not part of the model" for name in found if name not in expected]
    for name in (name for name in expected if name in found):
        here, there = list(found[name]), list(expected[name])
        if here != there:
            faults.append(f"{name} has shape {here}, expected {there}")
    faults += further
    if faults:
        more = f"; and {len(faults) - NAMED} more" * (len(faults) > NAMED)
        raise InputError(f"{place}: tensor " + "; ".join(faults[:NAMED]) + more)


def refuse_differences(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], types: bool = False
) -> None:
    """`refuse_shapes` of tensors, and unless their dtypes are the same.

    Without `types` any floating type passes for another.
    """
    faults = []
    for name in (name for name in expected if name in found):
        here, there = found[name], expected[name]
        if types and here.dtype != there.dtype:
            faults.append(f"{name} is {here.dtype}, expected {there.dtype}")
        elif here.is_floating_point() != there.is_floating_point():
            faults.append(f"{name} is {here.dtype}, expected a type like {there.dtype}")
    refuse_shapes(path, shapes_of(found), shapes_of(expected), faults)


def shapes_of(tensors: Mapping[str, Shaped]) -> dict[str, Sequence[int]]:
    """The shape of each."""
    return {name: tensor.shape for name, tensor in tensors.items()}
