"""Many annotators at once: how long a submit takes, and whether anything is lost or doubled.

    python benchmarks/annotators.py --minutes 5 --people 50

A server of its own (`puna serve --web`, no model) with a fresh store; each person has a connection
and a login, takes tasks ahead as the page does, thinks (--think, seconds from ... to ...), submits,
now and then sends a judgement twice with the same key, and now and then undoes one. Afterwards the
store is compared with what the server acknowledged: every judgement once, no item with more people
than it wants, nobody twice on one item, `taken` of each item equal to what counts. Ends with 1 if
anything is wrong, if a request failed, or if p95 of a submit is not below --limit.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sqlalchemy import select  # noqa: E402

from puna.store.store import Store, now, open_store  # noqa: E402
from puna.store.tables import Account, Annotation, Batch, Campaign, Item, Login, Task  # noqa: E402
from puna.web.site.door import COOKIE  # noqa: E402

TWICE, UNDONE = 0.05, 0.02  # of the judgements
OVERLAP = 2
ANSWER = "The answer is plain, and says *why* it is so. " * 12


@dataclass
class Person:
    """Somebody who annotates."""

    id: int
    cookie: str
    csrf: str


@dataclass
class Seen:
    """What the clients saw."""

    submits: list[float] = field(default_factory=list)  # seconds
    others: list[float] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)


def fill(store: Store, people: int, items: int) -> tuple[int, list[Person]]:
    """A campaign with items, and people who are logged in."""
    with store.write() as session:
        found = []
        for number in range(people + 1):
            name = f"person {number}"
            role = "annotator" if number else "admin"
            account = Account(name=name, folded=name, role=role, created=now())
            session.add(account)
            session.flush()
            person = Person(account.id, secrets.token_urlsafe(32), secrets.token_urlsafe(32))
            digest = hashlib.sha256(person.cookie.encode()).hexdigest()
            login = Login(sha256=digest, account_id=account.id, csrf=person.csrf)
            login.created = login.seen = now()
            login.expires = now() + 86400
            session.add(login)
            found.append(person)
        campaign = Campaign(
            **{"name": "load", "kind": "preference", "aim": "safety", "guidelines": "-"},
            **{"state": "open", "overlap": OVERLAP, "quota": 0, "lease_seconds": 1800.0},
            **{"max_turns": 1, "own_prompts": False, "gold_share": 0.1, "pass_mark": 0.0},
            **{"variants": [], "settings": {}, "by_id": found[0].id, "created": now()},
        )
        session.add(campaign)
        session.flush()
        batch = Batch(campaign_id=campaign.id, number=1, left_out={}, created=now())
        session.add(batch)
        session.flush()
        gold = items // 20
        session.add_all(_item(campaign.id, batch.id, at, at < gold) for at in range(items + gold))
        return campaign.id, found[1:]


def _item(campaign: int, batch: int, number: int, gold: bool) -> Item:
    said = [{"role": "user", "content": f"Question {number}: what is better, and why?"}]
    answers = [{"text": f"{name} {number}. {ANSWER}", "model": name} for name in ("a", "b")]
    return Item(
        **{"campaign_id": campaign, "batch_id": batch, "purpose": "gold" if gold else "normal"},
        **{"state": "ready", "dialog": {"messages": said, "id": "", "tags": {}}},
        **{"answers": answers, "expected": {"chosen": 0} if gold else {}, "category": ""},
        **{"wanted": 1_000_000 if gold else OVERLAP, "taken": 0, "failure": "", "created": now()},
    )


class Browser:
    """One connection that stays open, as a browser keeps it."""

    def __init__(self, port: int, person: Person, seen: Seen) -> None:
        """Connect at the first request."""
        self.port, self.person, self.seen = port, person, seen
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, Any], key: str = "") -> dict[str, Any] | None:
        """The JSON of an answer; None: it failed, which is counted."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
            f"origin: http://127.0.0.1:{self.port}\r\ncookie: {COOKIE}={self.person.cookie}\r\n"
            f"x-csrf: {self.person.csrf}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n"
        )
        head += f"idempotency-key: {key}\r\n\r\n" if key else "\r\n"
        began = time.perf_counter()
        try:
            status, answer = await self._exchange(head.encode() + data)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.streams = None
            self.seen.faults[type(error).__name__] += 1
            return None
        seconds = time.perf_counter() - began
        submit = path.endswith("/judgement")
        (self.seen.submits if submit else self.seen.others).append(seconds)
        if status != 200:
            self.seen.faults[f"{status} {answer.get('error', {}).get('message', '')[:80]}"] += 1
            return None
        return answer

    async def _exchange(self, request: bytes) -> tuple[int, dict[str, Any]]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].split("\r\n")[0])
        body = await reader.readexactly(length)
        if "connection: close" in head:
            writer.close()
            self.streams = None
        return int(head.split()[1]), json.loads(body)


