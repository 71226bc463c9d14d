"""Readers of the files people publish: dialogues, preferences, judgements and plain text.

JSON Lines, JSON lists, plain text (each also as .gz), Parquet, and folders of these. Every reader
is a generator; a fault raises an InputError that begins with `path:line`, and what is skipped or
repaired is counted in a `Ledger` under the stage "read".
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from gzip import GzipFile
from hashlib import blake2b
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from puna.data.corpus import Document, Ledger
from puna.data.records import STAGE, Record, Skipped, parse
from puna.errors import InputError
from puna.text.dialog import Dialog, Label, Preference
from puna.text.files import bounded

SUFFIXES = (".jsonl", ".ndjson", ".json", ".txt", ".parquet")  # taken from a folder; also + ".gz"
R = TypeVar("R", Dialog, Preference, Label, Document)
J = TypeVar("J", Dialog, Preference, Label)


def read_any(
    path: str | Path, ledger: Ledger | None = None, source: str = "", whole: bool = False
) -> Iterator[Record]:
    """Every record of a file or folder; the content, not the name, decides what a record is.

    `source` names the data set (default: the file's name without endings). Plain text gives one
    Document a block between blank lines, or one a file if `whole`.

    Raises:
        InputError: a file is missing, empty, damaged or not UTF-8, or a record malformed.
    """
    for _, record in _placed(Path(path), ledger or Ledger(), source, whole):
        yield record


def iter_dialogs(
    path: str | Path, ledger: Ledger | None = None, source: str = ""
) -> Iterator[Dialog]:
    """The dialogues of a file or folder, as `read_any`; InputError on a record of another kind."""
    return _only(Dialog, _placed(Path(path), ledger or Ledger(), source, False))


def iter_preferences(
    path: str | Path, ledger: Ledger | None = None, source: str = ""
) -> Iterator[Preference]:
    """The preferences of a file or folder, as `read_any`; InputError on another kind."""
    return _only(Preference, _placed(Path(path), ledger or Ledger(), source, False))


def iter_labels(
    path: str | Path, ledger: Ledger | None = None, source: str = ""
) -> Iterator[Label]:
    """The judged answers of a file or folder, as `read_any`; InputError on another kind."""
    return _only(Label, _placed(Path(path), ledger or Ledger(), source, False))


def iter_documents(
    path: str | Path, ledger: Ledger | None = None, source: str = "", whole: bool = False
) -> Iterator[Document]:
    """The pretraining documents of a file or folder, as `read_any`; InputError on another kind."""
    return _only(Document, _placed(Path(path), ledger or Ledger(), source, whole))


def _only(kind: type[R], placed: Iterable[tuple[str, Record]]) -> Iterator[R]:
    for place, record in placed:
        if not isinstance(record, kind):
            found, wanted = type(record).__name__.lower(), kind.__name__.lower()
            raise InputError(f"{place}: holds a {found}, expected a {wanted}")
        yield record


def _placed(path: Path, ledger: Ledger, source: str, whole: bool) -> Iterator[tuple[str, Record]]:
    """(place, record) of every usable record; the others are counted with their reason."""
    for file in _files(path, ledger):
        name = source or _stem(file)
        empty = True
        for place, fields in _contents(file, whole):
            empty = False
            ledger.see(STAGE)
            try:
                record = parse(fields, name, ledger)
            except Skipped as reason:
                ledger.drop(STAGE, str(reason))
                continue
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
            ledger.keep(STAGE)
            yield place, record
        if empty:
            raise InputError(f"{file}: holds no records")


# --- files → records ------------------------------------------------------------------------------


def _files(path: Path, ledger: Ledger) -> list[Path]:
    """The file itself, or the readable files under a folder in order of their names."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    chosen = [p for p in inside if p.name.removesuffix(".gz").endswith(SUFFIXES)]
    if len(chosen) < len(inside):
        ledger.note(STAGE, "files of other kinds passed over", len(inside) - len(chosen))
    if not chosen:
        raise InputError(f"{path}: no file ends in {', '.join(SUFFIXES)} (or these with .gz)")
    return chosen


def _stem(file: Path) -> str:
    name = file.name.removesuffix(".gz")
    return next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)


