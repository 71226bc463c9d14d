"""PyTorch's description of the tensors in a `.pth`, read without running it.

torch.save describes tensors in a pickle: a small program that, run by Python's own machine, may
call anything. Here a machine of our own runs it, which knows the instructions torch.save writes,
builds nothing but texts, numbers, tuples, dicts and descriptions of tensors, and calls nothing.
What it does not know is refused; nothing is ever tried another way.

The instructions are those of Python's Lib/pickletools.py, protocol 2.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from puna.model.archive import shown

STEPS = 250_000  # instructions; a tensor takes about forty
DIMENSIONS = 8
LARGEST = 1 << 48  # of any size in a description

DTYPES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
}


@dataclass(frozen=True)
class _Named:
    """A name in a pickle; it stands for nothing."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A member data/KEY of the archive and what it holds."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class Described:
    """A tensor as the pickle describes it, not yet compared with the file."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


ORDERED, TENSOR, PARAMETER = (
    _Named("collections.OrderedDict"),
    _Named("torch._utils._rebuild_tensor_v2"),
    _Named("torch._utils._rebuild_parameter"),
)
ALLOWED = {named.name: named for named in (ORDERED, TENSOR, PARAMETER)}
ALLOWED |= {f"torch.{name}": _Named(f"torch.{name}") for name in DTYPES}
MARK = object()

# instruction -> layout of the number that follows it
NUMBERS = {
    0x80: "<B",  # PROTO
    0x4B: "<B",  # BININT1
    0x4D: "<H",  # BININT2
    0x4A: "<i",  # BININT
    0x47: ">d",  # BINFLOAT
    0x71: "<B",  # BINPUT
    0x72: "<I",  # LONG_BINPUT
    0x68: "<B",  # BINGET
    0x6A: "<I",  # LONG_BINGET
    0x58: "<I",  # BINUNICODE
    0x8A: "<B",  # LONG1
}
CONSTANTS = {0x4E: None, 0x88: True, 0x89: False}


class Refused(Exception):
    """Why a pickle is refused; becomes an InputError with the file's name."""


class _Machine:
    """Runs the instructions of one data.pkl and gives the value they leave."""

    def __init__(self, code: bytes):
        self.code = code
        self.place = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value; Refused for everything torch.save would not have written."""
        if self.code[:2] != b"\x80\x02":
            raise Refused("does not begin as torch.save's pickles do, with protocol 2")
        for _ in range(STEPS):
            at = self.place
            op = self.take(1)[0]
            if op == 0x2E:  # STOP
                if len(self.stack) != 1 or self.place != len(self.code):
                    raise Refused("goes on after its end")
                return self.pop()
            if op in NUMBERS:
                self.number(op)
            elif op in CONSTANTS:
                self.stack.append(CONSTANTS[op])
            elif op in BUILDERS:
                BUILDERS[op](self)
            else:
                raise Refused(f"holds more than a flat dict of tensors (code {op:#x} at byte {at})")
        raise Refused(f"has more than {STEPS} instructions")

    def take(self, count: int) -> bytes:
        part = self.code[self.place : self.place + count]
        if len(part) != count:
            raise Refused("is cut short")
        self.place += count
        return part

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise Refused(f"takes a value that is not there, at byte {self.place}")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is MARK:
                return values[::-1]
            values.append(value)
        raise Refused(f"has no mark where one is needed, at byte {self.place}")

    def number(self, op: int) -> None:
        layout = NUMBERS[op]
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        if op == 0x80:
            if value != 2:
                raise Refused(f"is of protocol {value}, 2 was expected")
        elif op in (0x71, 0x72):
            self.memo[value] = self.pop()
            self.stack.append(self.memo[value])
        elif op in (0x68, 0x6A):
            if value not in self.memo:
                raise Refused(f"recalls value {value}, which it never kept")
            self.stack.append(self.memo[value])
        elif op == 0x58:
            try:
                self.stack.append(self.take(value).decode("utf-8"))
            except UnicodeDecodeError:
                raise Refused(f"has a text that is not UTF-8, at byte {self.place}") from None
        elif op == 0x8A:
            self.stack.append(int.from_bytes(self.take(value), "little", signed=True))
        else:
            self.stack.append(value)

    def name(self) -> None:
        parts = []
        for _ in range(2):
            end = self.code.find(b"\n", self.place)
            if end < 0:
                raise Refused("is cut short")
            parts.append(self.take(end - self.place).decode("ascii", "replace"))
            self.place += 1
        named = ALLOWED.get(".".join(parts))
        if named is None:
            raise Refused(f"names {shown('.'.join(parts))}, only tensors are read")
        self.stack.append(named)

    def group(self, count: int | None) -> None:
        values = self.pop_to_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(values))

    def call(self) -> None:
        """REDUCE: what stands on the stack instead of the call of a name."""
        args, named = self.pop(), self.pop()
        if named is ORDERED and args == ():
            self.stack.append({})
        elif named is TENSOR and type(args) is tuple and len(args) in (6, 7):
            self.stack.append(_described(*args[:4]))
        elif named is PARAMETER and type(args) is tuple and len(args) == 3:
            if not isinstance(args[0], Described):
                raise Refused("has a parameter that is no tensor")
            self.stack.append(args[0])
        else:
            raise Refused(f"calls something in another way than torch.save, at byte {self.place}")

    def storage(self) -> None:
        """BINPERSID: ("storage", type, key, device, numel)."""
        found = self.pop()
        if type(found) is not tuple or len(found) != 5 or found[0] != "storage":
            raise Refused("refers to something that is no storage")
        _, named, key, _, numel = found
        if not isinstance(named, _Named) or not named.name.endswith("Storage"):
            raise Refused("has a storage without a type")
        if type(key) is not str or not (key.isascii() and key.isdigit()) or len(key) > 9:
            raise Refused("has a storage without a number")
        dtype = DTYPES[named.name.removeprefix("torch.")]
        self.stack.append(Storage(key, dtype, _size(numel)))

    def items(self, pairs: list[Any]) -> None:
        target = self.pop()
        if type(target) is not dict or len(pairs) % 2:
            raise Refused(f"adds items to something that is no dict, at byte {self.place}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is not str:
                raise Refused(f"has a key that is no text but {type(key).__name__}")
            if key in target:
                raise Refused(f"has the key {shown(key)} twice")
            target[key] = value
        self.stack.append(target)

    def attributes(self) -> None:
        """BUILD: a state dict's _metadata, which is passed over."""
        self.pop()
        if not self.stack or type(self.stack[-1]) is not dict:
            raise Refused("sets attributes of something that is no dict")


