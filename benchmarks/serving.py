"""Serving under load: Puna's server beside llama.cpp's, and what HTTP costs over the engine alone.

    python benchmarks/serving.py --rounds 3 --json serving.json

SmolLM2-135M with int8 weights (llama.cpp: Q8_0), the same requests for both: prompts of 16 to 512
tokens out of this project's pages, answers of 16 to 256 tokens, streamed, drawn at temperature 0.8.
Closed: 16 requests are running at any time. Open: requests come at random at a rate that the slower
server can just bear (0.7 of what it answered in the closed runs), whatever became of those before.
Both servers stay alive, idle while the other is asked; rounds alternate in their order. The third
arm is Puna's engine in one process with no server: the same closed load straight into it. Shown are
medians over the rounds of tokens a second, seconds to the first token and between pieces of an
answer (50th and 99th of a hundred), and the share of a core that this client took.
Needs puna[smollm2] and `python benchmarks/peers.py llama.cpp`.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import peers, weights  # noqa: E402
from benchmarks.stream import Answered, Asked, closed, opened, workload  # noqa: E402
from puna.text.tokenizer import open_tokenizer  # noqa: E402

ROWS = 16
THREADS = 2
BEARABLE = 0.7  # of the slower server's requests a second
MODEL = "smollm2"


@dataclass
class Figures:
    """What one server did in one run; times in seconds."""

    tokens_a_second: float
    first_median: float
    first_99: float
    between_median: float
    between_99: float
    seconds: float
    client_cores: float
    requests: int
    faults: int


def figures(done: list[Answered], seconds: float, cores: float) -> Figures:
    """Rates and percentiles of one run. RuntimeError if no request was answered."""
    good = [a for a in done if not a.fault and a.pieces]
    if not good:
        raise RuntimeError(f"no request was answered: {done[0].fault if done else 'none was sent'}")
    first = [a.pieces[0] - a.sent for a in good]
    between = [b - a for g in good for a, b in zip(g.pieces, g.pieces[1:], strict=False)]
    return Figures(
        sum(a.new for a in good) / seconds,
        statistics.median(first),
        percentile(first, 0.99),
        statistics.median(between or [0.0]),
        percentile(between or [0.0], 0.99),
        seconds,
        cores,
        len(done),
        len(done) - len(good),
    )


def percentile(values: list[float], part: float) -> float:
    """The value that `part` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def puna_words(port: int, kind: str) -> list[str]:
    """The command of Puna's server."""
    model = f"{MODEL}={weights.hf(MODEL)}"
    words = [sys.executable, "-m", "puna", "serve", model, f"--quant={kind}", f"--port={port}"]
    return [*words, f"--threads={THREADS}", "--context=1024", f"--rows={ROWS}"]


def llama_words(port: int, kind: str) -> list[str]:
    """The command of llama.cpp's server: as many slots as requests, each with a whole context."""
    words = [str(peers.llama_program("llama-server")), "-m", str(weights.gguf(MODEL, kind))]
    words += ["--host", "127.0.0.1", "--port", str(port), "-np", str(ROWS)]
    return [*words, "-c", str(ROWS * 1024), "-t", str(THREADS), "-tb", str(THREADS)]


