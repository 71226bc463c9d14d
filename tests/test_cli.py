"""The command line: help without torch, one line and status 2 for every fault of the user."""

import errno
import importlib
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from puna import __version__, cli
from puna.describe import describe, docstring
from puna.errors import GateError, InputError
from tests.test_config import Config

ROOT = Path(__file__).resolve().parent.parent
RECIPE = '''"""A made-up recipe.

Reads nothing.
"""
POSITIONAL = "name"

@dataclass(frozen=True)
class Config:
    out: Path  # folder to write
    name: str = ""  # what to say
    check: bool = False  # whether to look twice
    sft: Stage = Stage()  # a stage

@dataclass
class Stage:
    steps: int = 3  # how many
'''


def said(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 0) -> str:
    assert cli.main(list(argv)) == status
    out, err = capsys.readouterr()
    if status == 2:
        assert err.count("\n") == 1 and "Traceback" not in err
    return err if status else out


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A fake recipe for `puna sft`; gives the list of the settings that it was run with."""
    ran: list[Any] = []

    def main(config: Config) -> dict[str, Any]:
        ran.append(config)
        return {"loss": 0.123456, "report": {"not": "shown"}}

    (tmp_path / "recipe.py").write_text(RECIPE, encoding="utf-8")
    fake = SimpleNamespace(Config=Config, main=main)
    monkeypatch.setattr(importlib, "import_module", lambda name: fake)
    monkeypatch.setattr(cli, "recipe_file", lambda command: tmp_path / "recipe.py")
    return ran


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def main(config: Config) -> None:
        raise error

    fake = SimpleNamespace(Config=Config, main=main)
    monkeypatch.setattr(importlib, "import_module", lambda name: fake)


# --- help


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_command(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    text = said(capsys, *argv)
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)


def test_every_command_is_in_one_group() -> None:
    grouped = [name for group in cli.GROUPS.values() for name in group]
    assert sorted(grouped) == sorted(cli.COMMANDS)


def test_help_answers_in_a_third_of_a_second_and_without_torch() -> None:
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "puna", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.3
    assert "puna.cli" in ran.stderr and "| torch" not in ran.stderr and "rich" not in ran.stderr


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_manual_of_a_command_is_read_from_its_source(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = cli.recipe_file(command)
    text = said(capsys, command, "--help")
    assert docstring(path) and docstring(path) in text
    settings = describe(path)
    assert settings
    for setting in settings:
        stage = setting.name.split(".")[0]
        assert f"--{setting.name} " in text or f"[{stage}]" in text
        assert setting.comment, f"{command}: {setting.name} has no comment"


def test_a_manual_shows_meaning_type_default_and_what_is_required(
    capsys: pytest.CaptureFixture[str], recipe: list[Any]
) -> None:
    text = said(capsys, "ppo", "--help")
    assert "usage: puna ppo [NAME] [PRESET.toml ...]" in text and "Reads nothing." in text
    assert "  --out  (Path, required)\n      folder to write\n" in text
    assert "  --check = False  (bool)\n      whether to look twice\n" in text
    assert "  --sft.NAME  the settings of `puna sft`, in a preset [sft]" in text
    assert "--sft.steps" not in text
    assert recipe == []


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == f"puna {__version__}\n"


def test_an_unknown_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, "pretrian", status=2)
    assert line == "puna: unknown command pretrian; did you mean puna pretrain?\n"
    assert "see puna --help" in said(capsys, "xyzzy", status=2)


# --- running


def test_a_recipe_runs_with_its_settings_and_its_figures_are_printed(
    capsys: pytest.CaptureFixture[str], recipe: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text("seed = 4", encoding="utf-8")
    text = said(capsys, "sft", str(tmp_path / "a.toml"), "--out=x", "--check")
    assert recipe == [Config(out=Path("x"), seed=4, check=True)]
    assert text.split() == ["loss", "0.1235"]


def test_a_bare_word_fills_the_setting_that_the_recipe_names(
    capsys: pytest.CaptureFixture[str], recipe: list[Any]
) -> None:
    said(capsys, "sft", "--out", "x", "--check", "hello")
    assert recipe == [Config(out=Path("x"), name="hello", check=True)]
    said(capsys, "sft", "--out=x", "--check", "false", "hello")
    assert recipe[1] == Config(out=Path("x"), name="hello", check=False)
    assert "unexpected argument 'b'" in said(capsys, "sft", "a", "b", "--out=x", status=2)


def test_a_bare_word_is_refused_where_the_recipe_names_none(
    capsys: pytest.CaptureFixture[str], recipe: list[Any], tmp_path: Path
) -> None:
    text = RECIPE.replace("POSITIONAL", "OTHER")
    (tmp_path / "bare.py").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "recipe_file", lambda command: tmp_path / "bare.py")
        assert "puna sft: unexpected argument 'hello'" in said(capsys, "sft", "hello", status=2)


def test_a_fault_in_the_settings_is_one_line(
    capsys: pytest.CaptureFixture[str], recipe: list[Any]
) -> None:
    line = said(capsys, "sft", "--out=x", "--sed=1", status=2)
    assert line == "puna sft: unknown setting sed; did you mean seed?\n"
    assert "missing setting out" in said(capsys, "sft", status=2)
    assert recipe == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("data.jsonl:3: not JSON"), "puna sft: data.jsonl:3: not JSON\n"),
        (GateError("accuracy 0.4, expected 0.5"), "puna sft: accuracy 0.4, expected 0.5\n"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"),
            "puna sft: a/b: No space left on device\n",
        ),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "a"),
            "puna sft: a: Read-only file system\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a"),
            "puna sft: a: Permission denied\n",
        ),
        (
            RuntimeError("IoError(Os { code: 28, message: No space left on device })"),
            "puna sft: No space left on device\n",
        ),
    ],
)
def test_what_the_user_can_mend_is_told_in_one_line_with_status_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    line: str,
) -> None:
    raising(monkeypatch, error)
    assert said(capsys, "sft", "--out=x", status=2) == line


def test_an_interrupt_says_how_to_resume(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    text = said(capsys, "sft", "--out=x", status=130)
    assert text == "\nstopped; run the same command again to resume\n"


def test_a_fault_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["sft", "--out=x"])


def test_a_reader_that_goes_away_leaves_no_traceback() -> None:
    command = f"{sys.executable} -m puna --help | head -c 1"
    ran = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (ran.stdout, ran.stderr) == ("p", "")


# --- package


def test_the_package_names_the_command_and_pins_every_dependency_for_every_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"puna": "puna.cli:main"}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    for version in ("311", "312", "313"):
        pins = (ROOT / f"constraints/py{version}.txt").read_text(encoding="utf-8").splitlines()
        pinned = {line.partition("==")[0] for line in pins}
        assert {re.split(r"[>\[]", w)[0] for w in wanted} - pinned == {"torch"}
