"""The few parts of Google's protocol buffers that a SentencePiece model needs, read and written.

A message is a row of fields: a key (number and wire type), then a value, which is a variable-length
number, four or eight bytes, or a counted row of bytes. Nothing is allocated for a count that the
message does not hold.
"""

import struct
from collections.abc import Iterator

from puna.errors import InputError

Value = int | bytes

_VARINT, _EIGHT, _COUNTED, _FOUR = 0, 1, 2, 5  # wire types; the others are long out of use
_LONGEST = 10  # bytes of a variable-length number


def fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Yield (number, value) of every field. InputError where a value is cut or its type unknown.

    Variable-length numbers come as ints, all other values as their bytes.
    """
    place, size = 0, len(message)
    while place < size:
        key, place = _varint(message, place)
        kind, number = key & 7, key >> 3
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == _COUNTED:
            length, place = _varint(message, place)
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise InputError(f"byte {place}: a field of wire type {kind}, expected 0, 1, 2 or 5")
        if length > size - place:
            raise InputError(f"byte {place}: a value of {length} bytes, {size - place} are left")
        yield number, message[place : place + length]
        place += length


def field(number: int, value: int | bool | float | bytes) -> bytes:
    """Return one field: a whole number as varint, any other in four bytes, bytes counted."""
    if isinstance(value, bytes):
        return _packed(number << 3 | _COUNTED) + _packed(len(value)) + value
    if isinstance(value, float):
        try:
            return _packed(number << 3 | _FOUR) + struct.pack("<f", value)
        except OverflowError:
            raise InputError(f"the number {value} does not fit into four bytes") from None
    return _packed(number << 3 | _VARINT) + _packed(value)


def single(value: bytes) -> float:
    """Return the number in a field of four bytes."""
    return float(struct.unpack("<f", value)[0])


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The number that begins at a place, and where it ends."""
    value = 0
    for index, byte in enumerate(message[place : place + _LONGEST]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value & (2**64 - 1), place + index + 1
    raise InputError(f"byte {place}: a number without an end")


def _packed(value: int) -> bytes:
    """A whole number as varint; a negative one as its 64 bits in two's complement."""
    value &= 2**64 - 1
    packed = bytearray()
    while value > 127:
        packed.append(value & 127 | 128)
        value >>= 7
    return bytes([*packed, value])
