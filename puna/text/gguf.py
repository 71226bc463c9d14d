"""GGUF, llama.cpp's file of one model: its header, read without trusting a number in it.

    magic "GGUF", version, number of tensors, number of keys
    each key: its name, the type of its value, the value
    each tensor: its name, shape (innermost first), type, place in the data
    the data, each tensor at a multiple of `general.alignment`

All numbers are little-endian; versions 2 and 3 are the same to a reader. A count, a length or a
place is compared with the file's size before anything is allocated for it. The tensors themselves
are read by `puna.model.gguf_tensors`.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from puna.errors import InputError
from puna.text.files import PathLike

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, where `general.alignment` says nothing else
ALIGNMENTS = (8, 65536)
LONGEST_KEY = 65535  # bytes
LONGEST_NAME = 64  # bytes of a tensor's name, llama.cpp's limit
LONGEST_TEXT = 2**24  # bytes; the longest texts in use, chat templates, have some ten thousand
MOST_ENTRIES = 2**16  # keys or tensors; the largest models in use have some thousand
MOST_ITEMS = 2**22  # of an array; the largest vocabularies have half a million merges

# the types of values, at the index by which a file names them
KINDS = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"),
    *("bool", "string", "array", "uint64", "int64", "float64"),
)
_CODES = {
    **{"uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i"},
    **{"uint64": "Q", "int64": "q", "float32": "f", "float64": "d", "bool": "B"},
}


@dataclass(frozen=True)
class TensorType:
    """How a tensor is stored: `size` bytes for each `block` numbers of a row."""

    number: int  # by which a file names it
    block: int
    size: int


TENSOR_TYPES = {
    "F32": TensorType(0, 1, 4),
    "F16": TensorType(1, 1, 2),
    "BF16": TensorType(30, 1, 2),
    "Q4_0": TensorType(2, 32, 18),
    "Q4_1": TensorType(3, 32, 20),
    "Q5_0": TensorType(6, 32, 22),
    "Q5_1": TensorType(7, 32, 24),
    "Q8_0": TensorType(8, 32, 34),
    "Q2_K": TensorType(10, 256, 84),
    "Q3_K": TensorType(11, 256, 110),
    "Q4_K": TensorType(12, 256, 144),
    "Q5_K": TensorType(13, 256, 176),
    "Q6_K": TensorType(14, 256, 210),
}
_NAMES = {found.number: name for name, found in TENSOR_TYPES.items()}


@dataclass(frozen=True)
class Field:
    """One value of the metadata. kind: one of `KINDS`, or that of a list's items and `[]`."""

    kind: str
    value: Any


@dataclass(frozen=True)
class Place:
    """One tensor: its type (a key of `TENSOR_TYPES`), shape (outermost first) and place (bytes)."""

    kind: str
    shape: tuple[int, ...]
    start: int  # from the beginning of the file
    size: int


@dataclass(frozen=True)
class Header:
    """All that a GGUF file says before its data."""

    path: Path
    fields: dict[str, Field]
    tensors: dict[str, Place]


def read_header(path: PathLike) -> Header:
    """The metadata and the places of the tensors of a GGUF file.

    InputError, naming the key or tensor, if the file is not GGUF 2 or 3, is damaged or cut short,
    or holds a tensor of a type that is not in `TENSOR_TYPES`.
    """
    with _opened(path) as reader:
        fields = _fields(reader)
        return Header(reader.path, fields, _places(reader, _alignment(reader, fields)))


def is_gguf(path: PathLike) -> bool:
    """Whether a file begins as GGUF does. InputError if there is one that cannot be read."""
    if not Path(path).is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_metadata(path: PathLike) -> dict[str, Any]:
    """The keys and values of a GGUF file, arrays as lists. InputError as `read_header`, but
    nothing is said about the tensors."""
    with _opened(path) as reader:
        return {key: field.value for key, field in _fields(reader).items()}


def tensor_size(kind: str, shape: tuple[int, ...]) -> int:
    """The bytes of a tensor of that type and shape, whose rows must be whole blocks."""
    stored = TENSOR_TYPES[kind]
    return prod(shape) // stored.block * stored.size


