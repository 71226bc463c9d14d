"""A zip of uncompressed members, checked as a whole before any of them is read.

Only what torch.save and `pickled.PthWriter` write is accepted: members stored as they are, in one
folder, that do not overlap; no comment, nothing before the first member or behind the directory. So
a member's size is the size of its bytes in the file, and nothing here can grow.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from puna.errors import InputError

DIRECTORY_BYTES = 8 << 20  # Llama 2 70B's needs 0.1 MB
MEMBERS = 20_000  # and has 730 members
NAME_BYTES = 512
CHUNK = 4 << 20  # bytes that are read and summed while they are in the processor's cache

# PKWARE's APPNOTE, sections 4.3.16, 4.3.15, 4.3.14, 4.3.12 and 4.3.7
END = struct.Struct("<4s4H2LH")
LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
ENCRYPTED = 0x2041  # flag bits: encrypted, strongly encrypted, hidden headers
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the 64-bit field"


@dataclass(slots=True)
class Member:
    """One file in a zip: `size` bytes from `start` on; `whole` is the size of the zip."""

    path: Path
    name: str
    start: int
    size: int
    crc: int
    whole: int
    verified: bool = False

    def fill(self, buffers: Iterable[memoryview], offset: int, length: int) -> None:
        """Read `length` bytes from `offset` on into buffers that have as many together.

        A buffer is asked for when the one before it is full. InputError if the member does not
        fit its CRC-32 (told at the end if all of it is read), or the file has changed its size.
        """
        everything = offset == 0 and length == self.size
        if not (everything or self.verified):
            self._verify()
        crc = 0
        with self._opened(offset) as file:
            for buffer in buffers:
                crc = self._read(file, buffer, crc)
        if everything:
            self._compare(crc)

    def read(self) -> bytes:
        """All bytes of a small member; errors as in `fill`."""
        content = bytearray(self.size)
        self.fill([memoryview(content)], 0, self.size)
        return bytes(content)

    def _opened(self, offset: int) -> IO[bytes]:
        try:
            file = open(self.path, "rb", buffering=0)
            size = os.fstat(file.fileno()).st_size
            file.seek(self.start + offset)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        if size != self.whole:
            file.close()
            raise InputError(f"{self.path}: has {size} bytes, it had {self.whole} when opened")
        return file

    def _read(self, file: IO[bytes], buffer: memoryview, crc: int) -> int:
        """Fill the buffer from the file; the CRC-32 with what was read added."""
        done = 0
        while done < len(buffer):
            part = buffer[done : done + CHUNK]
            try:
                count = file.readinto(part)  # type: ignore[attr-defined]
            except OSError as error:
                reason = error.strerror or error
                raise InputError(f"{self.path}: cannot be read: {reason}") from None
            if not count:
                raise InputError(f"{self.path}: ends within {self.name}, it was cut short")
            crc, done = zlib.crc32(part[:count], crc), done + count
        return crc

    def _verify(self) -> None:
        scratch = memoryview(bytearray(min(CHUNK, self.size)))
        places = range(0, self.size, CHUNK)
        self.fill((scratch[: self.size - place] for place in places), 0, self.size)

    def _compare(self, crc: int) -> None:
        if crc != self.crc:
            raise InputError(
                f"{self.path}: {self.name} is damaged: its CRC-32 is {crc:08x}, "
                f"the archive says {self.crc:08x}"
            )
        self.verified = True


def shown(text: str | bytes) -> str:
    """A name out of a foreign file as it may be printed: quoted, escaped, cut to 80 characters."""
    quoted = repr(text[:80])
    return quoted if len(quoted) <= 80 else quoted[:77] + "..."


def open_archive(path: Path) -> dict[str, Member]:
    """The members of a zip by their names without the folder they all share.

    InputError for anything that is not such a zip, or that is compressed, encrypted, listed twice,
    named out of its folder, overlapping or out of bounds.
    """
    try:
        with open(path, "rb") as file:
            whole = os.fstat(file.fileno()).st_size
            if file.read(4) != b"PK\x03\x04":
                raise InputError(
                    f"{path}: is not a zip .pth, as torch.save writes since PyTorch 1.6; "
                    "re-save it with a current PyTorch"
                )
            directory, begin = _directory(path, file, whole)
            members = _members(path, file, directory, begin, whole)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    _refuse_overlap(path, members, begin)
    return _without_folder(path, members)


def _directory(path: Path, file: IO[bytes], whole: int) -> tuple[list[bytes], int]:
    """The entries of the central directory, and where it begins."""
    size = END.size + LOCATOR.size + END64.size
    file.seek(max(0, whole - size))
    tail = file.read(size).rjust(size, b"\0")
    sign, disk, first_disk, here, total, length, begin, comment = END.unpack(tail[-END.size :])
    if sign != b"PK\x05\x06" or comment or disk or first_disk or here != total:
        raise InputError(f"{path}: does not end as a zip of torch.save does; is it cut short?")
    end = whole - END.size
    sign, _, where, disks = LOCATOR.unpack(tail[END64.size : -END.size])
    if sign == b"PK\x06\x07":
        end = whole - size
        found = END64.unpack(tail[: END64.size])
        sign, rest, _, _, disk, first_disk, here64, total64, length64, begin64 = found
        small = zip((total, length, begin), (total64, length64, begin64), strict=True)
        agree = all(a in (b, FULL16, FULL32) for a, b in small) and here64 == total64
        bound = sign == b"PK\x06\x06" and rest == END64.size - 12 and where == end and disks == 1
        if not (agree and bound) or disk or first_disk:
            raise InputError(f"{path}: the two ends of the zip contradict each other")
        total, length, begin = total64, length64, begin64
    if begin + length != end or total * ENTRY.size > length:
        raise InputError(f"{path}: the zip's directory is not where its end says")
    if length > DIRECTORY_BYTES or total > MEMBERS:
        raise InputError(
            f"{path}: the zip lists {total} members in {length} bytes, "
            f"at most {MEMBERS} in {DIRECTORY_BYTES} were expected"
        )
    file.seek(begin)
    content = file.read(length)
    return list(_entries(path, content, total)), begin


def _entries(path: Path, content: bytes, total: int) -> Iterator[bytes]:
    """The directory cut into its entries."""
    place = 0
    for _ in range(total):
        if content[place : place + 4] != b"PK\x01\x02" or place + ENTRY.size > len(content):
            raise InputError(f"{path}: the zip's directory is damaged at entry byte {place}")
        lengths = struct.unpack_from("<3H", content, place + 28)
        length = ENTRY.size + sum(lengths)
        yield content[place : place + length]
        place += length
    if place != len(content):
        raise InputError(f"{path}: the zip's directory has {len(content)} bytes, {place} are used")


def _members(
    path: Path, file: IO[bytes], entries: list[bytes], begin: int, whole: int
) -> list[tuple[int, Member]]:
    """(offset of its header, member) for every entry; each is inside the file."""
    members = []
    for entry in entries:
        fields = ENTRY.unpack_from(entry)
        _, _, _, flags, method, _, _, crc, packed, size, length, extra, *_, disk, _, _, at = fields
        raw = entry[ENTRY.size : ENTRY.size + length]
        name = _name(path, raw)
        if flags & ENCRYPTED:
            raise InputError(f"{path}: member {shown(name)} is encrypted")
        extras = entry[ENTRY.size + length : ENTRY.size + length + extra]
        size, packed, at, disk = _wide(path, name, extras, [size, packed, at, disk])
        if method or packed != size:
            raise InputError(f"{path}: member {shown(name)} is compressed, torch.save stores it")
        header = b""
        if disk == 0 and at + LOCAL.size + length <= begin:
            file.seek(at)
            header = file.read(LOCAL.size + length)
        if len(header) != LOCAL.size + length or header[:4] != b"PK\x03\x04":
            raise InputError(f"{path}: member {shown(name)} is not where the directory says")
        _, _, flags, method, *_, extra = LOCAL.unpack_from(header)
        if flags & ENCRYPTED or method or header[LOCAL.size :] != raw:
            raise InputError(f"{path}: member {shown(name)} differs from the directory's entry")
        start = at + LOCAL.size + length + extra
        if start + size > begin:
            raise InputError(f"{path}: member {shown(name)} of {size} bytes leaves the file")
        members.append((at, Member(path, name, start, size, crc, whole)))
    return members


def _name(path: Path, raw: bytes) -> str:
    """The name of a member: relative, in a folder, of plain parts."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    parts = name.split("/")
    plain = not any(part in ("", ".", "..") for part in parts) and name.isprintable()
    if not plain or "\\" in name or ":" in name or len(parts) < 2 or len(raw) > NAME_BYTES:
        raise InputError(f"{path}: a member is named {shown(raw)}, archive/... was expected")
    return name


