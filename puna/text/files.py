"""Files read and written whole: JSON, JSON Lines, text. Faults name the file and the line.

A write is atomic: the content goes to a temporary sibling, is flushed to the disk and renamed, so
that a reader sees the old file or the new one and never half of either.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from puna.errors import InputError
from puna.text.dialog import Dialog, Label, Preference

T = TypeVar("T")
PathLike = str | os.PathLike[str]
LINE_BYTES = 64 << 20  # of one record; a longer line is damaged, or meant to fill the memory


def read_jsonl(
    path: PathLike, parse: Callable[[dict[str, Any]], T], allow_empty: bool = False
) -> list[T]:
    """Return `parse` of every line's JSON object; a name ending in `.gz` is unpacked.

    Blank lines are passed over. InputError `path:37: ...` on a line that is not UTF-8, not JSON,
    not an object, or that `parse` refuses; also on a file without records unless `allow_empty`.
    """
    records: list[T] = []
    for number, line in _lines(path):
        try:
            records.append(parse(_object(line)))
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from None
    if not records and not allow_empty:
        raise InputError(f"{path}: has no records, expected at least one")
    return records


def write_jsonl(path: PathLike, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically; a name ending in `.gz` is packed.

    InputError if the file cannot be written or a record is not JSON (NaN is not).
    """
    with replaced(path) as file:
        packed = str(path).endswith(".gz")
        sink = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if packed else file
        for record in records:
            sink.write(_encode(path, _dumps(path, record) + "\n"))
        if sink is not file:
            sink.close()


def read_json(path: PathLike) -> Any:
    """Return the JSON value in a file. InputError if it cannot be read or is not JSON."""
    try:
        return _loads(_decode(_bytes(path)))
    except InputError as error:
        raise InputError(_at(path, error)) from None


def read_bounded(path: PathLike, most: int, what: str) -> bytes:
    """The bytes of a small file. InputError if it cannot be read, or has more than `most`."""
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > most:
        raise InputError(f"{path}: has more than {most} bytes, expected {what}")
    return content


def write_json(path: PathLike, value: object) -> None:
    """Write an indented JSON value atomically. InputError if it is not JSON (NaN is not)."""
    write_text(path, _dumps(path, value, indent=2) + "\n")


def write_text(path: PathLike, text: str) -> None:
    """Write UTF-8 text atomically, making the folders above it. InputError names the path."""
    write_bytes(path, _encode(path, text))


def write_bytes(path: PathLike, content: bytes) -> None:
    """Write bytes atomically, making the folders above the file. InputError names the path."""
    with replaced(path) as file:
        file.write(content)


@contextmanager
def replaced(path: PathLike) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` at the end, or vanishes on any error.

    It is a hidden sibling until then. InputError if it cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {_reason(error)}") from None
    finally:
        _remove(temporary)


def sha256(path: PathLike) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits. InputError if unreadable."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from None


def read_dialogs(path: PathLike) -> list[Dialog]:
    """Return the dialogs of a JSONL file. InputError `path:line: field ...`."""
    return read_jsonl(path, Dialog.from_json)


def write_dialogs(path: PathLike, dialogs: Iterable[Dialog]) -> None:
    """Write one dialog a line, atomically."""
    write_jsonl(path, (dialog.to_json() for dialog in dialogs))


def read_preferences(path: PathLike) -> list[Preference]:
    """Return the preferences of a JSONL file. InputError `path:line: field ...`."""
    return read_jsonl(path, Preference.from_json)


def write_preferences(path: PathLike, preferences: Iterable[Preference]) -> None:
    """Write one preference a line, atomically."""
    write_jsonl(path, (preference.to_json() for preference in preferences))


def read_labels(path: PathLike) -> list[Label]:
    """Return the labels of a JSONL file. InputError `path:line: field ...`."""
    return read_jsonl(path, Label.from_json)


def write_labels(path: PathLike, labels: Iterable[Label]) -> None:
    """Write one label a line, atomically."""
    write_jsonl(path, (label.to_json() for label in labels))


class _NotJson(InputError):
    """A text is not JSON: at line `line` of that text, for the reason in its message."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(f"not valid JSON: {reason}")
        self.line = line


def _at(path: PathLike, error: InputError) -> str:
    where = f"{path}:{error.line}" if isinstance(error, _NotJson) else f"{path}"
    return f"{where}: {error}"


def _lines(path: PathLike) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, numbered from 1."""
    try:
        with gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(bounded(file, path), start=1):
                if line.strip():
                    yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from None


def bounded(file: IO[bytes] | gzip.GzipFile, path: PathLike) -> Iterator[bytes]:
    """The lines of an open file. InputError on one of more than LINE_BYTES, which is not read."""
    number = 1
    while line := file.readline(LINE_BYTES + 1):
        if len(line) > LINE_BYTES:
            raise InputError(f"{path}:{number}: has more than {LINE_BYTES >> 20} MB in one line")
        yield line
        number += 1


def _bytes(path: PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {_reason(error)}") from None


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: byte {error.start + 1} is wrong") from None


def _object(line: bytes) -> dict[str, Any]:
    value = _loads(_decode(line))
    if not isinstance(value, dict):
        raise InputError("expected a JSON object, {...}")
    return value


def _loads(text: str) -> Any:
    """The JSON value in a text, without the NaN and Infinity that Python would let pass."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _NotJson(f"{error.msg}, column {error.colno}", error.lineno) from None
    except RecursionError:
        raise _NotJson("nested too deeply") from None
    except InputError:
        raise
    except ValueError as error:
        raise _NotJson(str(error)) from None


def _refuse_constant(name: str) -> None:
    raise _NotJson(f"{name} is not a JSON number")


def _dumps(path: PathLike, value: object, indent: int | None = None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be written as JSON: {error}") from None


def _encode(path: PathLike, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        reason = "it has half a UTF-16 surrogate pair, which is not text"
        raise InputError(f"{path}: cannot be written: {reason}") from None


def _sync_folder(folder: Path) -> None:
    """Flush a rename to the disk, so that it outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Remove what a failed write left; a folder that cannot be reached holds nothing of ours."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _reason(error: Exception) -> str:
    """The plain reason of a fault of reading or writing, without path and number."""
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or str(error) or type(error).__name__