def start(stack: ExitStack, name: str, words: list[str], port: int) -> None:
    """Start a server that ends with the stack; returns when it says that it is well."""
    log = stack.enter_context(open(peers.cache() / f"serving-{name}.log", "w", encoding="utf-8"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
    stack.callback(end, server)
    ending = time.monotonic() + 120
    while time.monotonic() < ending and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"{name} did not start; see {log.name}")


def end(server: subprocess.Popen[bytes]) -> None:
    """Ask a server to end, and make it."""
    server.terminate()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def run(load: Callable, *arguments: object) -> Figures:
    """One run of the client, with its own share of a core."""
    started, worked = time.perf_counter(), time.process_time()
    done: list[Answered] = asyncio.run(load(*arguments))
    seconds = time.perf_counter() - started
    return figures(done, seconds, (time.process_time() - worked) / seconds)


class Straight:
    """The engine without a server: `ROWS` requests at any time, in a process of its own."""

    def __init__(self, stack: ExitStack, kind: str) -> None:
        words = [sys.executable, __file__, "--engine", kind]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        stack.callback(end, self.child)

    def run(self, work: list[Asked]) -> Figures:
        """Answer the work once."""
        assert self.child.stdin and self.child.stdout
        self.child.stdin.write(json.dumps([asdict(a) for a in work]) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            raise RuntimeError("the engine's process died")
        return Figures(**json.loads(line))


def straight(kind: str) -> None:
    """The process of `Straight`: work in JSON on standard input, figures on standard output."""
    from puna.engine import opening
    from puna.engine.engine import Engine

    found = opening.find(weights.hf(MODEL), 1024)
    opened_model = opening.open_runner(found, kind, opening.Pool(ROWS), threads=THREADS)
    engine = Engine(opened_model.runner, opened_model.tokenizer, rows=ROWS)
    for line in sys.stdin:
        work = [Asked(**record) for record in json.loads(line)]
        started = time.perf_counter()
        done = answer_all(engine, work)
        result = figures(done, time.perf_counter() - started, 0.0)
        print(json.dumps(asdict(result)), flush=True)


def answer_all(engine, work: list[Asked]) -> list[Answered]:
    """What `closed` does, without a server in between."""
    from puna.engine.engine import Request
    from puna.text.completion import SamplingParams

    waiting, done = list(enumerate(work)), {}
    waiting.reverse()
    while waiting or not engine.idle:
        running = sum(1 for a in done.values() if a.counted < a.new)
        while waiting and running < ROWS:
            number, asked = waiting.pop()
            params = SamplingParams(
                temperature=0.8, top_p=1.0, max_tokens=asked.new, seed=number, ignore_eos=True
            )
            engine.add(Request(str(number), asked.ids, params))
            done[str(number)] = Answered(time.perf_counter(), asked.new)
            running += 1
        now_out = engine.step()
        now = time.perf_counter()
        for output in now_out:
            answer = done[output.id]
            answer.counted += len(output.ids)
            if output.text:
                answer.pieces.append(now)
    for answer in done.values():
        if answer.counted != answer.new:
            answer.fault = f"{answer.counted} tokens, {answer.new} were asked for"
    return list(done.values())


Runs = dict[str, dict[str, list[Figures]]]


def compare(rounds: int, count: int, kind: str, llama: str | None) -> Runs:
    """All rounds: load -> server -> what it did in each."""
    tokenizer = open_tokenizer(weights.hf(MODEL))
    pages = sorted(ROOT.glob("docs/*.md"))
    ids = [i for page in pages for i in tokenizer.encode(page.read_text(encoding="utf-8"))]
    found: Runs = {"closed": {}, "open": {}}
    with ExitStack() as stack:
        ports = {"puna": free_port()}
        start(stack, "puna", puna_words(ports["puna"], kind), ports["puna"])
        if llama:
            ports["llama.cpp"] = free_port()
            start(stack, "llama.cpp", llama_words(ports["llama.cpp"], llama), ports["llama.cpp"])
        engine = Straight(stack, kind)
        for name, port in ports.items():  # not counted: caches and connections warm up
            print(f"warming up {name}", file=sys.stderr, flush=True)
            run(closed, port, workload(ids, ROWS, 1_000_000), MODEL, ROWS)
        engine.run(workload(ids, ROWS, 1_000_000))
        for number in range(rounds):
            print(f"closed load: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            work = workload(ids, count, number)
            for name in [*ports, "engine alone"][:: 1 if number % 2 == 0 else -1]:
                if name in ports:
                    done = run(closed, ports[name], work, MODEL, ROWS)
                else:
                    done = engine.run(work)
                found["closed"].setdefault(name, []).append(done)
        rate = BEARABLE * min(
            statistics.median(f.requests / f.seconds for f in found["closed"][name])
            for name in ports
        )
        for number in range(rounds):
            print(
                f"open load, {rate:.2f} requests/s: round {number + 1}", file=sys.stderr, flush=True
            )
            work = workload(ids, count, 1000 + number, rate)
            for name in list(ports)[:: 1 if number % 2 == 0 else -1]:
                done = run(opened, ports[name], work, MODEL)
                found["open"].setdefault(name, []).append(done)
    return found


def show(found: Runs) -> None:
    """Tables and the ratios that count."""
    console = Console(width=120)
    for load, arms in found.items():
        table = Table(title=f"{load} load", title_justify="left")
        for column in ("", "tok/s", "first ms 50", "99", "between ms 50", "99", "client", "faults"):
            table.add_column(column, justify="left" if not column else "right")
        for name, runs in arms.items():
            middle = [
                statistics.median(getattr(f, field) for f in runs)
                for field in ("first_median", "first_99", "between_median", "between_99")
            ]
            speed = statistics.median(f.tokens_a_second for f in runs)
            client = statistics.median(f.client_cores for f in runs)
            cells = [f"{speed:.0f}", *(f"{m * 1000:.1f}" for m in middle), f"{client:.1%}"]
            table.add_row(name, *cells, str(sum(f.faults for f in runs)))
        console.print(table)
    for other, text in (("llama.cpp", "over llama.cpp"), ("engine alone", "of the engine alone")):
        if other in found["closed"]:
            pairs = zip(found["closed"]["puna"], found["closed"][other], strict=True)
            ratios = [a.tokens_a_second / b.tokens_a_second for a, b in pairs]
            span = f"{min(ratios):.3f} to {max(ratios):.3f}"
            console.print(f"throughput {text}: {statistics.median(ratios):.3f} ({span})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64, help="of each run")
    parser.add_argument("--kind", default="int8", help="of Puna's weights")
    parser.add_argument("--llama", default="Q8_0", help="type of llama.cpp's weights, or none")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--engine", metavar="KIND", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        straight(options.engine)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end with this process
    if options.rounds < 1 or options.requests < 1:
        parser.error("rounds and requests: expected 1 or more")
    llama = options.llama if options.llama != "none" and peers.ready("llama.cpp") else None
    if llama is None and options.llama != "none":
        print("left out: llama.cpp is not installed (peers.py)", file=sys.stderr)
    found = compare(options.rounds, options.requests, options.kind, llama)
    show(found)
    if options.json:
        record = {k: {n: [asdict(f) for f in r] for n, r in a.items()} for k, a in found.items()}
        options.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
