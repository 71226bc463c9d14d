"""A server under full mixed load for a long time: does it grow, does it lose anything?

    python benchmarks/soak.py smollm2 --minutes 30 --json soak.json -- --quant=int8

Starts `puna serve` with the model (words after -- are its options) and keeps `--clients` requests
in flight: chats and completions, streamed and whole, short and long prompts, several samples, JSON
by a schema, streams that the client leaves, whole answers that nobody waits for. Each second the
resident memory of the web process and of the worker is read. At the end nothing is asked any more,
and the worker has to say that all blocks of its cache are free or merely cached.

Exit status 1 if a bound is broken: memory that grows by more than `--slope` MB a minute (least
squares, after the warm-up) in either process, a request that was lost (no whole, well-formed
answer, without the client having left), a block still in use, a process that ended.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETTLE_SECONDS = 60.0  # for the last answers, when the load is over
FIGURE = re.compile(r'^puna_worker\{.*name="([^"]+)".*\} (\S+)$', re.MULTILINE)
WORDS = (
    "the river runs past an old mill where nobody has lived since the war and the wheel still "
    "turns when it rains while children from the village throw stones at the windows"
).split()
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass
class Tally:
    """What became of the requests, and the memory over time."""

    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)
    rss: dict[str, list[float]] = field(default_factory=lambda: {"web": [], "worker": []})


class Lost(Exception):
    """An answer that did not come as it should."""


class Wire:
    """One HTTP/1.1 request on a connection of its own."""

    def __init__(self, port: int):
        self.port = port

    async def __aenter__(self) -> "Wire":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def ask(self, method: str, path: str, body: Any = None) -> None:
        """Send a request."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)
        await self.writer.drain()

    async def head(self) -> int:
        """The status of the answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        self.chunked = "transfer-encoding: chunked" in head
        return int(head.split(" ", 2)[1])

    async def chunks(self) -> Any:
        """The parts of the body as they come. Lost: it breaks off."""
        while self.chunked:
            line = await self.reader.readline()
            if not line:
                raise Lost("the body breaks off")
            size = int(line, 16)
            data = (await self.reader.readexactly(size + 2))[:-2]
            if not size:
                return
            yield data
        yield await self.reader.read()

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([part async for part in self.chunks()])


def sentence(source: random.Random, count: int) -> str:
    """So many words."""
    return " ".join(source.choice(WORDS) for _ in range(count))


def request(source: random.Random, kind: str, model: str, long: int) -> tuple[str, dict[str, Any]]:
    """Path and body of a request of a kind."""
    words = source.randint(long // 2, long) if kind == "long" else source.randint(3, 40)
    text = sentence(source, words)
    if source.random() < 0.3:  # a beginning that others have too
        text = " ".join(WORDS * 2) + " " + text
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": source.choice((8, 32, 64)),
        "temperature": source.choice((0.0, 0.7, 1.0)),
        "seed": source.randrange(2**31),
    }
    if kind == "samples":
        body["n"] = source.randint(2, 4)
    if kind == "grammar":
        schema = {"name": "person", "strict": True, "schema": SCHEMA}
        body |= {"response_format": {"type": "json_schema", "json_schema": schema}}
        body["max_tokens"] = 64
    if kind in ("grammar", "chat", "left"):
        return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": text}]}
    return "/v1/completions", body | {"prompt": text}


async def whole(wire: Wire, body: dict[str, Any], tally: Tally) -> None:
    """An answer in one piece. Lost: it is not all there."""
    status, text = await wire.head(), await wire.body()
    if status != 200:
        raise Lost(f"status {status}: {text[:300]!r}")
    answer = json.loads(text)
    check(len(answer["choices"]), [c["finish_reason"] for c in answer["choices"]], body)
    tally.tokens += answer["usage"]["completion_tokens"]
    if "response_format" in body and answer["choices"][0]["finish_reason"] == "stop":
        found = json.loads(answer["choices"][0]["message"]["content"])
        if set(found) != {"name", "age"}:
            raise Lost(f"the schema was not followed: {found}")


async def streamed(wire: Wire, body: dict[str, Any], tally: Tally) -> None:
    """An answer in pieces. Lost: an end is missing."""
    if (status := await wire.head()) != 200:
        raise Lost(f"status {status}: {(await wire.body())[:300]!r}")
    rest, finished, pieces = b"", [], 0
    async for part in wire.chunks():
        *events, rest = (rest + part).split(b"\n\n")
        for event in events:
            if not event.startswith(b"data: ") or event == b"data: [DONE]":
                finished += ["[DONE]"] * (event == b"data: [DONE]")
                continue
            told = json.loads(event[6:])
            if "error" in told:
                raise Lost(f"the stream tells of an error: {told['error']}")
            pieces += len(told["choices"])
            finished += [c["finish_reason"] for c in told["choices"] if c["finish_reason"]]
    if finished[-1:] != ["[DONE]"]:
        raise Lost("the stream ends without [DONE]")
    check(len(finished) - 1, finished[:-1], body)
    tally.tokens += pieces


def check(count: int, reasons: Sequence[Any], body: dict[str, Any]) -> None:
    """Every sample has its end."""
    if count != body.get("n", 1) or not set(reasons) <= {"stop", "length"}:
        raise Lost(f"{body.get('n', 1)} samples were asked for, these ended: {list(reasons)}")


KINDS = ("chat", "completion", "long", "samples", "grammar", "left", "unawaited")
WEIGHTS = (4, 4, 2, 2, 1, 2, 1)


async def client(port: int, model: str, long: int, seed: int, end: float, tally: Tally) -> None:
    """Ask, one request after the other, until the time is over."""
    source = random.Random(seed)
    while time.monotonic() < end:
        kind = source.choices(KINDS, WEIGHTS)[0]
        path, body = request(source, kind, model, long)
        stream = kind == "left" or (kind != "grammar" and source.random() < 0.6)
        stream = stream and kind != "unawaited"
        began = time.monotonic()
        try:
            async with Wire(port) as wire:
                await wire.ask("POST", path, body | {"stream": True} if stream else body)
                if kind == "unawaited":
                    await asyncio.sleep(source.uniform(0, 1))
                elif kind == "left":
                    await wire.head()
                    async for _ in wire.chunks():
                        if source.random() < 0.2:
                            break
                else:
                    await (streamed if stream else whole)(wire, body, tally)
            tally.ends[kind] += 1
        except (Lost, OSError, EOFError, ValueError, KeyError) as error:
            asked = f"{kind}{', streamed' if stream else ''}"
            tally.lost.append(f"{asked}, {time.monotonic() - began:.1f} s: {error!r}")
            await asyncio.sleep(0.5)


async def figures(port: int) -> dict[str, float]:
    """What the worker says of itself."""
    async with Wire(port) as wire:
        await wire.ask("GET", "/metrics")
        await wire.head()
        return {name: float(x) for name, x in FIGURE.findall((await wire.body()).decode())}


def resident(process: int) -> float:
    """Megabytes that a process holds; NaN when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return float("nan")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1e3 if found else float("nan")