def header_bytes(
    fields: Mapping[str, Field], tensors: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[bytes, dict[str, Place]]:
    """A GGUF 3 header up to the first byte of data, and where each tensor (type, shape) belongs."""
    parts = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(fields))]
    for key, field in fields.items():
        parts += [_text(key), *_value(field)]
    places, offset = {}, 0
    for name, (kind, shape) in tensors.items():
        size = tensor_size(kind, shape)
        places[name] = Place(kind, shape, offset, size)
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        parts += [_text(name), dims, struct.pack("<IQ", TENSOR_TYPES[kind].number, offset)]
        offset += size + padding(size)
    header = b"".join(parts)
    header += bytes(padding(len(header)))
    return header, {
        name: Place(place.kind, place.shape, place.start + len(header), place.size)
        for name, place in places.items()
    }


def padding(size: int, alignment: int = ALIGNMENT) -> int:
    """The bytes from `size` to the next multiple of the alignment."""
    return -size % alignment


def _text(text: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{_shown(text)} has half a UTF-16 surrogate pair, which is not text"
        ) from None
    return struct.pack("<Q", len(encoded)) + encoded


def _value(field: Field) -> Iterator[bytes]:
    item = field.kind.removesuffix("[]")
    yield struct.pack("<I", KINDS.index(item if item == field.kind else "array"))
    values = [field.value]
    if item != field.kind:
        values = field.value
        yield struct.pack("<IQ", KINDS.index(item), len(values))
    if item == "string":
        yield from map(_text, values)
    else:
        yield struct.pack(f"<{len(values)}{_CODES[item]}", *values)


