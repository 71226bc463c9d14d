"""A database behind two doors: one to read, one to write.

Writers come one after the other, on SQLite by its lock and on PostgreSQL by one of ours, so what a
writer has read stays true until it has written, and the order of ids is the order of commits.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from sqlalchemy import Engine, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, TimeoutError
from sqlalchemy.orm import Session

from puna.store import migrations
from puna.store.faults import Conflict, Refused, Unavailable
from puna.store.place import WAIT_SECONDS, WRITERS, engine_of, reason, shown, url_of

__all__ = ["WAIT_SECONDS", "Store", "now", "open_store", "url_of"]

# What a database says when it cannot write, and what it says to people
TROUBLES = (
    ("locked", "the database is busy"),
    ("lock timeout", "the database is busy"),
    ("deadlock", "the database is busy"),
    ("full", "the disk of the database is full"),
    ("no space left", "the disk of the database is full"),
    ("readonly", "the database is read-only"),
    ("read-only", "the database is read-only"),
    ("malformed", "the database is damaged"),
)


class Store:
    """An open database. `read` and `write` give sessions; a write is whole or not at all."""

    def __init__(self, engine: Engine) -> None:
        """Use `open_store` instead."""
        self.engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        self._turn = threading.Lock()  # SQLite has one writer; threads of ours wait here in order
        reading = {} if self._sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = engine.execution_options(postgresql_readonly=True, **reading)
        self._writer = engine.execution_options(puna_write=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database and cannot change it."""
        with self._told(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are on the disk when the block ends; an error undoes them.

        Conflict: a number or name that must be single is there already; Refused: a value that no
        column holds; Unavailable: the database is locked, full or read-only. Nothing is stored.
        """
        with self._told(), self._alone(), Session(self._writer, expire_on_commit=False) as session:
            session.info["write"] = True
            with session.begin():
                if not self._sqlite:
                    session.execute(text(f"SELECT pg_advisory_xact_lock({WRITERS})"))
                yield session

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._sqlite:
            yield
            return
        if not self._turn.acquire(timeout=WAIT_SECONDS):
            raise Unavailable("the database is busy: nothing was stored, try again")
        try:
            yield
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise Conflict("it is there already, or what it belongs to is gone") from error
        except (DataError, OverflowError, UnicodeEncodeError) as error:
            raise Refused("value", "is too large, or not text, expected less") from error
        except ProgrammingError:
            raise  # a fault of ours
        except DBAPIError as error:
            _away(error)
        except TimeoutError as error:
            raise Unavailable("the database is busy: nothing was stored, try again") from error


def _away(error: DBAPIError) -> NoReturn:
    said = reason(error).lower()
    words = next((words for sign, words in TROUBLES if sign in said), "the database is away")
    raise Unavailable(f"{words}: nothing was stored, try again") from error


def now() -> float:
    """Seconds since 1970."""
    return time.time()


def open_store(place: str | Path) -> Store:
    """The store in a file, or at a URL, brought to the schema of this version.

    InputError, in one line without a password: no such place, not a database of ours, made by a
    newer version. Before an older SQLite file is changed, a copy is written beside it.
    """
    engine = engine_of(str(place))
    try:
        migrations.upgrade(engine, shown(str(place)))
    except BaseException:
        engine.dispose()
        raise
    return Store(engine)