def child(process: int) -> int:
    """The worker: the one process that the web process has started."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(found[0])


async def watch(web: int, worker: int, tally: Tally) -> None:
    """Read the memory of both processes every second."""
    began = time.monotonic()
    while True:
        tally.seconds.append(time.monotonic() - began)
        for name, process in (("web", web), ("worker", worker)):
            tally.rss[name].append(resident(process))
        await asyncio.sleep(1)


def slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Growth in units a minute by least squares."""
    count = len(seconds)
    if count < 2:
        return float("nan")
    x, y = sum(seconds) / count, sum(values) / count
    above = sum((s - x) * (v - y) for s, v in zip(seconds, values, strict=True))
    return 60 * above / sum((s - x) ** 2 for s in seconds)


async def started(model: str, options: Sequence[str]) -> tuple[asyncio.subprocess.Process, int]:
    """A server that is ready, and its port."""
    command = [sys.executable, "-m", "puna", "serve", f"soak={model}", "--port=0", *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    port = 0
    while line := (await process.stderr.readline()).decode():
        print(line, end="", file=sys.stderr)
        if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
            port = int(found[1])
        if "ready: " in line:
            asyncio.get_running_loop().create_task(forward(process.stderr))
            break
    if not port or process.returncode is not None:
        raise SystemExit("the server did not start")
    for _ in range(600):
        async with Wire(port) as wire:
            await wire.ask("GET", "/health")
            if await wire.head() == 200:
                return process, port
        await asyncio.sleep(0.1)
    raise SystemExit("the server does not get ready")


async def forward(stream: asyncio.StreamReader) -> None:
    """The server's log to ours."""
    while line := await stream.readline():
        sys.stderr.write(line.decode("utf-8", "replace"))


async def settled(port: int) -> dict[str, float]:
    """The worker's figures when nothing runs any more, or after SETTLE_SECONDS."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        found = await figures(port)
        busy = sum(found.get(name, 0) for name in ("running", "waiting", "unfinished_requests"))
        if not busy or time.monotonic() > end:
            return found
        await asyncio.sleep(0.5)


def report(
    found: dict[str, float], tally: Tally, status: int | None, settings: argparse.Namespace
) -> dict[str, Any]:
    """All figures, and whether every bound holds."""
    skip = next((i for i, s in enumerate(tally.seconds) if s >= settings.warm_up), 0)
    slopes = {n: slope(tally.seconds[skip:], v[skip:]) for n, v in tally.rss.items()}
    blocks = found.get("blocks", float("nan"))
    free = found.get("blocks_free", 0) + found.get("blocks_cached", 0)
    within = {
        "slope": all(value < settings.slope for value in slopes.values()),
        "lost": not tally.lost,
        "blocks": free == blocks,
        "exit": status == 0,
    }
    return {
        "minutes": settings.minutes,
        "clients": settings.clients,
        "requests": dict(tally.ends),
        "lost": tally.lost[:20],
        "lost_count": len(tally.lost),
        "tokens": tally.tokens,
        "rss_slope_mb_per_minute": slopes,
        "rss_first_mb": {name: values[skip] for name, values in tally.rss.items()},
        "rss_last_mb": {name: values[-1] for name, values in tally.rss.items()},
        "rss_mb_every_10_s": {name: values[::10] for name, values in tally.rss.items()},
        "rss_most_mb": {name: max(values) for name, values in tally.rss.items()},
        "blocks": blocks,
        "blocks_free_or_cached": free,
        "exit_status": status,
        "within": within,
    }


def table(told: dict[str, Any]) -> str:
    """The report for people."""
    rows = [("", "web", "worker")]
    for key, name in (
        ("rss_first_mb", "RSS after the warm-up, MB"),
        ("rss_last_mb", "RSS at the end, MB"),
        ("rss_most_mb", "RSS at most, MB"),
        ("rss_slope_mb_per_minute", "RSS slope, MB/min"),
    ):
        rows.append((name, *(f"{told[key][who]:.2f}" for who in ("web", "worker"))))
    lines = [f"{a:<28} {b:>10} {c:>10}" for a, b, c in rows]
    lines += [f"{kind:<28} {count:>10}" for kind, count in sorted(told["requests"].items())]
    lines += [f"{'lost':<28} {told['lost_count']:>10}"]
    lines += [f"{'blocks free or cached':<28} {told['blocks_free_or_cached']:>10.0f}"]
    lines += [f"{'blocks':<28} {told['blocks']:>10.0f}"]
    broken = [name for name, holds in told["within"].items() if not holds]
    return "\n".join(
        [*lines, f"bounds broken: {', '.join(broken)}" if broken else "all bounds held"]
    )


async def soak(settings: argparse.Namespace) -> dict[str, Any]:
    """Start, load, stop, and report."""
    process, port = await started(settings.model, settings.options)
    tally = Tally()
    watching = asyncio.create_task(watch(process.pid, child(process.pid), tally))
    end = time.monotonic() + 60 * settings.minutes
    try:
        clients = (
            client(port, "soak", settings.long, seed, end, tally)
            for seed in range(settings.clients)
        )
        await asyncio.gather(*clients)
        watching.cancel()
        found = await settled(port)
    finally:
        watching.cancel()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        status = await stopped(process.wait)
    return report(found, tally, status, settings)


async def stopped(wait: Callable[[], Awaitable[int]]) -> int | None:
    """The exit status of a process that was told to end; None if it does not."""
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(wait(), SETTLE_SECONDS)
    return None


def main() -> int:
    """Read the command line, soak, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model in any format, by path or name")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--warm-up", type=float, default=120.0, help="seconds left out of the slope"
    )
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--long", type=int, default=800, help="words of the longest prompts")
    parser.add_argument("--slope", type=float, default=1.0, help="MB a minute that are allowed")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    settings = parser.parse_args(words[:split])
    settings.options = words[split + 1 :]  # of puna serve
    told = asyncio.run(soak(settings))
    print(table(told))
    for line in told["lost"]:
        print("lost:", line)
    text = json.dumps(told, indent=2)
    print(text)
    if settings.json:
        settings.json.write_text(text + "\n")
    return 0 if all(told["within"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
