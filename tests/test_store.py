"""The store on both databases: whole or not at all, in the order of ids, nothing silent."""

import itertools
import os
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from puna.errors import InputError
from puna.store import store as store_module
from puna.store.faults import Conflict, Refused, Unavailable
from puna.store.place import shown, url_of
from puna.store.store import Store, now, open_store
from puna.store.tables import Account


def account(name: str, role: str = "annotator") -> Account:
    return Account(name=name, folded=name.casefold(), role=role, created=now())


def add(store: Store, name: str) -> int:
    with store.write() as session:
        made = account(name)
        session.add(made)
        session.flush()
        return made.id


def names(store: Store) -> list[str]:
    with store.read() as session:
        return list(session.scalars(select(Account.name).order_by(Account.id)))


# --- reading and writing


def test_what_was_written_is_there_and_what_failed_is_not(store: Store) -> None:
    add(store, "Anna")
    with pytest.raises(RuntimeError), store.write() as session:
        session.add(account("Ben"))
        session.flush()
        raise RuntimeError
    assert names(store) == ["Anna"]


def test_a_reader_sees_one_state_whatever_is_written_meanwhile(store: Store) -> None:
    add(store, "Anna")
    with store.read() as session:
        before = session.scalar(select(func.count()).select_from(Account))
        add(store, "Ben")
        assert session.scalar(select(func.count()).select_from(Account)) == before == 1
    assert names(store) == ["Anna", "Ben"]


def test_a_reader_cannot_write(store: Store) -> None:
    with pytest.raises(Unavailable, match="read-only"), store.read() as session:
        session.add(account("Anna"))
        session.flush()
    assert names(store) == []
    add(store, "Ben")
    assert names(store) == ["Ben"]


def test_writers_come_one_after_the_other_so_that_what_was_read_stays_true(store: Store) -> None:
    def count_up() -> None:
        for _ in range(10):
            with store.write() as session:
                many = session.scalar(select(func.count()).select_from(Account)) or 0
                session.add(account(f"person {many}"))

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(store) == [f"person {n}" for n in range(40)]


def test_a_clock_that_goes_back_changes_no_order(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1_000_000.0, -3600.0)
    monkeypatch.setattr(store_module.time, "time", lambda: next(clock))
    for name in ("first", "second", "third"):
        with store.write() as session:
            session.add(Account(name=name, folded=name, role="admin", created=store_module.now()))
    with store.read() as session:
        rows = session.execute(select(Account.name, Account.created).order_by(Account.id)).all()
    assert [row.name for row in rows] == ["first", "second", "third"]
    assert rows[0].created > rows[2].created


def test_a_number_is_never_given_twice(store: Store) -> None:
    first = add(store, "Anna")
    with store.write() as session:
        session.delete(session.get(Account, first))
    assert add(store, "Ben") > first


def test_a_number_that_is_taken_is_a_conflict_and_what_stood_there_stays(store: Store) -> None:
    taken = add(store, "Anna")
    with pytest.raises(Conflict), store.write() as session:
        thief = account("Ben")
        thief.id = taken
        session.add(thief)
    assert names(store) == ["Anna"]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
def test_a_number_that_no_column_holds_is_refused(store: Store, value: int) -> None:
    with pytest.raises(Refused), store.read() as session:
        session.get(Account, value)
    with pytest.raises(Refused), store.write() as session:
        one = account("Anna")
        one.id = value
        session.add(one)
    assert names(store) == []


@pytest.mark.parametrize("words", ["\ud800", "name"], ids=["half a pair", "text"])
def test_a_text_that_is_no_text_is_refused(store: Store, words: str) -> None:
    if words == "name":
        add(store, words)
        assert names(store) == [words]
        return
    with pytest.raises(Refused), store.write() as session:
        session.add(account(words))
    assert names(store) == []


def test_a_reference_to_nothing_is_a_conflict(store: Store) -> None:
    with pytest.raises(Conflict), store.write() as session:
        session.execute(
            text(
                "INSERT INTO replies (account_id, key, sha256, reply, at) "
                "VALUES (77, 'k', 's', '{}', 0)"
            )
        )


# --- locked, full, read-only (SQLite)


@pytest.fixture
def small(tmp_path: Path) -> Store:
    return open_store(tmp_path / "puna.db")


def test_a_full_disk_acknowledges_nothing_and_the_store_recovers(small: Store) -> None:
    add(small, "Anna")
    with small.engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    small.close()

    def full(connection, _record) -> None:
        connection.execute(f"PRAGMA max_page_count={pages + 2}")

    store_module_event = pytest.importorskip("sqlalchemy").event
    store_module_event.listen(small.engine, "connect", full)
    stored, refused = [], []
    for number in range(200):
        name = f"{number} " + "x" * 200
        try:
            add(small, name)
            stored.append(name)
        except Unavailable as error:
            refused.append(str(error))
    assert refused and set(refused) == {
        "the disk of the database is full: nothing was stored, try again"
    }
    assert names(small) == ["Anna", *stored]
    store_module_event.remove(small.engine, "connect", full)
    small.close()  # space is found
    add(small, "Ben")
    assert names(small) == ["Anna", *stored, "Ben"]
    small.close()


