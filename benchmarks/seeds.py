"""Do several seeds agree? Runs a preset once a seed and compares the key figures.

    .venv/bin/python benchmarks/seeds.py presets/tiny/cafe.toml --seeds 0 1 2 --jobs 2

Prints a Markdown table of the figures that matter with their targets, and exits with 1 when a
direction differs between the seeds: helpfulness must rise, violations fall, Ghost Attention keep
the persona longer, each reward model beat length. A run that is finished is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TARGETS = {
    "rm.helpfulness.accuracy_significantly_better": ">= 0.90",
    "rm.helpfulness.accuracy": ">= 0.70",
    "rm.helpfulness.accuracy_length_only": "",
    "rm.safety.accuracy_significantly_better": ">= 0.90",
    "rm.safety.accuracy": ">= 0.70",
    "rm.safety.accuracy_length_only": "",
    "helpfulness.sft": "",
    "helpfulness.final": "+0.10",
    "violation.sft": ">= 0.15",
    "violation.final": "<= 0.05",
    "false_refusal.final": "<= 0.05",
    "persona_turn6.baseline": "<= 0.60",
    "persona_turn6.gatt": ">= 0.95",
    "persona_turn6.final": "",
    "seconds.total": "<= 720",
}
DIRECTIONS = {
    "helpfulness rises": lambda f: f["helpfulness.final"] > f["helpfulness.sft"],
    "violations fall": lambda f: f["violation.final"] < f["violation.sft"],
    "Ghost Attention keeps the persona": lambda f: (
        f["persona_turn6.gatt"] > f["persona_turn6.baseline"]
    ),
    "helpfulness model beats length": lambda f: (
        f["rm.helpfulness.accuracy"] > f["rm.helpfulness.accuracy_length_only"]
    ),
    "safety model beats length": lambda f: (
        f["rm.safety.accuracy"] > f["rm.safety.accuracy_length_only"]
    ),
}


def run(preset: str, seed: int, out: Path, threads: int) -> dict[str, float]:
    """The figures of one seed's run, which is made where it is missing."""
    folder = out / f"seed-{seed}"
    if not (folder / "results.json").exists():
        command = [sys.executable, "-m", "puna", "paper", preset, f"--run={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        out.mkdir(parents=True, exist_ok=True)
        with (out / f"seed-{seed}.log").open("w") as log:
            subprocess.run(
                [*command, f"--seed={seed}"], env=environment, stdout=log, stderr=log, check=True
            )
    return json.loads((folder / "results.json").read_text())["figures"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("preset")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    given = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    with ThreadPoolExecutor(given.jobs) as pool:
        found = list(pool.map(lambda s: run(given.preset, s, given.out, threads), given.seeds))
    print("| figure | target | " + " | ".join(f"seed {s}" for s in given.seeds) + " |")
    print("|---|---|" + "---|" * len(found))
    for name, target in TARGETS.items():
        cells = [f"{f[name]:.3f}" if name in f else "-" for f in found]
        print(f"| {name} | {target} | " + " | ".join(cells) + " |")
    agreed = True
    for text, holds in DIRECTIONS.items():
        verdicts = [holds(f) for f in found]
        agreed &= len(set(verdicts)) == 1
        print(f"{text}: {', '.join('yes' if v else 'NO' for v in verdicts)}")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
