"""The folder of a stage: settings, lock, metrics, result, costs, and what survives a kill."""

import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from puna import config, console, costs
from puna.errors import InputError
from puna.lock import Lock, started
from puna.run import Run

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    start: Path | None = None
    optim: Optim = Optim()


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def held_elsewhere(path: Path, **changes: object) -> None:
    """A lock as another live process (the one that started the tests) would have written it."""
    parent = os.getppid()
    record = {"pid": parent, "started": started(parent), "host": os.uname().nodename} | changes
    path.write_text(json.dumps(record))


# --- settings


def test_the_settings_in_the_folder_start_the_same_run_again(tmp_path: Path) -> None:
    Run.start(tmp_path / "a", Config(seed=3)).close()
    again = config.load(Config, [str(tmp_path / "a/config.toml")])
    assert again == Config(seed=3)
    Run.start(tmp_path / "a", again).close()


def test_a_folder_made_with_other_settings_is_refused_and_the_setting_named(tmp_path: Path) -> None:
    Run.start(tmp_path, Config()).close()
    with pytest.raises(InputError, match=r"optim\.lr was 0\.001 and is now 0\.5; choose another"):
        Run.start(tmp_path, Config(optim=Optim(lr=0.5)))
    assert not (tmp_path / "run.lock").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        Run.start(tmp_path / "a", Config())


# --- lock


def test_a_folder_in_use_is_refused_and_the_process_named(tmp_path: Path) -> None:
    held_elsewhere(tmp_path / "run.lock")
    with pytest.raises(InputError, match=f"process {os.getppid()} "):
        Run.start(tmp_path, Config())
    assert not (tmp_path / "config.toml").exists()


