"""Schemas of the store, one file a revision, and the way from one to the next.

A way up or down is one transaction, tables and all: a kill in the middle leaves the schema that was
there. Who comes second waits. Several servers may start at once.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from puna.errors import InputError
from puna.store.place import WRITERS, reason
from puna.store.tables import Base

HERE = Path(__file__).parent
TABLE = "puna_schema"  # holds the revision; other programs' migrations may live beside us
_one = threading.Lock()  # Alembic's `op` is one for the process


def upgrade(engine: Engine, place: str, folders: Sequence[Path] = (HERE,)) -> None:
    """Bring the database to the newest schema that `folders` know.

    InputError: it is newer than that, holds tables that are not ours, or cannot be changed.
    """
    with _told(place), _one:
        scripts = _scripts(folders)
        before = _revision(engine, place, scripts)
        if before == scripts.get_current_head():
            return
        if before is not None:
            _copy(engine, before)
        _go(engine, scripts, lambda now: scripts._upgrade_revs("head", now))


def downgrade(engine: Engine, place: str, revision: str, folders: Sequence[Path] = (HERE,)) -> None:
    """Take the database back to an older schema, "0001" for instance, for an older Puna.

    What only the newer schema holds is lost, so a copy of a SQLite file is written first.
    InputError: no such revision, or it is not older.
    """
    with _told(place), _one:
        scripts = _scripts(folders)
        before = _revision(engine, place, scripts)
        known = [script.revision for script in scripts.walk_revisions()]
        if before is None or revision not in known[known.index(before) :]:
            raise InputError(f"store: {place}: schema {revision!r}, expected one before {before}")
        _copy(engine, before)
        _go(engine, scripts, lambda now: scripts._downgrade_revs(revision, now))


def revision(engine: Engine) -> str | None:
    """The schema of the database; None for an empty one."""
    with engine.connect() as connection:
        return _context(connection).get_current_revision()


def _scripts(folders: Sequence[Path]) -> ScriptDirectory:
    return ScriptDirectory(str(HERE), version_locations=[str(folder) for folder in folders])


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": TABLE})


def _revision(engine: Engine, place: str, scripts: ScriptDirectory) -> str | None:
    with engine.connect() as connection:
        found = _context(connection).get_current_revision()
        names = set(inspect(connection).get_table_names())
    if found is None and (foreign := names & set(Base.metadata.tables)):
        raise InputError(
            f"store: {place}: has a table {min(foreign)} that no version of Puna made, "
            "expected an empty database"
        )
    known = [script.revision for script in scripts.walk_revisions()]
    if found is not None and found not in known:
        raise InputError(
            f"store: {place}: has schema {found}, made by a newer Puna; this one knows schemas up "
            f"to {known[0]}: update Puna, or take the store back with the newer one"
        )
    return found


def _go(engine: Engine, scripts: ScriptDirectory, steps: Callable[[Any], Any]) -> None:
    writer = engine.execution_options(puna_write=True)
    sqlite = engine.dialect.name == "sqlite"
    with writer.connect() as connection:
        with _unbound(connection) if sqlite else contextlib.nullcontext(), connection.begin():
            if not sqlite:
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({WRITERS})"))
            with EnvironmentContext(
                Config(), scripts, fn=lambda now, context: steps(now)
            ) as environment:
                environment.configure(
                    connection=connection, version_table=TABLE, transactional_ddl=True
                )
                environment.run_migrations()
            if sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).all()):
                raise InputError(f"the migration would break references of {broken[0][0]}")


@contextlib.contextmanager
def _unbound(connection: Connection) -> Iterator[None]:
    """Without foreign keys, as SQLite wants it where a table is written anew."""
    raw = connection.connection.cursor()
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        raw.execute("PRAGMA foreign_keys=ON")
        raw.close()


def _copy(engine: Engine, before: str) -> None:
    """A copy of a SQLite file, as it is, beside it; PostgreSQL's owner has pg_dump."""
    if engine.dialect.name != "sqlite":
        return
    path = Path(engine.url.database or "")
    copy, draft = (path.with_name(f"{path.name}.schema-{before}{end}") for end in ("", ".part"))
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(path)) as source:
        with contextlib.closing(sqlite3.connect(draft)) as target:
            source.backup(target)
    draft.replace(copy)


@contextlib.contextmanager
def _told(place: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise InputError(f"store: {place}: {reason(error)}") from None
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"store: {place}: no copy before the change: {error}") from None
