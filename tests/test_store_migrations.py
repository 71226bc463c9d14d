"""Schemas of the store: old or new and never half, no newer one, a copy before a change."""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from puna.errors import InputError
from puna.store import migrations
from puna.store.migrations import HERE, TABLE
from puna.store.place import engine_of
from puna.store.store import open_store
from puna.store.tables import Base

ROOT = Path(__file__).resolve().parent.parent
NEXT = '''
"""A schema after this version's."""
import os
import sqlalchemy as sa
from alembic import op

revision, down_revision = "9001", "{before}"


def upgrade():
    op.add_column("accounts", sa.Column("motto", sa.Text))
    op.execute("UPDATE accounts SET motto = 'none'")
    op.create_table("mottos", sa.Column("id", sa.Integer, primary_key=True))
    if os.environ.get("PUNA_DIE"):
        os.kill(os.getpid(), 9)
    {more}


def downgrade():
    op.drop_table("mottos")
    with op.batch_alter_table("accounts") as table:
        table.drop_column("motto")
'''


def newest() -> str:
    """The newest schema of this version."""
    return max(path.stem for path in HERE.glob("v*.py")).removeprefix("v")


def next_schema(folder: Path, more: str = "") -> tuple[Path, Path]:
    """Where migrations are, with one more after this version's newest."""
    folder.mkdir(exist_ok=True)
    code = textwrap.dedent(NEXT).format(before=newest(), more=more or "pass")
    (folder / "v9001.py").write_text(code)
    return HERE, folder


def with_person(place: str) -> None:
    store = open_store(place)
    with store.write() as session:
        session.execute(
            text(
                "INSERT INTO accounts (name, folded, role, created) VALUES ('Anna', 'anna', 'a', 1)"
            )
        )
    store.close()


def seen(place: str) -> tuple[str | None, set[str], int]:
    """Schema, columns of accounts, rows of accounts."""
    engine = engine_of(place)
    with engine.connect() as connection:
        columns = {column["name"] for column in inspect(connection).get_columns("accounts")}
        rows = connection.execute(text("SELECT count(*) FROM accounts")).scalar_one()
    found = migrations.revision(engine)
    engine.dispose()
    return found, columns, rows


def test_what_the_migrations_make_is_what_the_tables_say(place: str) -> None:
    store = open_store(place)
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        differences = compare_metadata(context, Base.metadata)
    store.close()
    own = [d for d in differences if not (d[0] == "remove_table" and d[1].name == TABLE)]
    assert own == []


def test_an_older_schema_is_brought_up_and_what_was_in_it_stays(place: str, tmp_path: Path) -> None:
    with_person(place)
    engine = engine_of(place)
    migrations.upgrade(engine, place, next_schema(tmp_path / "next"))
    engine.dispose()
    revision, columns, rows = seen(place)
    assert (revision, "motto" in columns, rows) == ("9001", True, 1)


def test_a_migration_killed_half_way_leaves_the_old_schema_and_runs_whole_later(
    place: str, tmp_path: Path
) -> None:
    with_person(place)
    before = seen(place)
    folders = next_schema(tmp_path / "next")
    code = (
        "import sys; from pathlib import Path; from puna.store import migrations;"
        "from puna.store.place import engine_of;"
        "migrations.upgrade(engine_of(sys.argv[1]), 'here', [Path(p) for p in sys.argv[2:]])"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, place, *map(str, folders)],
        cwd=ROOT,
        env={**os.environ, "PUNA_DIE": "1"},
        check=False,
    )
    assert killed.returncode == -9
    assert seen(place) == before
    store = open_store(place)  # the old version goes on with it
    store.close()
    engine = engine_of(place)
    migrations.upgrade(engine, place, folders)
    engine.dispose()
    assert seen(place)[0] == "9001"


def test_a_migration_that_fails_leaves_the_old_schema(place: str, tmp_path: Path) -> None:
    with_person(place)
    before = seen(place)
    engine = engine_of(place)
    with pytest.raises(InputError, match="nothing_here"):
        migrations.upgrade(
            engine, place, next_schema(tmp_path / "next", 'op.execute("DROP TABLE nothing_here")')
        )
    engine.dispose()
    assert seen(place) == before


def test_a_newer_schema_is_refused_in_one_line(place: str, tmp_path: Path) -> None:
    engine = engine_of(place)
    migrations.upgrade(engine, place, next_schema(tmp_path / "next"))
    engine.dispose()
    with pytest.raises(InputError, match=f"schema 9001, made by a newer Puna.*{newest()}") as told:
        open_store(place)
    assert len(str(told.value).splitlines()) == 1
    assert seen(place)[0] == "9001"


def test_the_newer_version_takes_a_store_back_and_the_older_opens_it(
    place: str, tmp_path: Path
) -> None:
    with_person(place)
    before = seen(place)
    folders = next_schema(tmp_path / "next")
    engine = engine_of(place)
    migrations.upgrade(engine, place, folders)
    migrations.downgrade(engine, place, newest(), folders)
    engine.dispose()
    assert seen(place) == before
    open_store(place).close()


@pytest.mark.parametrize("wanted", ["9999", "base"])
def test_a_store_is_not_taken_back_to_what_there_is_not(place: str, wanted: str) -> None:
    with_person(place)
    engine = engine_of(place)
    with pytest.raises(InputError, match=f"schema '{wanted}', expected"):
        migrations.downgrade(engine, place, wanted)
    engine.dispose()
    assert seen(place)[2] == 1


def test_a_copy_of_the_file_is_made_before_it_is_changed(tmp_path: Path) -> None:
    place = str(tmp_path / "puna.db")
    with_person(place)
    engine = engine_of(place)
    migrations.upgrade(engine, place, next_schema(tmp_path / "next"))
    engine.dispose()
    copy = tmp_path / f"puna.db.schema-{newest()}"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    revision, columns, rows = seen(str(copy))
    assert (revision, "motto" in columns, rows) == (newest(), False, 1)


def test_references_hold_after_a_table_is_written_anew(tmp_path: Path) -> None:
    place = str(tmp_path / "puna.db")
    with_person(place)
    engine = engine_of(place)
    folders = next_schema(tmp_path / "next")
    migrations.upgrade(engine, place, folders)
    migrations.downgrade(engine, place, newest(), folders)  # SQLite makes accounts anew
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
        assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1
        assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    engine.dispose()


def test_many_that_open_a_new_store_at_once_make_one(place: str) -> None:
    code = "import sys; from puna.store.store import open_store; open_store(sys.argv[1]).close()"
    many = [subprocess.Popen([sys.executable, "-c", code, place], cwd=ROOT) for _ in range(4)]
    assert [one.wait(60) for one in many] == [0, 0, 0, 0]
    assert seen(place)[0] == newest()


def test_tables_that_puna_did_not_make_are_left_alone(place: str) -> None:
    engine = engine_of(place)
    with engine.execution_options(puna_write=True).begin() as connection:
        connection.execute(text("CREATE TABLE accounts (id INTEGER PRIMARY KEY)"))
    engine.dispose()
    with pytest.raises(InputError, match="a table accounts that no version of Puna made"):
        open_store(place)
    engine = engine_of(place)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["accounts"]
    engine.dispose()
