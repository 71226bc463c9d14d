"""A process that judges without end, for tests that kill it: three writers, one line for each
judgement that is on the disk. `python -m tests.store_writer PLACE ROUND`.
"""

import os
import sys
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from sqlalchemy.orm import Session

from puna.store.once import once
from puna.store.store import Store, open_store
from tests.people import Work

WRITERS = 3


def judgement(session: Session, writer: int, key: str) -> Callable[[], dict[str, Any]]:
    """A judgement in rows of three tables."""

    def judge() -> dict[str, Any]:
        work = Work.found(session)
        made = work.judge(work.item(f"Which tea, {key}?"), writer, comment=key)
        return {"id": made.id}

    return judge


def send(store: Store, writer: int, key: str) -> int:
    """One request of a writer, as a page sends it; the judgement's number when it is stored."""
    with store.write() as session:
        answer = once(session, writer, key, "0" * 64, judgement(session, writer, key))
    return int(answer["id"])


def main(place: str, round_name: str) -> None:
    """Write until killed."""
    store = open_store(place)

    def write(writer: int) -> None:
        for number in count():
            key = f"{round_name}-{writer}-{number}"
            made = send(store, writer, key)
            os.write(1, f"{key} {made}\n".encode())

    threads = [threading.Thread(target=write, args=(n,)) for n in range(1, WRITERS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
