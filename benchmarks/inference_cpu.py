"""Inference on the CPU: Puna beside its peers, the same weights, in one run.

    python benchmarks/inference_cpu.py --install
    python benchmarks/inference_cpu.py --models smollm2 --rounds 5 --json figures.json
    python benchmarks/inference_cpu.py --quick --arms puna:int8 llama.cpp:Q8_0

Decoding for one and for eight rows after a prompt of 128 tokens, reading a prompt of 512 tokens,
the likelihood of held-out text, and decoding while another process takes a core. Every engine lives
in a process of its own and measures when its turn comes; each round asks all of them, every other
round in the opposite order, and reads memory and multiplies matrices in between. Shown are medians
with the least and the most, the share of what reading the weights once a token allows, and ratios
taken round by round. --install makes the peers' environments (`peers.py`); without it only those
that are there take part. Needs puna[smollm2] for smollm2, Linux's /proc, and a quiet machine: the
load of others is in the last column.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import bounds, peers, weights  # noqa: E402
from puna.text.tokenizer import open_tokenizer  # noqa: E402

# engine:kind, as the weights' format names it
ARMS = (
    *("puna:int8", "puna:int4", "puna:bfloat16", "puna:float32", "puna-engine:int8"),
    *("llama.cpp:Q8_0", "llama.cpp:Q4_0", "llama.cpp:Q4_K_M", "llama.cpp:BF16"),
    *("openvino:int8", "openvino:int4", "onnxruntime:int4", "ctranslate2:int8"),
    *("transformers:bfloat16", "transformers:float32", "vllm:bfloat16"),
)
FLOAT32 = {"puna:float32", "transformers:float32"}  # left out for the large model unless asked for
FOUR_BITS = ("llama.cpp:Q4_0", "llama.cpp:Q4_K_M", "openvino:int4", "onnxruntime:int4")
PREFILL = ("ctranslate2:int8", "openvino:int8", "vllm:bfloat16")
HALF = ("llama.cpp:BF16", "vllm:bfloat16", "transformers:bfloat16")
# task, ours, the peers of which the quickest of the round counts
CLAIMS = (
    ("decode 1", "puna:int8", ("llama.cpp:Q8_0",)),
    ("decode 1", "puna:int4", FOUR_BITS),
    ("decode 1", "puna:bfloat16", HALF),
    ("decode 8", "puna:int8", ("openvino:int8",)),
    ("prefill 512", "puna:int8", PREFILL),
    ("prefill 512", "puna:bfloat16", PREFILL),
)
CONTENDED = ("puna:int8", "puna-engine:int8", "llama.cpp:Q8_0")
SPARE = 3 << 30  # bytes that stay free when another engine is started
HELD_OUT = 16  # rows of 256 tokens


@dataclass
class Process:
    """An engine's process; the weights that it reads for one token."""

    name: str
    model: str
    size: float  # bytes
    child: subprocess.Popen[str] | None = None
    used: float = 0.0
    fault: str = ""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request and its answer; the process is started if it is not there."""
        if self.fault:
            return {"error": self.fault}
        if self.child is None:
            self.start()
        self.used = time.monotonic()
        answer = {"error": self.fault} if self.fault else self.exchange(request)
        if "error" in answer:
            self.fault = answer["error"]
            print(f"{self.name}: left out: {self.fault}", file=sys.stderr, flush=True)
            self.stop()
        return answer

    def start(self) -> None:
        """Start it and wait until the model is loaded."""
        engine, kind = self.name.split(":")
        ours = engine.startswith("puna") or engine == "transformers"
        python = sys.executable if ours else str(peers.python(engine))
        environment = {**os.environ, "PUNA_BENCH_THREADS": str(THREADS)}
        environment |= {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
        environment["PYTHONPATH"] = str(ROOT) if ours else ""
        if engine == "llama.cpp":
            environment["PYTHONPATH"] = str(peers.source())
            environment["LLAMA_CPP_LIB_PATH"] = str(peers.llama_program("llama-bench").parent)
        words = [python, str(ROOT / "benchmarks" / "arms.py"), engine]
        log = peers.cache() / f"arm-{self.name.replace(':', '-')}.log"
        with open(log, "w", encoding="utf-8") as errors:
            try:
                words += [str(weights.place(self.model, engine, kind)), kind]
            except RuntimeError as error:
                self.fault = str(error)
                return
            self.child = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        loaded = self.answer()
        self.fault = loaded.get("error", "") and f"{loaded['error']} (all of it: {log})"

    def exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the running process and wait."""
        assert self.child and self.child.stdin
        try:
            self.child.stdin.write(json.dumps(request) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            return {"error": "its process died"}
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line of the process."""
        assert self.child and self.child.stdout
        line = self.child.stdout.readline()
        return json.loads(line) if line else {"error": "its process died"}

    def stop(self) -> None:
        """End the process; it starts again when it is asked."""
        if self.child is not None:
            assert self.child.stdin and self.child.stdout
            self.child.stdin.close()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
            self.child.stdout.close()
            self.child = None


@dataclass
class Series:
    """What was measured of one engine in one task, round by round."""

    rates: dict[int, float] = field(default_factory=dict)  # tokens a second by round
    bounds: dict[int, float] = field(default_factory=dict)  # what reading the weights allows
    others: list[float] = field(default_factory=list)  # cores that somebody else used

    def summary(self) -> dict[str, Any]:
        """Medians and ranges."""
        rates = list(self.rates.values())
        shares = [self.rates[r] / self.bounds[r] for r in self.rates if r in self.bounds]
        return {
            "median": statistics.median(rates),
            "least": min(rates),
            "most": max(rates),
            "share_of_bound": statistics.median(shares) if shares else None,
            "other_cores": statistics.median(self.others),
            "rounds": rates,
        }


def tasks(quick: bool, model: str) -> dict[str, dict[str, Any]]:
    """The requests by their names; a quick run, and the large model's, are shorter."""
    new = 16 if quick else 64 if model == "smollm2" else 32
    return {
        "decode 1": {"task": "decode", "batch": 1, "prompt": 128, "new": new},
        "decode 8": {"task": "decode", "batch": 8, "prompt": 128, "new": new},
        "prefill 512": {"task": "prefill", "prompt": 512},
    }


def busy_cores() -> tuple[float, float]:
    """Seconds of work on all cores so far, and the clock."""
    first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()
    ticks = sum(map(int, first[1:9])) - int(first[4]) - int(first[5])  # not idle, not waiting
    return ticks / os.sysconf("SC_CLK_TCK"), time.perf_counter()


def measure(process: Process, request: dict[str, Any], series: Series, number: int) -> None:
    """Ask for one measurement and keep it, with the load of others meanwhile."""
    before, started = busy_cores()
    answer = process.ask(request)
    after, ended = busy_cores()
    if "rate" in answer:
        series.rates[number] = answer["rate"]
        other = (after - before) / max(ended - started, 0.05) - answer["cores"]
        series.others.append(max(0.0, other))
    if request.get("batch") == 1:
        allowed = bounds.bandwidth(int(process.size), THREADS) / process.size
        series.bounds[number] = allowed


def make_room(processes: list[Process], wanted: Process) -> None:
    """Stop the engines that were not used for longest until the next one fits into memory."""
    if wanted.child is not None:
        return
    for process in sorted(processes, key=lambda process: process.used):
        line = next(t for t in open("/proc/meminfo") if t.startswith("MemAvailable"))
        if int(line.split()[1]) * 1024 > 2.5 * wanted.size + SPARE:
            return
        if process is not wanted:
            process.stop()


def compare(model: str, names: list[str], rounds: int, quick: bool) -> dict[str, Any]:
    """All rounds of one model: what each engine reached in each task."""
    processes = [Process(name, model, weights.read_bytes(model, name)) for name in names]
    found = {task: {name: Series() for name in names} for task in tasks(quick, model)}
    peaks: list[dict[str, float]] = []
    try:
        for number in range(-1, rounds):  # the first is not counted: it loads and warms up
            print(f"{model}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            order = processes if number % 2 == 0 else processes[::-1]
            for task, request in tasks(quick, model).items():
                for process in order:
                    make_room(processes, process)
                    series = found[task][process.name] if number >= 0 else Series()
                    measure(process, {**request, "seed": number + 2}, series, number)
            peaks.append(bounds.products())
        losses = {p.name: held_out(processes, p, model) for p in processes}
        busy = contention(processes, rounds, quick, model)
    finally:
        for process in processes:
            process.stop()
    return {
        "tasks": {
            task: {name: s.summary() for name, s in by_name.items() if s.rates}
            for task, by_name in found.items()
        },
        "ratios": [ratio(found, claim) for claim in CLAIMS],
        "losses": {name: loss for name, loss in losses.items() if loss is not None},
        "contention": busy,
        "megabytes": {p.name: p.size / 1e6 for p in processes},
        "peaks": {k: statistics.median(p[k] for p in peaks) for k in peaks[0]},
        "left_out": {p.name: p.fault for p in processes if p.fault},
    }


def ratio(found: dict[str, dict[str, Series]], claim: tuple[str, str, tuple[str, ...]]) -> dict:
    """Ours over the quickest of the peers, round by round."""
    task, ours, rivals = claim
    mine = found[task][ours].rates if ours in found[task] else {}
    by_round = {}
    for number, rate in mine.items():
        theirs = [found[task][r].rates.get(number) for r in rivals if r in found[task]]
        present = [other for other in theirs if other]
        if present:
            by_round[number] = rate / max(present)
    values = list(by_round.values())
    return {
        "task": task,
        "ours": ours,
        "peers": [r for r in rivals if r in found[task] and found[task][r].rates],
        "median": statistics.median(values) if values else None,
        "least": min(values, default=None),
        "most": max(values, default=None),
    }


def held_out(processes: list[Process], process: Process, model: str) -> float | None:
    """Mean negative log-likelihood of the project's own pages, where an engine can tell it."""
    engine = process.name.split(":")[0]
    if model != "smollm2" or engine not in ("puna", "llama.cpp", "transformers") or process.fault:
        return None
    make_room(processes, process)
    tokenizer = open_tokenizer(weights.hf(model))
    pages = sorted(ROOT.glob("docs/*.md"))
    ids = [i for page in pages for i in tokenizer.encode(page.read_text(encoding="utf-8"))]
    rows = [ids[start : start + 256] for start in range(0, HELD_OUT * 256, 256)]
    return process.ask({"task": "loss", "rows": rows}).get("loss")


def contention(processes: list[Process], rounds: int, quick: bool, model: str) -> dict[str, Any]:
    """Decoding for one row alone and beside a process that keeps a core busy, in turns."""
    request = tasks(quick, model)["decode 1"]
    chosen = [p for p in processes if p.name in CONTENDED and not p.fault]
    found: dict[str, list[list[float]]] = {p.name: [[], []] for p in chosen}
    for number in range(rounds):
        for process in chosen:
            make_room(processes, process)
            alone = process.ask({**request, "seed": 100 + number})
            with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
                try:
                    beside = process.ask({**request, "seed": 200 + number})
                finally:
                    other.kill()
            if "rate" in alone and "rate" in beside:
                found[process.name][0].append(alone["rate"])
                found[process.name][1].append(beside["rate"])
    return {
        name: {
            "alone": statistics.median(alone),
            "beside": statistics.median(beside),
            "kept": statistics.median(b / a for a, b in zip(alone, beside, strict=True)),
            "least_kept": min(b / a for a, b in zip(alone, beside, strict=True)),
        }
        for name, (alone, beside) in found.items()
        if alone
    }


def show(model: str, result: dict[str, Any]) -> None:
    """The tables."""
    console = Console(width=120)
    for task, engines in result["tasks"].items():
        table = Table(title=f"{model}: {task}", title_justify="left")
        for column in ("engine", "tok/s", "least to most", "of the bound", "MB a token", "others"):
            table.add_column(column, justify="left" if column == "engine" else "right")
        for name, s in sorted(engines.items(), key=lambda item: -item[1]["median"]):
            share = "" if s["share_of_bound"] is None else f"{s['share_of_bound']:.2f}"
            span = f"{s['least']:.1f} to {s['most']:.1f}"
            size = f"{result['megabytes'][name]:.0f}"
            table.add_row(name, f"{s['median']:.1f}", span, share, size, f"{s['other_cores']:.2f}")
        console.print(table)
    for line in result["ratios"]:
        if line["median"] is not None:
            span = f"{line['least']:.2f} to {line['most']:.2f}"
            rivals = ", ".join(line["peers"])
            console.print(
                f"{line['task']}: {line['ours']} is {line['median']:.2f} x ({span}) {rivals}"
            )
    for name, loss in result["losses"].items():
        console.print(f"held-out text: {name} {loss:.4f} (perplexity {math.exp(loss):.3f})")
    for name, s in result["contention"].items():
        console.print(
            f"beside a busy process: {name} {s['alone']:.1f} -> {s['beside']:.1f} tok/s, "
            f"{s['kept']:.2f} of it kept (least {s['least_kept']:.2f})"
        )
    peaks = ", ".join(f"{kind} {rate / 1e9:.0f}" for kind, rate in result["peaks"].items())
    console.print(f"torch's matrix products of the same run, G/s: {peaks}")
    for name, fault in result["left_out"].items():
        console.print(f"left out: {name}: {fault}")


THREADS = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=weights.MODELS, default=["smollm2"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ENGINE:KIND", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="short answers")
    parser.add_argument("--install", action="store_true", help="install missing peers first")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"rounds: {options.rounds} given, expected 1 or more")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the engines end with this process
    torch.set_num_threads(THREADS)
    for peer in peers.PEERS if options.install else ():
        fault = peers.install(peer)
        if fault:
            print(fault, file=sys.stderr)
    results = {}
    for model in options.models:
        names = options.arms or [n for n in ARMS if model == "smollm2" or n not in FLOAT32]
        missing = [n for n in names if not peers.ready(n.split(":")[0].removesuffix("-engine"))]
        if missing:
            print(f"not installed (--install): {', '.join(missing)}", file=sys.stderr)
        names = [name for name in names if name not in missing]
        results[model] = compare(model, names, options.rounds, options.quick)
        show(model, results[model])
        if options.json:
            options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
