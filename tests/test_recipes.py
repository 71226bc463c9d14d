"""The whole paper at the smallest size: what it leaves behind, twice, killed, and resumed."""

import contextlib
import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.kill_resume import MICRO, run_killed, run_whole
from puna import cli
from puna.recipes import align, ppo, pretrain, results, reward, sft
from puna.recipes.align import judgements
from puna.recipes.pretrain import ModelShape
from puna.recipes.sft import Tuning
from puna.run import Run
from puna.text.files import read_json, sha256
from tests.faults import Killed

pytestmark = pytest.mark.slow

REQUIRED = (
    *(
        f"rm.{kind}.{name}"
        for kind in ("helpfulness", "safety")
        for name in ("accuracy", "accuracy_significantly_better", "accuracy_length_only")
    ),
    *(
        f"{name}.{when}"
        for name in ("helpfulness", "violation", "false_refusal")
        for when in ("sft", "final")
    ),
    *("persona_turn6.baseline", "persona_turn6.gatt"),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The same number of threads in every process that is compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("paper") / "run"
    run_whole(MICRO, folder)
    return folder


def found(folder: Path) -> dict:
    return results.repeatable(read_json(folder / "results.json"))


def files(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file, but those that are made again from the others."""
    paths = (p for p in folder.rglob("*") if p.is_file() and p.parent != folder)
    return {str(p.relative_to(folder)): (sha256(p), p.stat().st_mtime_ns) for p in paths}


def run_cli(*words: str) -> tuple[int, str]:
    """Exit status and stderr of a command line."""
    faults = io.StringIO()
    with contextlib.redirect_stderr(faults), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main(words)
    return status, faults.getvalue()


# --- the whole paper ------------------------------------------------------------------------------


def test_the_paper_ends_with_every_figure_that_scripts_read(paper):
    figures = read_json(paper / "results.json")["figures"]
    stages = [path.parent for path in paper.rglob("stage.json")]
    seconds = [f"seconds.{str(p.relative_to(paper)).replace('/', '_')}" for p in stages]
    assert len(stages) == 19
    assert [name for name in (*REQUIRED, *seconds) if name not in figures] == []


def test_the_paper_ends_with_a_report_and_a_model_to_talk_to(paper):
    final = paper / read_json(paper / "results.json")["final"]
    assert "Section 3.4.1" in (paper / "report.html").read_text(encoding="utf-8")
    status, _ = run_cli("chat", str(final), "--once=Hello", "--max-tokens=4")
    assert status == 0


def test_a_version_is_compared_by_the_last_reward_models_only(paper):
    evaluated = read_json(paper / "v1/evaluate/evaluation.json")["reward_helpfulness"]
    compared = {row["name"]: row for row in read_json(paper / "compare/versions.json")}
    assert compared["v1"]["reward_helpfulness"] != evaluated
    last = read_json(paper / "v2/evaluate_ppo/evaluation.json")["reward_helpfulness"]
    assert compared["v2+ppo"]["reward_helpfulness"]["value"] == pytest.approx(last["value"])


def test_a_second_run_changes_nothing(paper, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(paper, folder)
    text = (folder / "results.json").read_text()
    for path in folder.rglob("config.toml"):  # the copy's own folder
        path.write_text(path.read_text().replace(str(paper), str(folder)))
    before = files(folder)
    run_whole(MICRO, folder)
    assert files(folder) == before
    assert found(folder) == found(paper)
    assert text.count("\n") == (folder / "results.json").read_text().count("\n")


def test_the_same_seed_gives_the_same_results(paper, tmp_path):
    run_whole(MICRO, tmp_path / "again")
    assert found(tmp_path / "again") == found(paper)


def test_another_seed_gives_other_results(paper, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text("seed = 1\n" + MICRO.read_text())
    run_whole(other, tmp_path / "other")
    assert found(tmp_path / "other")["figures"] != found(paper)["figures"]


def test_killed_three_times_and_resumed_it_gives_the_same_results(paper, tmp_path):
    whole = {s["name"]: s["seconds"] for s in read_json(paper / "results.json")["stages"]}
    killed = run_killed(MICRO, tmp_path / "killed", 3, whole, random.Random(1))
    assert killed.places
    assert found(tmp_path / "killed") == found(paper)


def test_a_failed_check_stops_the_paper_with_one_line(tmp_path):
    status, said = run_cli(
        "paper", str(MICRO), f"--run={tmp_path}", "--gates.stop=true", "--gates.pretrain_loss=0.5"
    )
    assert status == 2
    assert said.startswith("puna paper: pretrain failed its check: held-out loss 5.")
    assert said.count("\n") == 1
    assert (tmp_path / "pretrain/stage.json").exists() and not (tmp_path / "sft").exists()


def test_figures_of_the_machine_are_left_out_at_every_depth():
    given = {
        "name": "a",
        "figures": {"seconds.total": 1.0, "loss": 2.0},
        "stages": [{"name": "sft", "seconds": 1, "figures": {"mfu": 0.1, "loss": 2.0}}],
        "settings": {"run": "a", "seed": 0},
    }
    assert results.repeatable(given) == {
        "figures": {"loss": 2.0},
        "stages": [{"name": "sft", "figures": {"loss": 2.0}}],
        "settings": {"seed": 0},
    }


# --- one recipe, stopped in its middle ------------------------------------------------------------


def pretraining(paper: Path, folder: Path) -> tuple[Callable, object]:
    shape = ModelShape(dim=32, n_layers=2, n_heads=2, n_kv_heads=1)
    settings = pretrain.Config(
        run=folder,
        data=paper / "prepare",
        model=shape,
        steps=8,
        batch_size=4,
        micro_batch_size=2,
        seq_len=32,
        eval_every=3,
        eval_batches=1,
        save_every=3,
        optim=pretrain.OptimConfig(lr=3e-3, warmup=2),
    )
    return pretrain.main, settings


def fine_tuning(paper: Path, folder: Path) -> tuple[Callable, object]:
    tuning = Tuning(
        seq_len=384,
        batch_size=2,
        micro_batch_size=1,
        eval_every=3,
        save_every=3,
        optim=sft.OptimConfig(lr=1e-3),
    )
    settings = sft.Config(
        run=folder,
        model=paper / "pretrain/checkpoint",
        dialogs=(paper / "prepare/dialogs.jsonl",),
        held_out=paper / "prepare/dialogs_held_out.jsonl",
        tuning=tuning,
    )
    return sft.main, settings


def rewarding(paper: Path, folder: Path) -> tuple[Callable, object]:
    version = align.Version(paper, paper, collected=(paper / "v1/collect", paper / "v2/collect"))
    within = align.Config(data=paper / "prepare")
    settings = reward.Config(
        kind="safety",
        run=folder,
        model=paper / "sft/checkpoint",
        preferences=judgements(within, version, "preferences_safety"),
        others=judgements(within, version, "preferences_helpfulness"),
        held_out=judgements(within, version, "preferences_safety_held_out"),
        batch_size=6,
        micro_tokens=512,
        save_every=3,
        optim=reward.OptimConfig(lr=3e-4, warmup=1),
    )
    return reward.main, settings


def optimising(paper: Path, folder: Path) -> tuple[Callable, object]:
    settings = ppo.Config(
        run=folder,
        model=paper / "v2/rejection/checkpoint",
        helpfulness=paper / "v2/helpfulness/checkpoint",
        safety=paper / "v2/safety/checkpoint",
        prompts=paper / "prepare/prompts.jsonl",
        held_out=paper / "prepare/prompts_held_out.jsonl",
        steps=7,
        batch_size=8,
        mini_batch_size=4,
        micro_tokens=512,
        max_tokens=6,
        eval_every=1,
        eval_prompts=4,
        patience=9,
        save_every=3,
        optim=ppo.OptimConfig(lr=1e-3),
    )
    return ppo.main, settings


RECIPES = (pretraining, fine_tuning, rewarding, optimising)


def weights(folder: Path) -> str:
    (path,) = (folder / "checkpoint").rglob("model.safetensors")
    return sha256(path)


def curve(folder: Path) -> list[dict]:
    return results.curve(folder)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("stop", [1, 3, 4, -1])
def test_a_recipe_stopped_at_a_step_ends_as_if_it_had_not(
    recipe, stop, paper, tmp_path, monkeypatch
):
    main, settings = recipe(paper, tmp_path / "whole")
    figures = main(settings)
    last = curve(tmp_path / "whole")[-1]["step"]
    stop = last if stop < 0 else stop
    assert stop <= last
    log = Run.log

    def stopping_log(run: Run, step: int, **numbers: object) -> None:
        log(run, step, **numbers)
        if step == stop:
            raise Killed

    main, settings = recipe(paper, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stopping_log)
        with pytest.raises(Killed):
            main(settings)
    assert (tmp_path / "stopped/state").exists() == (stop >= 3)  # it does resume from a state
    again = main(settings)

    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
    assert results.without_costs(again) == results.without_costs(figures)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_stopped_while_it_saves_its_state_ends_as_if_it_had_not(
    recipe, paper, tmp_path, monkeypatch
):
    main, settings = recipe(paper, tmp_path / "whole")
    main(settings)
    rename, seen = os.rename, []

    def stopping_rename(source, target) -> None:
        if "step-00000006" in str(target):
            seen.append(target)
            raise Killed
        rename(source, target)

    main, settings = recipe(paper, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", stopping_rename)
        with pytest.raises(Killed):
            main(settings)
    assert seen
    main(settings)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
