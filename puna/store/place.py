"""Where a store is: a file (SQLite), or PostgreSQL by its URL; and how each is opened.

SQLite: write-ahead log, every commit on the disk before it is told (synchronous FULL), deleted
content overwritten. PostgreSQL: commits on the server's disk, UTF-8.
"""

import os
import re
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from puna.errors import InputError

WAIT_SECONDS = 5.0  # for the lock of the database, until a write is refused
WRITERS = 0x70756E61  # the advisory lock that PostgreSQL's writers hold one after the other
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
    f"busy_timeout={WAIT_SECONDS * 1000:.0f}",
)
_SECRETS = ("password", "passfile", "sslpassword", "sslkey")


def url_of(place: str) -> URL:
    """A path as SQLite's URL; PostgreSQL's with the driver that we use. InputError: neither."""
    if "://" not in place:
        if not place:
            raise InputError("store: is empty, expected a file or postgresql://...")
        return URL.create("sqlite", database=os.path.abspath(os.path.expanduser(place)))
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        raise InputError(
            f"store: {shown(place)}: is no URL, expected postgresql://user:password@host/database"
        ) from None
    kind = url.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and url.database and url.database != ":memory:":
        return URL.create("sqlite", database=os.path.abspath(url.database))
    raise InputError(f"store: {shown(place)}: expected a file or postgresql://...")


def shown(place: str) -> str:
    """A place as it may be printed: without a password."""
    if "://" not in place:
        return place
    hidden = re.sub(r"(?<=://)([^/?#]*):[^/?#]*@", r"\1:***@", place)
    hidden = re.sub(r"(?<=://)[^?#]*:[^?#]*@", "***@", hidden) if "***" not in hidden else hidden
    return re.sub(rf"([?&](?:{'|'.join(_SECRETS)})=)[^&#]*", r"\1***", hidden)


def engine_of(place: str) -> Engine:
    """Connections to the database. InputError, in one line: no such place, driver missing, no
    database of the kind that is wanted.
    """
    url = url_of(place)
    if url.drivername == "sqlite":
        _make_private(Path(url.database or ""), place)
        engine = create_engine(url, connect_args={"timeout": WAIT_SECONDS})
        event.listen(engine, "connect", _set_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = _postgres(url)
    try:
        with engine.connect() as connection:
            _check(connection)
    except DBAPIError as error:
        engine.dispose()
        raise InputError(f"store: {shown(place)}: {reason(error)}") from None
    except InputError as error:
        engine.dispose()
        raise InputError(f"store: {shown(place)}: {error}") from None
    return engine


def reason(error: DBAPIError) -> str:
    """What the database said, in one line."""
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    return lines[0] if lines else type(error.orig).__name__


def _make_private(path: Path, place: str) -> None:
    # The log and the index beside it get the same mode as the file.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise InputError(f"store: {place}: {error.strerror or error}") from None


def _postgres(url: URL) -> Engine:
    try:
        import psycopg  # noqa: F401 - only to know whether it is there
    except ImportError:
        raise InputError(
            "store: PostgreSQL needs the driver psycopg: pip install 'puna[postgres]'"
        ) from None
    wanted = {} if "connect_timeout" in url.query else {"connect_timeout": 10}
    engine = create_engine(url, pool_pre_ping=True, connect_args=wanted)
    event.listen(engine, "connect", _set_postgres)
    return engine


def _check(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        mode = connection.execute(text("PRAGMA journal_mode")).scalar_one()
        if mode != "wal":
            raise InputError(f"the write-ahead log cannot be used here (journal mode {mode})")
        connection.execute(text("SELECT count(*) FROM sqlite_master"))
        return
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise InputError(f"the database's encoding is {encoding}, expected UTF8")


def _set_sqlite(connection, _record) -> None:  # type: ignore[no-untyped-def]
    connection.isolation_level = None  # transactions begin in _begin_sqlite, tables' too
    cursor = connection.cursor()
    for line in PRAGMAS:
        cursor.execute(f"PRAGMA {line}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = bool(connection.get_execution_options().get("puna_write"))
    connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _set_postgres(connection, _record) -> None:  # type: ignore[no-untyped-def]
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {WAIT_SECONDS * 1000:.0f}")
        cursor.execute("SET idle_in_transaction_session_timeout = 600000")
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()
