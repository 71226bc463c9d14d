"""Kill `puna paper` at random moments, resume it each time, and compare with an undisturbed run.

    OMP_NUM_THREADS=1 python benchmarks/kill_resume.py --kills 20 --preset presets/micro/cafe.toml

A kill is SIGKILL: the process can write nothing more. The moments are drawn one from each
equal part of the whole work, measured by the seconds that each stage takes undisturbed; a kill
counts if the process was alive. A run that ends before all kills were made is compared, and another
one begun. Prints where each kill struck, and at the end whether the repeatable results of every run
equal those of the undisturbed one; exit status 1 if any differs. Last result: docs/log.md.
"""

import argparse
import json
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from puna.recipes.results import repeatable

PATIENCE = 120.0  # seconds within which a process has to begin a stage; then it is aborted
ROOT = Path(__file__).resolve().parent.parent
MICRO = ROOT / "presets/micro/cafe.toml"
# The first optimiser of a process imports the compiler of PyTorch (0.8 s): here, before the first
# stage, so that the kills strike at work and not at this.
START = "import sys, torch._dynamo, puna.cli; sys.exit(puna.cli.main())"


@dataclass
class Killed:
    """A run that was killed and resumed until it ended."""

    places: list[str] = field(default_factory=list)  # the stage of each kill, with its step
    starts: int = 0  # processes started, the last one of which ended by itself


def command(preset: Path, folder: Path) -> list[str]:
    """The command line of the run."""
    words = ["paper", str(preset.resolve()), f"--run={folder}"]
    return [sys.executable, "-X", "faulthandler", "-c", START, *words]


def run_whole(preset: Path, folder: Path) -> dict[str, float]:
    """Run to the end; the seconds of each stage. RuntimeError if the run fails."""
    words = command(preset, folder)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return seconds_of_stages(folder)


def seconds_of_stages(folder: Path) -> dict[str, float]:
    """The seconds of each finished stage by its folder, in the order they ended."""
    paths = sorted(folder.rglob("stage.json"), key=lambda path: path.stat().st_mtime_ns)
    return {str(path.parent.relative_to(folder)): read(path)["seconds"] for path in paths}


def run_killed(
    preset: Path,
    folder: Path,
    kills: int,
    whole: dict[str, float],
    rng: random.Random,
    show: bool = False,
) -> Killed:
    """Start the run, kill it at random moments and resume it, at most `kills` times, to its end.

    `whole` holds the seconds that each stage takes undisturbed: the clock of the moments.
    """
    found = Killed()
    begins = dict(zip(whole, accumulate(whole.values(), initial=0.0), strict=False))
    moments = [(n + rng.random()) * sum(whole.values()) / kills for n in range(kills)]
    for moment in [*moments, math.inf]:
        found.starts += 1
        stage = work(command(preset, folder), begins, moment)
        if stage is None:
            break
        found.places.append(f"{stage}{step_of(folder, stage)}")
        if show:
            print(f"kill {len(found.places)}: {found.places[-1]}", flush=True)
    return found


def work(words: Sequence[str], begins: Mapping[str, float], moment: float) -> str | None:
    """Run the command and kill it when the stage at work has come to the moment.

    `begins` says when each stage begins on the same clock, in seconds. Returns the stage that was
    at work, or None if the command ended by itself. RuntimeError if it fails or begins nothing,
    then with the place where it hung.
    """
    stage, began = "", time.monotonic()
    with tempfile.NamedTemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as faults:
        with (
            subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=faults) as process,
            open(out.name, encoding="utf-8") as shown,
        ):
            while process.poll() is None:
                now = stage_at_work(shown.read(), stage)
                if now != stage:
                    stage, began = now, time.monotonic()
                if stage and begins[stage] + time.monotonic() - began >= moment:
                    process.send_signal(signal.SIGKILL)
                    if process.wait() == -signal.SIGKILL:
                        return stage
                if not stage and time.monotonic() - began > PATIENCE:
                    process.send_signal(signal.SIGABRT)  # faulthandler writes down where it is
                    process.wait()
                time.sleep(0.002)
        if process.returncode:
            faults.seek(0)
            raise RuntimeError(faults.read().strip())
        return None


def stage_at_work(lines: str, before: str) -> str:
    """The stage at work after these lines of the console; "" if it was finished earlier."""
    stage = before
    for line in lines.splitlines():
        name, _, what = line.partition("] ")[2].partition(": ")
        if what == "started ...":
            stage = name
        elif what.startswith("finished earlier"):
            stage = ""
    return stage


def step_of(folder: Path, stage: str) -> str:
    """ " step N" of a stage that had logged any."""
    path = folder / stage / "metrics.jsonl"
    steps = path.read_text().count("\n") if path.exists() else 0
    return f" step {steps}" if steps else ""


def read(path: Path) -> dict:
    """A JSON object."""
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--preset", type=Path, default=MICRO)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as root:
        calm = Path(root) / "calm"
        whole = run_whole(given.preset, calm)
        wanted = repeatable(read(calm / "results.json"))
        print(f"undisturbed: {sum(whole.values()):.1f} s in {len(whole)} stages", flush=True)
        made, runs, equal = 0, 0, 0
        while made < given.kills:
            folder = Path(root) / f"killed-{runs}"
            killed = run_killed(given.preset, folder, given.kills - made, whole, rng, show=True)
            same = repeatable(read(folder / "results.json")) == wanted
            made, runs, equal = made + len(killed.places), runs + 1, equal + same
            verdict = "equal" if same else "DIFFERENT"
            print(f"run {runs}: {len(killed.places)} kills, results {verdict}", flush=True)
    print(f"{made} kills in {runs} runs; results equal to the undisturbed run: {equal} of {runs}")
    return 0 if equal == runs else 1


if __name__ == "__main__":
    sys.exit(main())
