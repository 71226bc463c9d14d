"""PyTorch's zip files of tensors (`.pth`): read one tensor at a time, and written so.

Both are our own: torch.load and Python's unpickler run what a file tells them to.
"""

import hashlib
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from puna.errors import InputError
from puna.model.archive import CHUNK, Member, open_archive, shown
from puna.model.source import Stored
from puna.model.unpickler import DTYPES, Described, Refused, described
from puna.text.files import PathLike

PICKLE_BYTES = 4 << 20  # Llama 2 70B's data.pkl has 0.1 MB
ALIGNMENT = 64  # of a tensor's place in the file, as torch.save chooses it
KNOWN = {"byteorder", "version", "data.pkl"}  # and data/0, data/1, ...; torch's new ones have a dot
STORAGES = {dtype: name for name, dtype in DTYPES.items()}
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]  # shape and type by name, in order


@dataclass(frozen=True)
class InFile(Stored):
    """A tensor in a `.pth`, which can also be read into memory that is there."""

    fill: Callable[[Tensor], None]


def read_pth(path: PathLike) -> dict[str, InFile]:
    """The tensors of a zip `.pth` by name, none of them read yet.

    Their `read()` opens the file again and reads one tensor, compared with its CRC-32. InputError
    if the file is not what torch.save writes of a flat dict of contiguous tensors, is damaged, or
    would run, unpack or reach outside anything; a file of the old format, a tar, a NumPy or joblib
    file is refused too.
    """
    path = Path(path)
    members = open_archive(path)
    for name in members:
        tensor = name.startswith("data/") and name[5:].isascii() and name[5:].isdigit()
        if not (tensor or name in KNOWN or name.startswith(".")):
            raise InputError(f"{path}: holds {shown(name)}, which torch.save of tensors does not")
    if "data.pkl" not in members or members["data.pkl"].size > PICKLE_BYTES:
        raise InputError(f"{path}: a data.pkl of at most {PICKLE_BYTES} bytes was expected in it")
    if "byteorder" in members:
        order = members["byteorder"]
        if order.size > 6 or order.read() != b"little":
            raise InputError(f"{path}: its numbers are not in little-endian order")
    try:
        return _stored(members, described(members["data.pkl"].read()))
    except Refused as refused:
        raise InputError(f"{path}: data.pkl {refused}") from None


def _stored(members: Mapping[str, Member], tensors: Mapping[str, Described]) -> dict[str, InFile]:
    """Each described tensor, compared with the member it is in."""
    found, total = {}, 0
    for name, tensor in tensors.items():
        storage, shape = tensor.storage, tensor.shape
        width, numel = storage.dtype.itemsize, math.prod(shape)
        member = members.get(f"data/{storage.key}")
        if member is None or member.size != storage.numel * width:
            there = "is missing" if member is None else f"has {member.size} bytes"
            raise Refused(
                f"puts {shown(name)} into data/{storage.key} of {storage.numel * width} bytes, "
                f"which {there}"
            )
        if not _contiguous(shape, tensor.stride):
            raise Refused(f"holds {shown(name)}, which is not contiguous; save .contiguous()")
        if tensor.offset + numel > storage.numel:
            raise Refused(f"holds {shown(name)}, which reaches outside data/{storage.key}")
        fill = partial(_fill, member, tensor.offset * width)
        read = partial(_read, shape, storage.dtype, fill)
        found[name] = InFile(shape, storage.dtype, read, fill)
        total += numel * width
        if total > 2 * member.whole:  # embeddings may be there under two names
            raise Refused("describes tensors that are twice as large as the file")
    return found


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether a tensor's numbers follow each other in the file."""
    if 0 in shape:
        return True
    step = 1
    for size, given in zip(shape[::-1], stride[::-1], strict=True):
        if size != 1 and given != step:
            return False
        step *= size
    return True


def _read(shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[[Tensor], None]) -> Tensor:
    """One tensor out of the file, in memory of its own."""
    tensor = torch.empty(shape, dtype=dtype)
    fill(tensor)
    return tensor


def _fill(member: Member, offset: int, tensor: Tensor) -> None:
    """Read into a tensor, or into a part of a larger one with a few rows of memory besides."""
    length = tensor.numel() * tensor.itemsize
    if tensor.is_contiguous():
        member.fill([_bytes(tensor)], offset, length)
    else:
        member.fill(_rows(tensor), offset, length)