BUILDERS: dict[int, Callable[[_Machine], None]] = {
    0x28: lambda m: m.stack.append(MARK),  # MARK
    0x7D: lambda m: m.stack.append({}),  # EMPTY_DICT
    0x29: lambda m: m.stack.append(()),  # EMPTY_TUPLE
    0x85: lambda m: m.group(1),  # TUPLE1
    0x86: lambda m: m.group(2),  # TUPLE2
    0x87: lambda m: m.group(3),  # TUPLE3
    0x74: lambda m: m.group(None),  # TUPLE
    0x63: _Machine.name,  # GLOBAL
    0x52: _Machine.call,  # REDUCE
    0x51: _Machine.storage,  # BINPERSID
    0x73: lambda m: m.items([m.pop(), m.pop()][::-1]),  # SETITEM
    0x75: lambda m: m.items(m.pop_to_mark()),  # SETITEMS
    0x62: _Machine.attributes,  # BUILD
}


def _size(value: Any) -> int:
    """A count or an offset, checked."""
    if type(value) is not int or not 0 <= value < LARGEST:
        raise Refused("has a size that is no whole number from 0 to 2^48")
    return value


def _described(storage: Any, offset: Any, shape: Any, stride: Any) -> Described:
    """A tensor's description, its values checked one by one."""
    if not isinstance(storage, Storage):
        raise Refused("has a tensor without a storage")
    if not (type(shape) is type(stride) is tuple and len(shape) == len(stride) <= DIMENSIONS):
        raise Refused(f"has a tensor whose shape is no tuple of at most {DIMENSIONS} numbers")
    sizes, steps = tuple(map(_size, shape)), tuple(map(_size, stride))
    return Described(storage, _size(offset), sizes, steps)


def described(code: bytes) -> dict[str, Described]:
    """The tensors that a data.pkl describes, by name. `Refused` if it is anything else."""
    value = _Machine(code).run()
    if type(value) is not dict or not value:
        raise Refused("does not hold a dict of tensors")
    for name, tensor in value.items():
        if not isinstance(tensor, Described):
            kind = type(tensor).__name__.lstrip("_")
            raise Refused(f"holds {shown(name)}, which is no tensor but {kind}")
    return value