class _Reader:
    """A file read from front to back, never past what it holds."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.left = self.size
        self.tensors = 0  # how many the header announces

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def fault(self, text: str) -> InputError:
        """The error of a place in this file."""
        return InputError(f"{self.path}: {text}")

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes, which are part of `what`."""
        if count > self.left:
            raise self.fault(f"{what} needs {count} bytes, the file has {self.left} more")
        try:
            found = self._file.read(count)
        except OSError as error:
            raise self.fault(f"cannot be read: {error.strerror or error}") from None
        if len(found) != count:
            raise self.fault(f"{what} is cut short: the file has changed while it was read")
        self.left -= count
        return found

    def number(self, kind: str, what: str) -> Any:
        """The next number or truth value."""
        return self.numbers(kind, 1, what)[0]

    def numbers(self, kind: str, count: int, what: str) -> list[Any]:
        """The next `count` numbers or truth values."""
        code = _CODES[kind]
        found = struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code), what))
        if kind != "bool":
            return list(found)
        if strange := next((value for value in found if value > 1), None):
            raise self.fault(f"{what} has the truth value {strange}, expected 0 or 1")
        return [value == 1 for value in found]

    def text(self, what: str, longest: int = LONGEST_TEXT) -> str:
        """The next string of at most `longest` bytes."""
        count = int.from_bytes(self.take(8, what), "little")
        if count > longest:
            raise self.fault(f"{what} has a text of {count} bytes, expected at most {longest}")
        try:
            return self.take(count, what).decode()
        except UnicodeDecodeError as error:
            reason = f"byte {error.start + 1} of its text is wrong"
            raise self.fault(f"{what} is not UTF-8: {reason}") from None

    def name(self, what: str, longest: int) -> str:
        """The next string, which must not be empty."""
        if found := self.text(what, longest):
            return found
        raise self.fault(f"{what} has no name")

    def count(self, what: str, smallest: int) -> int:
        """How many `what` follow, each of at least `smallest` bytes."""
        found: int = self.number("uint64", f"the number of {what}")
        most = min(MOST_ENTRIES, self.left // smallest)
        if found > most:
            raise self.fault(f"says it has {found} {what}, expected at most {most} in this file")
        return found


def _opened(path: PathLike) -> _Reader:
    path = Path(path)
    try:
        if not path.is_file():
            there = "is not a file" if path.exists() else "does not exist"
            raise InputError(f"{path}: {there}, a GGUF file was expected")
        return _Reader(path, path.open("rb"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _fields(reader: _Reader) -> dict[str, Field]:
    """Everything up to the first tensor's name; leaves the number of tensors in the reader."""
    magic = reader.take(4, "the magic")
    if magic != MAGIC:
        raise reader.fault(f"begins with {magic!r}, a GGUF file begins with {MAGIC!r}")
    version = reader.number("uint32", "the version")
    if version not in VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise reader.fault("is big-endian, little-endian was expected")
        raise reader.fault(f"is GGUF version {version}, expected 2 or 3")
    reader.tensors = reader.count("tensors", 33)
    fields: dict[str, Field] = {}
    for number in range(reader.count("keys", 14)):
        key = reader.name(f"key {number + 1}", LONGEST_KEY)
        if key in fields:
            raise reader.fault(f"key {_shown(key)} is there twice")
        fields[key] = _field(reader, f"key {_shown(key)}")
    return fields


def _field(reader: _Reader, what: str) -> Field:
    kind = _kind(reader, what)
    if kind == "string":
        return Field(kind, reader.text(what))
    if kind != "array":
        return Field(kind, reader.number(kind, what))
    item = _kind(reader, what)
    if item == "array":
        raise reader.fault(f"{what} is an array of arrays, expected one of plain values")
    count = reader.number("uint64", what)
    smallest = 8 if item == "string" else struct.calcsize(_CODES[item])
    most = min(MOST_ITEMS, reader.left // smallest)
    if count > most:
        raise reader.fault(f"{what} says it has {count} items, expected at most {most} here")
    if item == "string":
        return Field("string[]", [reader.text(what) for _ in range(count)])
    return Field(f"{item}[]", reader.numbers(item, count, what))


def _kind(reader: _Reader, what: str) -> str:
    number = reader.number("uint32", what)
    if number >= len(KINDS):
        raise reader.fault(f"{what} has a value of type {number}, expected 0 to {len(KINDS) - 1}")
    return KINDS[number]


def _alignment(reader: _Reader, fields: Mapping[str, Field]) -> int:
    field = fields.get("general.alignment", Field("uint32", ALIGNMENT))
    found, (least, most) = field.value, ALIGNMENTS
    if field.kind != "uint32" or found & (found - 1) or not least <= found <= most:
        wanted = f"a power of two from {least} to {most}"
        raise reader.fault(f"key 'general.alignment' is {_shown(found)}, expected {wanted}")
    return int(found)


def _places(reader: _Reader, alignment: int) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for number in range(reader.tensors):
        name = reader.name(f"tensor {number + 1}", LONGEST_NAME)
        if name in places:
            raise reader.fault(f"tensor {_shown(name)} is there twice")
        places[name] = _place(reader, f"tensor {_shown(name)}", alignment)
    end = reader.size - reader.left
    begin = end + padding(end, alignment)
    inside = max(0, reader.size - begin)
    placed = {}
    for name, place in places.items():
        if place.start + place.size > inside:
            says = f"bytes {place.start} to {place.start + place.size} of the data"
            raise reader.fault(f"tensor {_shown(name)} is at {says}, which has {inside}")
        placed[name] = Place(place.kind, place.shape, begin + place.start, place.size)
    before: tuple[int, str] = (0, "")
    for name, place in sorted(placed.items(), key=lambda item: item[1].start):
        if place.start < before[0]:
            raise reader.fault(f"tensors {_shown(before[1])} and {_shown(name)} overlap")
        before = (place.start + place.size, name)
    return placed


def _place(reader: _Reader, what: str, alignment: int) -> Place:
    """The type, shape and place of the next tensor, counted from the beginning of the data."""
    dims = reader.number("uint32", what)
    if not 1 <= dims <= 4:
        raise reader.fault(f"{what} has {dims} dimensions, expected 1 to 4")
    shape = tuple(reversed(reader.numbers("uint64", dims, what)))
    number = reader.number("uint32", what)
    if number not in _NAMES:
        known = ", ".join(TENSOR_TYPES)
        raise reader.fault(f"{what} has type {number}, expected one of {known}")
    kind = _NAMES[number]
    block = TENSOR_TYPES[kind].block
    if min(shape) == 0 or shape[-1] % block:
        wanted = "positive numbers" + f", the last a multiple of {block}" * (block > 1)
        raise reader.fault(f"{what} has shape {list(shape)}, expected {wanted}")
    start, size = reader.number("uint64", what), tensor_size(kind, shape)
    if size > reader.size:
        raise reader.fault(f"{what} needs {size} bytes, the file has {reader.size}")
    if start % alignment:
        raise reader.fault(f"{what} is at byte {start}, expected a multiple of {alignment}")
    return Place(kind, shape, start, size)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:60] + "..."
