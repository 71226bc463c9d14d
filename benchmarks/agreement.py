"""Agreement coefficients beside irrCAC and krippendorff, on their examples and on random ratings.

    python benchmarks/agreement.py --cases 200

Both packages are put into an environment of their own in $PUNA_BENCH_CACHE (default
~/.cache/puna/benchmarks). Every case has its own number of items, raters and categories, and its
own share of missing ratings. Prints the largest difference of each figure; status 1 if one is
above 1e-6.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import peers
from puna.evaluation.agreement import (
    METRICS,
    WEIGHTS,
    CannotBeComputed,
    alpha,
    gwet,
    tabulate,
    weight_matrix,
)

PACKAGES = ("irrCAC==0.4.4", "krippendorff==0.9.0")
BOUND = 1e-6
# What runs in their environment: ratings on standard input, figures on standard output.
ORACLE = r"""
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import krippendorff, numpy as np, pandas as pd
from irrCAC import datasets
from irrCAC.raw import CAC
cases, weights, metrics = json.load(sys.stdin)
for name in ("raw_4raters", "raw_5observers"):
    frame = getattr(datasets, name)()
    cases.append(frame.astype(object).where(frame.notna(), None).values.tolist())
found, seconds = [], 0.0
for rows in cases:
    frame, one = pd.DataFrame(rows, dtype=float), {}
    for name in weights:
        for key, method in (("AC", "gwet"), ("alpha", "krippendorff")):
            begun = time.perf_counter()
            try:
                est = getattr(CAC(frame, weights=name, digits=14), method)()["est"]
                one[f"{key} {name}"] = [float(est[k]) for k in ("coefficient_value", "se", "pe")]
            except (ValueError, ZeroDivisionError):
                one[f"{key} {name}"] = None
            seconds += time.perf_counter() - begun
    for name in metrics:
        try:
            one[f"krippendorff {name}"] = [float(krippendorff.alpha(
                reliability_data=frame.values.T, level_of_measurement=name))]
        except ValueError:
            one[f"krippendorff {name}"] = None
    found.append(one)
json.dump({"cases": cases, "found": found, "seconds": seconds}, sys.stdout)
"""


def install() -> Path:
    """The Python of the oracles' environment, made the first time."""
    python = peers.python("agreement")
    ready = python.parent.parent / "ready"
    if not ready.exists():
        peers.cache().mkdir(parents=True, exist_ok=True)
        with open(peers.cache() / "agreement.log", "w", encoding="utf-8") as log:
            peers.call([sys.executable, "-m", "venv", python.parent.parent], log)
            peers.call([python, "-m", "pip", "install", *PACKAGES], log)
        ready.touch()
    return python


def drawn(rng: np.random.Generator) -> list[list[int | None]]:
    """Ratings of some items by some raters who agree more or less, some of them missing."""
    items, raters, q = (int(rng.integers(*ends)) for ends in ((2, 60), (2, 8), (2, 8)))
    truth = rng.integers(1, q + 1, size=items)[:, None]
    guess = rng.integers(1, q + 1, size=(items, raters))
    given = np.where(rng.random((items, raters)) < rng.random(), truth, guess)
    missing = rng.random((items, raters)) < rng.choice([0, 0.1, 0.5])
    return [
        [None if gone else int(value) for value, gone in zip(*row, strict=True)]
        for row in zip(given, missing, strict=True)
    ]


def ours(rows: list[list[int | None]]) -> dict[str, list[float] | None]:
    """The same figures by Puna."""
    table, found = tabulate(rows), {}
    for name in WEIGHTS:
        for key, compute in (("AC", gwet), ("alpha", alpha)):
            try:
                one = compute(table, weight_matrix(table.categories, name))
                found[f"{key} {name}"] = [one.value, one.se or 0.0, one.expected]
            except CannotBeComputed:
                found[f"{key} {name}"] = None
    for name in METRICS:
        try:
            found[f"krippendorff {name}"] = [alpha(table, name).value]
        except CannotBeComputed:
            found[f"krippendorff {name}"] = None
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200, help="random cases")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    cases = [drawn(rng) for _ in range(given.cases)]
    sent = json.dumps([cases, WEIGHTS, list(METRICS)])
    ran = subprocess.run(
        [install(), "-c", ORACLE], input=sent, capture_output=True, text=True, check=True
    )
    oracle = json.loads(ran.stdout)
    begun = time.perf_counter()
    found = [ours(rows) for rows in oracle["cases"]]
    seconds = time.perf_counter() - begun
    worst: dict[str, float] = {}
    compared: dict[str, int] = {}
    for mine, theirs in zip(found, oracle["found"], strict=True):
        for name, values in theirs.items():
            own = mine[name]
            if values is None or own is None or not np.isfinite(values).all():
                continue
            gap = float(np.abs(np.subtract(own, values)).max())
            worst[name] = max(worst.get(name, 0.0), gap)
            compared[name] = compared.get(name, 0) + 1
    for name, gap in worst.items():
        print(f"{name:24} {compared[name]:5} cases, largest difference {gap:.1e}")
    print(f"irrCAC {oracle['seconds']:.1f} s, Puna with both sets {seconds:.1f} s")
    return int(max(worst.values()) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
