"""safetensors files, one tensor at a time: read lazily, written as a stream.

The library checks a file's header (offsets, overlaps, lengths); what it lets pass and we do not:
a name twice, a type that is no weight's.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from puna.errors import InputError
from puna.model.source import Stored

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
}
NAMES = {dtype: name for name, dtype in TYPES.items()}


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, not read yet. InputError if it is not a whole one."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length), object_pairs_hook=once(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: is not a safetensors file: {error}") from None
    header.pop("__metadata__", None)
    assert names == set(header), f"{path}: the library and the header disagree"
    return {name: stored(path, name, entry, 8 + length) for name, entry in header.items()}


def once(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """A reader of JSON objects that refuses a key that stands in one twice."""

    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path}: tensor {twice} stands twice in the header")
        return found

    return read


def stored(path: Path, name: str, entry: Mapping[str, Any], base: int) -> Stored:
    """One tensor of the header, to be read from byte `base` + its offset on."""
    dtype = TYPES.get(entry["dtype"])
    if dtype is None:
        raise InputError(
            f"{path}: tensor {name} is {entry['dtype']}, expected one of {list(TYPES)}"
        )
    shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
    return Stored(shape, dtype, lambda: read_bytes(path, base + start, end - start, dtype, shape))


def read_bytes(
    path: Path, offset: int, size: int, dtype: torch.dtype, shape: Sequence[int]
) -> Tensor:
    """`size` bytes of a file from `offset` on, as a tensor. InputError if it is shorter or gone."""
    try:
        data = np.fromfile(path, dtype=np.uint8, count=size, offset=offset)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) != size:
        raise InputError(
            f"{path}: ends at byte {offset + len(data)}, {offset + size} were expected"
        )
    return torch.from_numpy(data).view(dtype).reshape(tuple(shape))


def write_safetensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write a safetensors file, reading one tensor after the other.

    The order is that of the mapping, so the same tensors give the same file.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + size_of(tensor)
        entry = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**entry, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            stream.write(raw(tensor.read(), name, tensor))
        stream.flush()
        os.fsync(stream.fileno())


def size_of(tensor: Stored) -> int:
    """Bytes of a tensor."""
    return int(np.prod(tensor.shape, dtype=np.int64)) * tensor.dtype.itemsize


def raw(value: Tensor, name: str, tensor: Stored) -> memoryview:
    """The bytes of a tensor that was read, which must be what was announced."""
    assert value.dtype == tensor.dtype and tuple(value.shape) == tensor.shape, name
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().data


def shards(tensors: Mapping[str, Stored], most: int) -> Iterator[dict[str, Stored]]:
    """The tensors in order, in files of at most `most` bytes (or one tensor)."""
    group: dict[str, Stored] = {}
    size = 0
    for name, tensor in tensors.items():
        if group and size + size_of(tensor) > most:
            yield group
            group, size = {}, 0
        group[name] = tensor
        size += size_of(tensor)
    if group:
        yield group
