"""A database behind two doors: one to read, one to write.

SQLite (a file, write-ahead log, every commit on the disk) or PostgreSQL by its URL.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.orm import Session

from puna.errors import InputError
from puna.store.faults import Unavailable
from puna.store.tables import Base

WAIT_SECONDS = 5.0  # for the lock of the database, until a write is refused


class Store:
    """An open database. `read` and `write` give sessions; a write is whole or not at all."""

    def __init__(self, engine: Engine) -> None:
        """Use `open_store` instead."""
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        self._turn = threading.Lock()  # SQLite has one writer; threads of ours wait here in order

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database and changes nothing."""
        with self._told(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are on the disk when the block ends; an error undoes them."""
        with self._told(), self._alone(), Session(self._engine, expire_on_commit=False) as session:
            session.info["write"] = True
            with session.begin():
                yield session

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._sqlite:
            yield
            return
        if not self._turn.acquire(timeout=WAIT_SECONDS):
            raise Unavailable("the database is busy")
        try:
            yield
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise Unavailable(f"the database: {error.orig}") from error


def now() -> float:
    """Seconds since 1970."""
    return time.time()


def open_store(place: str | Path) -> Store:
    """The store in a file, or at a URL. InputError: no such place, or not a database of ours."""
    url = url_of(str(place))
    try:
        engine = create_engine(url, pool_pre_ping=not url.drivername.startswith("sqlite"))
    except (ArgumentError, ImportError) as error:
        raise InputError(f"store: {place}: {error}") from None
    if url.drivername.startswith("sqlite"):
        event.listen(engine, "connect", _set_sqlite)
    try:
        Base.metadata.create_all(engine)  # until migrations stand here
    except DBAPIError as error:
        raise InputError(f"store: {place}: {error.orig}") from None
    return Store(engine)


def url_of(place: str) -> URL:
    """A path as SQLite's URL; PostgreSQL's with the driver that we use."""
    if "://" not in place:
        return URL.create("sqlite", database=place)
    url = make_url(place)
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _set_sqlite(connection, _record) -> None:  # type: ignore[no-untyped-def]
    cursor = connection.cursor()
    for line in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {line}")
    cursor.close()