async def annotate(
    browser: Browser, campaign: int, end: float, think: tuple[float, float], rng: random.Random
) -> None:
    """One person at work until `end`."""
    queue: list[dict[str, Any]] = []
    await asyncio.sleep(rng.random() * think[1])
    while time.monotonic() < end:
        while len(queue) < 2:
            beside = [task["id"] for task in queue]
            told = await browser.post(f"/api/annotate/{campaign}/next", {"beside": beside})
            if told is None or told["task"] is None:
                break
            queue.append(told["task"])
        if not queue:
            browser.seen.faults["no task left: more --items are needed"] += 1
            return
        await asyncio.sleep(rng.uniform(*think))
        beside = [task["id"] for task in queue]
        task = queue.pop(0)
        body = {
            **{"digest": task["digest"], "chosen": rng.randrange(2), "strength": "better"},
            **{"safety": "both_safe", "seconds": 2.0, "beside": beside},
        }
        path, key = f"/api/annotate/tasks/{task['id']}/judgement", secrets.token_hex(16)
        told = await browser.post(path, body, key)
        if told is None:
            continue
        browser.seen.acknowledged.add(told["annotation"])
        if told["task"]:
            queue.append(told["task"])
        if rng.random() < TWICE:
            again = await browser.post(path, body, key)
            if again is None or again["annotation"] != told["annotation"]:
                browser.seen.faults["a repeated submit was answered otherwise"] += 1
        elif rng.random() < UNDONE:
            told = await browser.post(f"/api/annotate/{campaign}/undo", {}, secrets.token_hex(16))
            if told and told["task"]:
                queue.insert(0, told["task"])


def compare(store: Store, seen: Seen) -> list[str]:
    """What is wrong in the store, in words."""
    wrong = []
    with store.read() as session:
        rows = session.scalars(select(Annotation)).all()
        tasks = session.scalars(select(Task)).all()
        items = session.scalars(select(Item)).all()
    there = {row.id for row in rows}
    if lost := seen.acknowledged - there:
        wrong.append(f"{len(lost)} acknowledged judgements are not in the store")
    if more := there - seen.acknowledged:
        wrong.append(f"{len(more)} judgements that nobody was told of")
    counting = [row for row in rows if row.undone is None]
    doubled = [
        n for n in Counter((row.item_id, row.account_id) for row in counting).values() if n > 1
    ]
    if doubled:
        wrong.append(f"{len(doubled)} items judged twice by one person")
    holds = Counter(row.item_id for row in counting)
    holds.update(task.item_id for task in tasks if task.state == "leased")
    for item in items:
        if item.taken != holds[item.id] or item.taken > item.wanted:
            wrong.append(f"item {item.id}: taken {item.taken}, {holds[item.id]} count")
    return wrong


def serve(place: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A server with the pages and without a model, once it answers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "puna", "serve", "--web", f"--store={place}", f"--port={port}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ, **quiet)  # type: ignore[call-overload]
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("the server ended")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server, port
        except OSError:
            time.sleep(0.1)
    server.kill()
    raise SystemExit("the server did not answer")


async def crowd(
    port: int, campaign: int, people: list[Person], seconds: float, think: tuple[float, float]
) -> Seen:
    """Everybody at work for so many seconds."""
    seen, end = Seen(), time.monotonic() + seconds
    await asyncio.gather(
        *(
            annotate(Browser(port, person, seen), campaign, end, think, random.Random(person.id))
            for person in people
        )
    )
    return seen


def told(seen: Seen, wrong: list[str], seconds: float) -> dict[str, Any]:
    """The figures, times in milliseconds."""
    cuts = statistics.quantiles(seen.submits, n=100) if len(seen.submits) > 1 else [0.0] * 99
    return {
        "submits": len(seen.submits),
        "submits_a_second": round(len(seen.submits) / seconds, 1),
        **{f"p{at}_ms": round(1000 * cuts[at - 1], 1) for at in (50, 95, 99)},
        "most_ms": round(1000 * max(seen.submits, default=0.0), 1),
        "acknowledged": len(seen.acknowledged),
        "faults": dict(seen.faults),
        "wrong": wrong[:20],
    }


def main() -> int:
    """Measure, compare, say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--think", type=float, nargs=2, default=(1.0, 3.0), metavar=("FROM", "TO"))
    parser.add_argument("--items", type=int, default=0, help="0: enough for the time")
    parser.add_argument("--limit", type=float, default=150.0, help="of p95, in milliseconds")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    seconds = 60 * given.minutes
    paces = given.people * seconds / max(0.05, sum(given.think) / 2)
    items = given.items or int(1.2 * paces / OVERLAP) + 4 * given.people
    with tempfile.TemporaryDirectory(dir=os.environ.get("PUNA_BENCH_DIR")) as folder:
        place = Path(folder) / "puna.db"
        store = open_store(place)
        campaign, people = fill(store, given.people, items)
        server, port = serve(place)
        try:
            seen = asyncio.run(crowd(port, campaign, people, seconds, tuple(given.think)))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        figures = told(seen, compare(store, seen), seconds)
        store.close()
    print(json.dumps(figures, indent=2))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    good = seen.submits and not figures["faults"] and not figures["wrong"]
    return 0 if good and figures["p95_ms"] < given.limit else 1


if __name__ == "__main__":
    sys.exit(main())
