"""A folder that appears whole or not at all, sealed with the SHA-256 of every file in it."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from puna.errors import InputError
from puna.text.files import read_json, sha256, write_json

MANIFEST = "manifest.json"
MOST_BYTES = 1 << 24  # of a manifest


def commit(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a new folder with `write` and put it at `folder`, in the place of an earlier one.

    The files are written to a hidden sibling, flushed to the disk and moved in by a rename. A
    process that is killed at any moment leaves the earlier folder or the new one (see `current`);
    what it leaves beside them is removed by the next commit. InputError if it cannot be written,
    or if `folder` holds anything that its manifest does not list: replacing it would delete that.
    """
    recover(folder)
    refuse_strangers(folder)
    new, old = sibling(folder, "new"), sibling(folder, "old")
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        new.mkdir(parents=True)
        write(new)
        flush(new)
    except Exception as error:
        shutil.rmtree(new, ignore_errors=True)  # give the space back: the disk may be full
        if isinstance(error, OSError):
            raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
        raise
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    for parent in (folder.parent, *(parent.parent for parent in made)):
        flush_entry(parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Undo a commit that was interrupted: the earlier folder is put back, leftovers are removed."""
    new, old = sibling(folder, "new"), sibling(folder, "old")
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)


def current(folder: Path) -> Path:
    """Where the folder's contents are now: in its place, or beside it while it is replaced."""
    if folder.exists():
        return folder
    old = sibling(folder, "old")
    return old if old.exists() else folder


def sibling(folder: Path, suffix: str) -> Path:
    """The hidden folder beside `folder` in which a commit builds ("new") or keeps ("old")."""
    return folder.with_name(f".{folder.name}.{suffix}")


def seal(folder: Path, **record: Any) -> None:
    """Write manifest.json: the record, and size (bytes) and SHA-256 of every file in the folder."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
    }
    write_json(folder / MANIFEST, {"format": 1, **record, "files": files})


def sealed(folder: Path) -> bool:
    """Whether a folder has a manifest of ours. InputError if its manifest.json cannot be read."""
    path = folder / MANIFEST
    record = _record(path) if path.is_file() else None
    return isinstance(record, dict) and {"format", "files"} <= record.keys()


def manifest(folder: Path) -> dict[str, Any]:
    """The record of a sealed folder, unchecked. InputError if there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        there = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise InputError(f"{folder}: {there}, a checkpoint folder was expected")
    record = _record(path)
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise InputError(
            f"{path}: has no table of files, the manifest of a checkpoint was expected"
        )
    return record


def _record(path: Path) -> Any:
    """The JSON value of a manifest. InputError if it is far larger than one can be."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"{path}: has {size} bytes, a manifest has at most {MOST_BYTES}")
    return read_json(path)


def verify(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The record of a sealed folder, once every file has the size and SHA-256 it was sealed with.

    InputError names the first file that is missing, cut short or changed; `names` must be listed.
    """
    record = manifest(folder)
    files: Mapping[str, Any] = record["files"]
    for name in (*names, *files):
        path = folder / name
        if name not in files:
            raise InputError(f"{folder / MANIFEST}: does not list {name}")
        if not path.is_file():
            raise InputError(f"{path}: is missing, the manifest lists it")
        size, expected = path.stat().st_size, files[name].get("bytes")
        if size != expected:
            raise InputError(f"{path}: has {size} bytes, the manifest says {expected}")
        if sha256(path) != files[name].get("sha256"):
            raise InputError(f"{path}: its content differs from the SHA-256 in the manifest")
    return record


def refuse_strangers(folder: Path) -> None:
    """InputError if `folder` is a file or holds something that no manifest in it lists."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, a folder was expected")
    found = {path.name for path in folder.iterdir()}
    known = {MANIFEST, *manifest(folder)["files"]} if MANIFEST in found else set()
    if strangers := sorted(found - known):
        raise InputError(f"{folder}: holds {strangers[0]}, which is not part of a checkpoint")


def flush(folder: Path) -> None:
    """Flush every file of a folder, and the folder, to the disk."""
    for path in (*folder.iterdir(), folder):
        flush_entry(path)


def flush_entry(path: Path) -> None:
    """Flush one file, or the names in one folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