def _wide(path: Path, name: str, extras: bytes, values: list[int]) -> list[int]:
    """[size, packed size, offset, disk], each taken from the zip64 field where it is full."""
    wide, place = b"", 0
    while place + 4 <= len(extras):
        kind, length = struct.unpack_from("<2H", extras, place)
        if kind == 1:
            wide = extras[place + 4 : place + 4 + length]
        place += 4 + length
    for number, full in enumerate((FULL32, FULL32, FULL32, FULL16)):
        if values[number] == full:
            width = 8 if full == FULL32 else 4
            if len(wide) < width:
                raise InputError(f"{path}: member {shown(name)} lacks its 64-bit size")
            values[number], wide = int.from_bytes(wide[:width], "little"), wide[width:]
    return values


def _refuse_overlap(path: Path, members: list[tuple[int, Member]], begin: int) -> None:
    """InputError if two members share a byte, or the first does not begin the file."""
    last = 0
    for at, member in sorted(members, key=lambda pair: pair[0]):
        if at < last or (last == 0 and at):
            raise InputError(f"{path}: member {shown(member.name)} overlaps what is before it")
        last = member.start + member.size


def _without_folder(path: Path, members: list[tuple[int, Member]]) -> dict[str, Member]:
    """Members by name, the one folder they are in taken off."""
    found: dict[str, Member] = {}
    folders = {member.name.split("/")[0] for _, member in members}
    if len(folders) != 1:
        raise InputError(f"{path}: its members are in {len(folders)} folders, one was expected")
    for _, member in members:
        name = member.name.split("/", 1)[1]
        if name in found:
            raise InputError(f"{path}: member {shown(name)} is there twice")
        found[name] = member
    return found
