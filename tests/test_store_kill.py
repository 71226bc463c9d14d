"""A server killed in the middle: what it acknowledged is there once, and nothing is half."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from puna.store.store import open_store
from puna.store.tables import Annotation, Item, Reply, Task
from tests.people import Work, a_person
from tests.store_writer import WRITERS, send

ROOT = Path(__file__).resolve().parent.parent


def prepared(place: str) -> None:
    store = open_store(place)
    with store.write() as session:
        people = [a_person(session, f"writer {n}") for n in range(WRITERS)]
        Work(session, people[0])
    store.close()


def killed(place: str, name: str, after: int) -> dict[str, int]:
    """What a process acknowledged until it was killed, after so many lines."""
    words = [sys.executable, "-m", "tests.store_writer", place, name]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after)]
    os.kill(process.pid, signal.SIGKILL)
    lines += process.stdout.readlines()  # acknowledged before it died
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    whole = [line.split() for line in lines if line.endswith(b"\n")]
    return {key.decode(): int(number) for key, number in whole}


def check(place: str, acknowledged: dict[str, int]) -> None:
    """Every acknowledged judgement once, under the number that was told; rows of all tables."""
    store = open_store(place)
    with store.read() as session:
        if "://" not in place:
            assert session.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
            assert session.execute(text("PRAGMA foreign_key_check")).all() == []
        rows = session.execute(select(Annotation.comment, Annotation.id)).all()
        many = {
            table: session.scalar(select(func.count()).select_from(table))
            for table in (Annotation, Task, Item, Reply)
        }
        replies = {
            key: reply["id"] for key, reply in session.execute(select(Reply.key, Reply.reply))
        }
    store.close()
    found = dict(rows)
    assert len(found) == len(rows)
    assert {key: found.get(key) for key in acknowledged} == acknowledged
    assert replies == found
    assert set(many.values()) == {len(rows)}


def rounds(place: str, many: int) -> int:
    """Kill, check, send again what was on its way; how many were acknowledged."""
    prepared(place)
    rng = random.Random(many)
    acknowledged: dict[str, int] = {}
    for number in range(many):
        acknowledged |= killed(place, f"r{number}", rng.randint(1, 60))
        check(place, acknowledged)
        store = open_store(place)
        for writer in range(1, WRITERS + 1):  # the last that was told, and the one after it
            own = [key for key in acknowledged if key.startswith(f"r{number}-{writer}-")]
            for key in (*own[-1:], f"r{number}-{writer}-{len(own)}"):
                again = send(store, writer, key)
                assert acknowledged.setdefault(key, again) == again
        store.close()
    check(place, acknowledged)
    return len(acknowledged)


def test_what_a_killed_server_acknowledged_is_there_once(place: str) -> None:
    assert rounds(place, 2) > 6


@pytest.mark.slow
def test_what_a_server_killed_fifty_times_acknowledged_is_there_once(place: str) -> None:
    many = rounds(place, 50)
    print(f"{many} acknowledged, 0 lost")
    assert many > 500