def test_a_locked_database_acknowledges_nothing_and_the_store_recovers(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    other = sqlite3.connect(tmp_path / "puna.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with small.engine.connect() as connection:
        connection.connection.execute("PRAGMA busy_timeout=50")  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="busy"):
        add(small, "Anna")
    assert names(small) == []  # a reader is not kept waiting
    other.execute("ROLLBACK")
    other.close()
    add(small, "Ben")
    assert names(small) == ["Ben"]
    small.close()


def test_a_read_only_disk_acknowledges_nothing_and_the_store_recovers(small: Store) -> None:
    from sqlalchemy import event

    add(small, "Anna")

    def read_only(connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only=ON")

    event.listen(small.engine, "begin", read_only)
    with pytest.raises(Unavailable, match="the database is read-only: nothing was stored"):
        add(small, "Ben")
    event.remove(small.engine, "begin", read_only)
    add(small, "Cleo")
    assert names(small) == ["Anna", "Cleo"]
    small.close()


# --- locked and away (PostgreSQL)


def test_a_writer_that_waits_too_long_is_told_so(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "://" not in place:
        monkeypatch.setattr(store_module, "WAIT_SECONDS", 0.05)
    store = open_store(place)
    told: list[str] = []

    def wait() -> None:
        try:
            with store.write() as session:
                session.add(account("Ben"))
        except Unavailable as error:
            told.append(str(error))

    if "://" in place:
        from sqlalchemy import event

        event.listen(
            store.engine, "begin", lambda c: c.exec_driver_sql("SET LOCAL lock_timeout = 50")
        )
    with store.write() as session:
        session.add(account("Anna"))
        session.flush()
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    assert told == ["the database is busy: nothing was stored, try again"]
    assert names(store) == ["Anna"]
    store.close()


def test_a_connection_that_breaks_acknowledges_nothing(postgres) -> None:
    store = open_store(postgres.new())
    add(store, "Anna")
    with pytest.raises(Unavailable), store.write() as session:
        session.add(account("Ben"))
        session.flush()
        mine = session.scalar(text("SELECT pg_backend_pid()"))
        postgres.say(f"SELECT pg_terminate_backend({mine})")
    assert names(store) == ["Anna"]
    add(store, "Cleo")
    assert names(store) == ["Anna", "Cleo"]
    store.close()


# --- opening


def test_sqlite_is_opened_with_its_log_and_full_sync_and_for_its_owner_alone(
    small: Store, tmp_path: Path
) -> None:
    with small.engine.connect() as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        found = [connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in asked]
    assert found == ["wal", 2, 1, 1]
    add(small, "Anna")
    modes = {stat.S_IMODE(os.stat(path).st_mode) for path in tmp_path.glob("puna.db*")}
    assert modes == {0o600}
    small.close()


def test_postgresql_waits_for_its_disk(postgres) -> None:
    url = postgres.new()
    postgres.say(f"ALTER DATABASE {url_of(url).database} SET synchronous_commit = off")
    store = open_store(url)
    with store.write() as session:
        assert session.scalar(text("SHOW synchronous_commit")) == "on"
        assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
    with store.read() as session:
        assert session.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        assert session.scalar(text("SHOW transaction_read_only")) == "on"
    store.close()


def test_a_missing_driver_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(InputError, match=r"pip install 'puna\[postgres\]'"):
        open_store("postgresql://puna@localhost/puna")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("", "expected a file"),
        ("mysql://a:secret@b/c", "expected a file or postgresql"),
        ("sqlite://", "expected a file or postgresql"),
        ("postgresql://a:secret@b:port/c", "is no URL"),
        ("postgresql://anna:secret@localhost:1/puna", "onnection"),
        ("postgresql://localhost:1/puna?user=anna&password=secret", "onnection"),
    ],
)
def test_a_place_that_is_none_is_one_line_without_its_password(place: str, told: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(InputError, match=told) as caught:
        open_store(place)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    ["postgresql://a:s@cret@host/b", "postgresql://a:secret@host", "postgresql://h/b?password=s"],
)
def test_a_place_is_shown_without_its_password(url: str) -> None:
    assert "***" in shown(url)
    assert "s@cret" not in shown(url) and "secret" not in shown(url)
    assert not shown(url).endswith("password=s")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, not a database\n" * 40)
    before = path.read_bytes()
    with pytest.raises(InputError, match="not a database"):
        open_store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["missing/puna.db", "."])
def test_a_place_that_holds_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"store: .*(No such file|Is a directory)"):
        open_store(tmp_path / name)


def test_a_database_that_is_not_utf8_is_refused(postgres) -> None:
    postgres.say("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(InputError, match="encoding is LATIN1, expected UTF8"):
        open_store(postgres.url("latin"))
