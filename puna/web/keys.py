"""Who may ask: API keys, of which only SHA-256 digests are kept, in a TOML file.

    [alice]
    sha256 = "..."
    requests_per_minute = 60
    tokens_per_minute = 100_000
    tokens_per_day = 2_000_000
    concurrent = 8
    models = ["smollm2", "smollm2:cafe"]
    admin = true

Every line but the digest may be left out: nothing is then limited, all models may be asked, and
`/metrics` may not be read. A server follows changes of the file without a new start.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from puna.config import read_toml
from puna.errors import InputError

Positive = Annotated[int, Meta(ge=1)]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

log = logging.getLogger("puna.web")


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One key: whose it is, the digest of its text, what it may do."""

    name: str = ""
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None  # of prompts and answers
    tokens_per_day: Positive | None = None
    concurrent: Positive | None = None  # requests at the same time
    models: tuple[str, ...] = ()  # "name", or "name:adapter"; empty: all
    admin: bool = False  # whether it may read /metrics

    def allows(self, model: str) -> bool:
        """Whether the key may ask this model, or this model's adapter."""
        return not self.models or model in self.models


# Who asks where no keys are set up: anybody on this machine.
NOBODY = Key(name="local", sha256="0" * 64, admin=True)
# Who asks before it is known: may read nothing but what is public.
STRANGER = Key(name="-", sha256="0" * 64, models=("",))


class Keys:
    """The keys of a server; those of a file are read again when it has changed."""

    def __init__(
        self,
        keys: Iterable[Key] = (),
        path: Path | None = None,
        seen: tuple[int, ...] = (),
        closed: bool = False,
    ) -> None:
        """Keep the keys; none at all leaves the server open, unless it is `closed` to all.

        path: the file that they were read from, which looked like `seen` before.
        """
        self._keys, self._path, self._seen = list(keys), path, seen
        self._closed = closed

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return self._closed or bool(self._keys)

    def find(self, text: bytes) -> Key | None:
        """The key with this text, or None. How long that takes says nothing about the text."""
        self._refresh()
        digest = hashlib.sha256(text).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key
        return found

    def _refresh(self) -> None:
        """Take what the file says now; one that cannot be used changes nothing, in one line."""
        state = _state(self._path)
        if self._path is None or state == self._seen:
            return
        self._seen = state
        try:
            self._keys = _read(self._path)
        except (InputError, OSError) as error:
            log.error("the keys stay as they were: %s", " ".join(str(error).split()))
        else:
            log.info("%s: read again, %d keys", self._path, len(self._keys))


def _state(path: Path | None) -> tuple[int, ...]:
    """What changes when a file does; nothing where there is none."""
    try:
        found = path.stat() if path else None
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else ()


def read_keys(path: Path) -> Keys:
    """The keys in a file. InputError: not of this layout, a digest twice, or no key."""
    seen = _state(path)
    return Keys(_read(path), path, seen)


def _read(path: Path) -> list[Key]:
    keys = []
    for name, table in read_toml(path).items():
        if not NAME.fullmatch(name):
            raise InputError(f"{path}: {name!r} is no name, expected letters, digits, - and _")
        if isinstance(table, dict) and "name" in table:
            raise InputError(f"{path}: {name}.name: unknown setting")
        try:
            key = msgspec.convert(table, Key)
        except msgspec.ValidationError as error:
            raise InputError(f"{path}: {name}: {error}") from None
        keys.append(msgspec.structs.replace(key, name=name))
    if not keys:
        raise InputError(f"{path}: holds no key; --new-key=NAME makes one")
    if len({key.sha256 for key in keys}) < len(keys):
        raise InputError(f"{path}: two names have the same key")
    return keys


def add_key(path: Path, name: str) -> str:
    """Make a key, append its digest to the file, and return its text, which nothing keeps.

    InputError: the name is none, or has a key already.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"new_key: {name!r} is no name, expected letters, digits, - and _")
    if path.exists() and name in read_toml(path):
        raise InputError(f"{path}: {name} has a key; remove its lines to make another")
    text = f"puna-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "a", encoding="utf-8") as file:
        gap = "\n" if file.tell() else ""
        file.write(f'{gap}[{name}]\nsha256 = "{digest}"\n')
    return text


def bearer(values: Iterable[bytes]) -> bytes | None:
    """The key's text in the `Authorization` headers; None unless there is exactly one."""
    found = list(values)
    if len(found) != 1:
        return None
    scheme, _, text = found[0].partition(b" ")
    return text.strip() if scheme.lower() == b"bearer" and text.strip() else None