@pytest.mark.parametrize(
    "changes", [{"started": "1"}, {"pid": 2**22 + 1}, {"pid": 2**22 + 1, "started": ""}]
)
def test_a_lock_whose_process_is_gone_is_taken_over(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    held_elsewhere(tmp_path / "run.lock", **changes)
    with Run.start(tmp_path, Config()):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run.lock").exists()


def test_a_damaged_lock_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text('{"pi')
    Run.start(tmp_path, Config()).close()


def test_a_lock_of_another_machine_counts_while_it_is_fresh(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    held_elsewhere(path, host="elsewhere")
    with pytest.raises(InputError, match="on elsewhere"):
        Lock.take(path)
    os.utime(path, (time.time() - 100, time.time() - 100))
    Lock.take(path).release()


def test_a_lock_that_somebody_else_took_over_is_left_alone(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path / "run.lock")
    held_elsewhere(tmp_path / "run.lock")
    lock.release()
    assert (tmp_path / "run.lock").exists()


KILLED = """
import sys, time
from pathlib import Path
from puna.run import Run
from tests.test_run import Config
run = Run.start(Path(sys.argv[1]), Config())
with run.track(10**9, "steps") as advance:
    for step in range(10**9):
        run.log(step, loss=1.0)
        advance(1)
        time.sleep(0.002)
"""


def test_a_killed_run_can_be_started_again_and_keeps_its_lines(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    metrics = tmp_path / "metrics.jsonl"
    until = time.monotonic() + 30
    while time.monotonic() < until and not (metrics.exists() and metrics.stat().st_size > 500):
        time.sleep(0.01)
    with pytest.raises(InputError, match=f"process {process.pid} "):
        Run.start(tmp_path, Config())
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Run.start(tmp_path, Config()) as run:
        assert [row["step"] for row in lines(tmp_path)] == list(range(len(lines(tmp_path))))
        assert run.seconds > 0 and not run.done
        run.rewind(3)
        assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2]


# --- metrics


def test_a_line_has_the_step_the_numbers_and_the_seconds(tmp_path: Path) -> None:
    class Scalar:
        def __float__(self) -> float:
            return 0.25

    with Run.start(tmp_path, Config()) as run:
        run.log(7, loss=Scalar(), tokens=12, kind="helpful", bad=math.nan, worse=-math.inf)
    (row,) = lines(tmp_path)
    assert row.pop("seconds") == pytest.approx(0, abs=5)
    assert row == {
        **{"step": 7, "loss": 0.25, "tokens": 12},
        **{"kind": "helpful", "bad": "nan", "worse": "-inf"},
    }


def test_rewind_drops_the_step_and_what_follows_and_later_lines_are_appended(
    tmp_path: Path,
) -> None:
    with Run.start(tmp_path, Config()) as run:
        for step in range(5):
            run.log(step)
        run.rewind(2)
        run.log(2)
    assert [row["step"] for row in lines(tmp_path)] == [0, 1, 2]


def test_rewind_of_a_run_without_metrics_does_nothing(tmp_path: Path) -> None:
    with Run.start(tmp_path, Config()) as run:
        run.rewind(0)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_torn_last_line_is_dropped_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1, "lo')
    Run.start(tmp_path, Config()).close()
    assert lines(tmp_path) == [{"step": 0}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\nrubbish\n{"step": 2}\n')
    with Run.start(tmp_path, Config()) as run, pytest.raises(InputError, match=r"metrics\.jsonl:2"):
        run.rewind(1)


# --- result


def test_a_stage_is_done_when_and_only_when_it_was_finished(tmp_path: Path) -> None:
    with Run.start(tmp_path, Config()) as run:
        assert (run.done, run.figures, run.costs) == (False, {}, {})
        given = run.finish(loss=1.5, by={"kind": [1, math.nan]}, path=Path("a"))
    assert given == {"loss": 1.5, "by": {"kind": [1, "nan"]}, "path": "a"}
    again = Run.start(tmp_path, Config())
    assert again.done and again.figures == given
    assert set(again.costs) == {
        *("seconds", "cpu_seconds", "peak_memory_mb", "energy_wh", "energy_how")
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.toml", "stage.json"]


def test_costs_add_up_over_restarts(tmp_path: Path) -> None:
    for _ in range(2):
        with Run.start(tmp_path, Config()):
            until = time.process_time() + 0.06
            while time.process_time() < until:
                pass
    with Run.start(tmp_path, Config()) as run:
        run.finish()
    assert run.costs["seconds"] >= 0.12
    assert run.costs["cpu_seconds"] >= 0.12
    assert 10 < run.costs["peak_memory_mb"] < 100_000


def test_energy_is_estimated_at_ten_watts_a_core_where_nothing_measures_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(costs, "RAPL", tmp_path)
    monkeypatch.setattr(costs, "cpu_seconds", iter([100.0, 460.0]).__next__)
    summary = costs.Costs({"energy_wh": 2.0}).summary()
    assert summary["energy_wh"] == 2.0 + 360 * 10 / 3600
    assert summary["energy_how"].startswith("estimated")


def test_energy_counters_are_summed_over_packages_and_may_run_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def package(name: str, microjoules: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000000\n")

    monkeypatch.setattr(costs, "RAPL", tmp_path)
    package("intel-rapl:0", 9_000_000_000)
    package("intel-rapl:1", 0)
    package("intel-rapl:0:0", 5)  # a part of package 0
    counted = costs.Costs()
    package("intel-rapl:0", 1_000_000_000)  # 2,000 J, over the limit
    package("intel-rapl:1", 1_600_000_000)  # 1,600 J
    package("intel-rapl:0:0", 4_000_000_000)
    assert counted.totals()["energy_wh"] == pytest.approx(1.0)
    assert counted.summary()["energy_how"].startswith("measured")


# --- display


def display(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


def printed(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_the_board_writes_plain_lines_when_there_is_no_terminal() -> None:
    shown = display(False)
    stages = [("sft", "fine-tuning"), ("ppo", "policy"), ("eval", "evaluation")]
    with console.Board(stages, "Puna", shown) as board:
        board.skip("sft", "loss 1.2")
        with board.stage("ppo"), console.current().track(4, "steps") as advance:
            console.current().log(0, {"reward": 0.5})
            advance(4)
        with pytest.raises(ValueError, match="bad"), board.stage("eval"):
            raise ValueError("bad")
    assert printed(shown).splitlines() == [
        "Puna",
        "[ 1/3 0:00] sft: finished earlier: loss 1.2",
        "[ 2/3 0:00] ppo: policy ...",
        "[ 2/3 0:00] ppo: steps: 4/4 (100%), reward 0.5",
        "[ 2/3 0:00] ppo: done in 0:00",
        "[ 3/3 0:00] eval: evaluation ...",
        "[ 3/3 0:00] eval: failed: bad",
    ]


def test_the_board_on_a_terminal_ends_with_a_table_of_all_stages() -> None:
    shown = display(True)
    stages = [("sft", "fine-tuning"), ("ppo", "policy")]
    with console.Board(stages, "Puna", shown) as board:
        board.begin("sft")
        with console.current().track(4, "steps") as advance:
            advance(2)
        board.end("sft", "loss 1.2", 75)
    last = printed(shown).split("Puna")[-1]
    assert "fine-tuning" in last and "1:15" in last and "loss 1.2" in last
    assert "policy" in last and "1 of 2 stages" in last


def test_a_board_higher_than_the_screen_shows_the_running_stage_and_all_at_the_end() -> None:
    shown = Console(file=io.StringIO(), force_terminal=True, width=100, height=14, highlight=False)
    with console.Board([(f"stage{i:02}", "") for i in range(30)], "", shown) as board:
        board.begin("stage20")
        shown.print(board)
        during = printed(shown)
        assert (
            "stage20" in during.split("0 of 30")[-2]
            and "stage05" not in during.split("0 of 30")[-2]
        )
    assert all(f"stage{i:02}" in printed(shown).split("0 of 30")[-2] for i in range(30))


def test_the_board_is_current_only_inside() -> None:
    before = console.current()
    with console.Board([], "", display(False)) as board:
        assert console.current() is board
    assert console.current() is before


def test_progress_lines_come_at_most_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = display(False)
    simple = console.Display(shown)
    with simple.track(100, "steps") as advance:
        for _ in range(100):
            now[0] += 0.25
            advance(1)
    assert printed(shown).splitlines() == [
        "steps: 40/100 (40%), 4.0/s, 0:15 left",
        "steps: 80/100 (80%), 4.0/s, 0:05 left",
        "steps: 100/100 (100%), 4.0/s",
    ]


def test_what_was_done_before_a_resume_does_not_count_for_the_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = console.Meter("steps", 100)
    meter.advance(50)
    now[0] = 2.0
    meter.advance(4)
    assert (meter.done, meter.rate, meter.left) == (54, 2.0, 23.0)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3661, "1:01:01")])
def test_times_are_written_as_a_clock(seconds: float, text: str) -> None:
    assert console.clock(seconds) == text
