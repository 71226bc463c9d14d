"""A request that is sent twice happens once (W69)."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from puna.store.faults import Conflict, Refused
from puna.store.once import KEPT_SECONDS, once
from puna.store.store import Store, open_store
from puna.store.tables import Audit, Reply
from tests.pages import add_account


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store with one account, number 1."""
    store = open_store(tmp_path / "puna.db")
    add_account(store, "Anna")
    add_account(store, "Ben")
    yield store
    store.close()


def note(store: Store, key: str, digest: str = "a", account: int = 1) -> dict[str, int]:
    """One request that writes a line into the audit log and answers with its number."""
    with store.write() as session:

        def make() -> dict[str, int]:
            line = Audit(at=0.0, action="test", object="", detail={}, address="")
            session.add(line)
            session.flush()
            return {"id": line.id}

        return once(session, account, key, digest, make)


def lines(store: Store) -> int:
    """How often the work was done."""
    with store.read() as session:
        return session.scalars(select(func.count(Audit.id))).one()


def test_the_same_request_twice_is_done_once_and_answered_alike(store: Store) -> None:
    assert note(store, "k") == note(store, "k") == {"id": 1}
    assert lines(store) == 1


def test_another_body_with_the_same_key_is_a_conflict(store: Store) -> None:
    note(store, "k")
    with pytest.raises(Conflict):
        note(store, "k", "b")
    assert lines(store) == 1


def test_the_same_key_of_somebody_else_is_another_request(store: Store) -> None:
    assert note(store, "k") != note(store, "k", account=2)


def test_twenty_threads_with_one_key_do_it_once(store: Store) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(note(store, "k")["id"])) for _ in "x" * 20
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, lines(store)) == ([1] * 20, 1)


def test_work_that_failed_may_be_tried_again_with_its_key(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.write() as session:
        once(session, 1, "k", "a", lambda: {"x": 1 // 0})
    assert note(store, "k") == {"id": 1}


@pytest.mark.parametrize("key", ["a b", "x" * 65, "ä", "a\n"])
def test_a_key_that_is_none_is_refused(store: Store, key: str) -> None:
    with pytest.raises(Refused, match="idempotency-key"):
        note(store, key)


def test_without_a_key_nothing_is_remembered(store: Store) -> None:
    assert note(store, "") != note(store, "")


def test_old_answers_are_deleted_in_time(store: Store) -> None:
    for number in range(255):
        note(store, f"k{number}")
    with store.write() as session:
        for reply in session.scalars(select(Reply)):
            reply.at -= KEPT_SECONDS + 1
    note(store, "last")
    with store.read() as session:
        assert list(session.scalars(select(Reply.key))) == ["last"]
