"""The tensors of a GGUF file: read as they are, or out of blocks; and put into them.

Blocks are taken apart and made by the `gguf` package, which llama.cpp's authors maintain. It is
imported only where a block is met, since that takes 0.3 s.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from puna.errors import InputError
from puna.model.source import Stored
from puna.text.gguf import TENSOR_TYPES, Place

# types that torch has too; a tensor of another type is read as float32
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
HALF_LIMIT = 65504.0  # the largest float16
CHUNK = 2**15  # numbers at a time; with many more, or a row at a time, gguf is several times slower


def stored(path: Path, place: Place) -> Stored:
    """The tensor at a place of a GGUF file, float32 if it is in blocks. `read` gives InputError
    if the file has been cut short since its header was read."""
    dtype = PLAIN.get(place.kind, torch.float32)
    return Stored(place.shape, dtype, lambda: read_tensor(path, place))


def read_tensor(path: Path, place: Place) -> Tensor:
    """The tensor at a place of a GGUF file, as `stored` describes it."""
    found = torch.empty(place.shape, dtype=PLAIN.get(place.kind, torch.float32))
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(place.start)
            if place.kind in PLAIN:
                _fill(path, file, found.view(torch.uint8).numpy())
            else:
                _fill_from_blocks(path, file, place.kind, found)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    return found


def encode(tensor: Tensor, kind: str) -> Iterator[memoryview]:
    """The bytes of a CPU tensor in a type of `TENSOR_TYPES`, piece by piece.

    InputError, without the tensor's name, if it holds a number that the type cannot express: one
    beyond its range, or in blocks one that is not finite.
    """
    for part in _chunks(tensor):
        if kind not in ("F32", "BF16"):
            _refuse_inexpressible(part, kind)
        if kind in PLAIN:
            yield part.to(PLAIN[kind]).view(torch.uint8).numpy().data
        else:
            yield _blocks(part.float().numpy(), kind).data.cast("B")


def _refuse_inexpressible(part: Tensor, kind: str) -> None:
    """Refuse what becomes infinite in float16, the type of a block's scale too."""
    if kind not in PLAIN and not bool(part.isfinite().all()):
        raise InputError(f"holds a number that is not finite, which {kind} cannot express")
    beyond = part[part.isfinite() & (part.abs() > HALF_LIMIT)]
    if beyond.numel():
        raise InputError(f"holds {beyond[0].item():g}, {kind} ends at {HALF_LIMIT}")


def _blocks(numbers: np.ndarray, kind: str) -> np.ndarray:
    import gguf

    with np.errstate(all="ignore"):  # the scale of a block of zeros
        return gguf.quants.quantize(numbers[None], gguf.GGMLQuantizationType[kind])


def _fill_from_blocks(path: Path, file, kind: str, found: Tensor) -> None:
    import gguf

    stored = TENSOR_TYPES[kind]
    for part in _chunks(found):
        raw = np.empty(len(part) // stored.block * stored.size, dtype=np.uint8)
        _fill(path, file, raw)
        with np.errstate(all="ignore"):  # a damaged scale may be infinite or no number
            made = gguf.quants.dequantize(raw[None], gguf.GGMLQuantizationType[kind])
        part.copy_(torch.from_numpy(made[0]))


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    """The numbers of a tensor in order, `CHUNK` at a time, which is a whole number of blocks."""
    return iter(tensor.contiguous().view(-1).split(CHUNK))


def _fill(path: Path, file, into: np.ndarray) -> None:
    """Read into an array until it is full."""
    left = into.data.cast("B")
    while left:
        count = file.readinto(left)
        if not count:
            raise InputError(f"{path}: is cut short: it has changed since it was opened")
        left = left[count:]