def _contents(file: Path, whole: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, fields) of a file, by its content; a name that says JSON or text is believed."""
    name = file.name.removesuffix(".gz")
    head = _head(file)
    if head[:4] == b"PAR1":
        return _parquet(file)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    says_json = name.endswith((".jsonl", ".ndjson", ".json"))
    if name.endswith(".txt") or not (says_json or start in (b"{", b"[")):
        return _text(file, whole)
    return _json_list(file) if start == b"[" else _json_lines(file)


def _head(file: Path) -> bytes:
    try:
        with _open(file) as stream:
            return stream.read(4096)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None


def _open(file: Path) -> GzipFile | BufferedReader:
    """The file's bytes, decompressed if it begins as gzip does."""
    with open(file, "rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return GzipFile(file) if zipped else open(file, "rb")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a UTF-8 file."""
    number = 0
    try:
        with _open(file) as stream:
            for number, line in enumerate(bounded(stream, file), 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}:{number}: is not UTF-8 text: {error.reason}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}:{number + 1}: cannot be read: {error}") from None


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(file):
        if line.strip():
            yield f"{file}:{number}", _object(_json(line, f"{file}:{number}"), f"{file}:{number}")


def _json_list(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A JSON list of objects; the place is the object's number from 1."""
    values = _json("".join(line for _, line in _lines(file)), str(file))
    for number, value in enumerate(values, 1):
        yield f"{file}:{number}", _object(value, f"{file}:{number}")


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: is not JSON: {error}") from None


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{place}: is a JSON {type(value).__name__}, expected an object")
    return value


def _text(file: Path, whole: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Blocks of text between blank lines; the place is a block's first line."""
    first, block = 1, list[str]()
    for number, line in _lines(file):
        if line.strip() or whole:
            first = first if block else number
            block.append(line)
        elif block:
            yield f"{file}:{first}", {"text": "".join(block).strip(), "site": file.name}
            block = []
    if block:
        yield f"{file}:{first}", {"text": "".join(block).strip(), "site": file.name}


def _parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a Parquet file; the place is the row's number from 1."""
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise InputError(f"{file}: Parquet needs the extra puna[data] (pyarrow)") from None
    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            batches = table.iter_batches(batch_size=1024)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"{file}:{number}", row
    except (ArrowException, OSError) as error:
        raise InputError(f"{file}:{number + 1}: cannot be read: {error}") from None


# --- held-out split -------------------------------------------------------------------------------


def prompt_key(record: Dialog | Preference | Label) -> str:
    """The prompt's text without system message, case and spacing: equal keys are one prompt."""
    dialog = record if isinstance(record, Dialog) else record.dialog
    parts = (m.content for m in dialog.prompt().messages if m.role != "system")
    return "\x1e".join(" ".join(part.casefold().split()) for part in parts)


def split_by_prompt(records: Iterable[J], share: float, seed: int) -> tuple[list[J], list[J]]:
    """(training, held-out) records: about `share` of the prompts are held out.

    A hash of the seed and the prompt's text decides, so a prompt never stands on both sides, and
    its side does not depend on the other records or their order.

    Raises:
        InputError: the share is not in [0, 1].
    """
    sides: tuple[list[J], list[J]] = ([], [])
    for record in records:
        sides[is_held_out(record, share, seed)].append(record)
    return sides


def is_held_out(record: Dialog | Preference | Label, share: float, seed: int) -> bool:
    """The side of one record in `split_by_prompt`; errors as there."""
    if not 0.0 <= share <= 1.0:
        raise InputError(f"share: {share}, expected a share in [0, 1]")
    text = f"{seed}\x1e{prompt_key(record)}".encode("utf-8", "replace")
    draw = int.from_bytes(blake2b(text, digest_size=8).digest(), "big") / 2.0**64
    return draw < share
