"""Named tensors in a file, and what is wrong with them."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from puna.errors import InputError

NAMED = 3  # so many differences are named in one message


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. InputError if it is not one.

    They are copied out of the mapped file: into memory aligned as torch aligns it, so that the same
    kernels run (and give the same bits) as before saving, and so that the file may go.
    """
    try:
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is not a safetensors file: {error}") from None


def refuse_differences(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], types: bool = False
) -> None:
    """InputError unless both have the same names and shapes (and, with `types`, dtypes).

    Without `types` any floating type passes. The message names the first differences and counts the
    rest.
    """
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is not part of the model" for name in found if name not in expected]
    for name in (name for name in expected if name in found):
        here, there = found[name], expected[name]
        if here.shape != there.shape:
            faults.append(f"{name} has shape {list(here.shape)}, expected {list(there.shape)}")
        elif types and here.dtype != there.dtype:
            faults.append(f"{name} is {here.dtype}, expected {there.dtype}")
        elif here.is_floating_point() != there.is_floating_point():
            faults.append(f"{name} is {here.dtype}, expected a type like {there.dtype}")
    if faults:
        more = f"; and {len(faults) - NAMED} more" * (len(faults) > NAMED)
        raise InputError(f"{path}: tensor " + "; ".join(faults[:NAMED]) + more)