def _rows(tensor: Tensor) -> Iterator[memoryview]:
    """Memory for some rows of a tensor; when the next is asked for, they are put in their place."""
    for part in _parts(tensor):
        rows = torch.empty(part.shape, dtype=part.dtype)
        yield _bytes(rows)
        part.copy_(rows)


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """A tensor that is not contiguous in parts of some rows, about 4 MB or one row each."""
    row = max(1, tensor[0].numel() * tensor.itemsize)
    return tensor.split(max(1, CHUNK // row))


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def write_pth(path: PathLike, tensors: Mapping[str, Stored]) -> None:
    """Write a `.pth` that torch.load reads, one tensor in memory at a time; atomic.

    InputError if the file cannot be written.
    """
    path = Path(path)
    new = path.with_name(f".{path.name}.new")
    layout = {name: (stored.shape, stored.dtype) for name, stored in tensors.items()}
    try:
        with PthWriter(new, layout, path.stem) as writer:
            for stored in tensors.values():
                writer.append(stored.read())
        os.replace(new, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        new.unlink(missing_ok=True)


class PthWriter:
    """A `.pth` that is written tensor by tensor: `append` them in the order of the layout.

    Used in a `with`; after it, `md5` is the MD5 of the file if `summed`, which is taken while it is
    written. The same tensors give the same bytes. OSError if the file cannot be written.
    """

    def __init__(self, path: Path, layout: Layout, stem: str | None = None, summed: bool = False):
        """Begin the file; `stem`: the folder in the zip, as torch.save names it after the file."""
        self.md5 = ""
        self._left = list(layout.values())[::-1]
        self._number = 0
        self._stem = stem or path.stem
        self._sink = _Sink(path, summed)
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_STORED)  # type: ignore[call-overload]
        try:
            self._add_bytes("data.pkl", _pickle(layout))
            self._add_bytes("byteorder", b"little")
        except BaseException:
            self._abandon()
            raise

    def append(self, tensor: Tensor) -> None:
        """Write the next tensor of the layout."""
        assert self._left, "more tensors than in the layout"
        assert (tuple(tensor.shape), tensor.dtype) == self._left[-1], "not the layout's next tensor"
        self._left.pop()
        parts = [tensor] if tensor.is_contiguous() else _parts(tensor)
        contents = (_bytes(part.contiguous()) for part in parts)
        self._add(f"data/{self._number}", contents, tensor.numel() * tensor.itemsize)
        self._number += 1

    def __enter__(self) -> "PthWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                assert not self._left, "tensors of the layout were not written"
                self._add_bytes("version", b"3\n")
                self._zip.close()
                self._sink.flush()
                self.md5 = self._sink.sum.hexdigest() if self._sink.sum else ""
        finally:
            self._abandon()

    def _abandon(self) -> None:
        self._zip.fp = None  # an unfinished zip gets no end
        self._sink.file.close()

    def _add(self, name: str, contents: Iterable[memoryview], length: int) -> None:
        entry = zipfile.ZipInfo(f"{self._stem}/{name}")  # dated 1980: equal bytes every time
        entry.file_size = length
        header = self._sink.written + 30 + len(entry.filename.encode()) + 20  # 20: zip64's sizes
        entry.extra = _padding(-(header + 4) % ALIGNMENT)
        with self._zip.open(entry, "w", force_zip64=True) as file:
            for content in contents:
                for place in range(0, len(content), CHUNK):
                    file.write(content[place : place + CHUNK])

    def _add_bytes(self, name: str, content: bytes) -> None:
        self._add(name, [memoryview(content)], len(content))


def _padding(count: int) -> bytes:
    """A zip's extra field of 4 + count bytes that says nothing, with torch.save's id."""
    return b"FB" + struct.pack("<H", count) + bytes(count)


class _Sink:
    """A file that is written from start to end, with its MD5 (a check sum, not for safety)."""

    def __init__(self, path: Path, summed: bool):
        self.file = open(path, "wb", buffering=0)
        self.sum = hashlib.md5(usedforsecurity=False) if summed else None
        self.written = 0

    def write(self, content: memoryview | bytes) -> int:
        content = memoryview(content)
        done = 0
        while done < len(content):
            done += self.file.write(content[done:])
        if self.sum:
            self.sum.update(content)
        self.written += len(content)
        return len(content)

    def flush(self) -> None:
        os.fsync(self.file.fileno())


def _pickle(layout: Layout) -> bytes:
    """What torch.save writes of a dict of contiguous tensors, each with a storage of its own."""
    parts = [b"\x80\x02}("]
    for number, (name, (shape, dtype)) in enumerate(layout.items()):
        numel, stride, step = math.prod(shape), [], 1
        for size in shape[::-1]:
            stride.append(step)
            step *= max(size, 1)
        storage = f"ctorch\n{STORAGES[dtype]}\n".encode()
        parts += [
            *(_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(("),
            *(_text("storage"), storage, _text(str(number)), _text("cpu"), _whole(numel), b"tQ"),
            *(_whole(0), _wholes(shape), _wholes(stride[::-1])),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
    return b"".join(parts) + b"u."


def _text(value: str) -> bytes:
    content = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(content)) + content


def _whole(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _wholes(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_whole, values)) + b"t"
