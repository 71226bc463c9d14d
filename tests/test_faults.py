"""Faults in what the user gave, or of the disk: one line on stderr, exit status 2, no damage."""

import contextlib
import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.kill_resume import MICRO, ROOT
from puna import cli
from puna.data import cafe_documents

# The foundation of a run only: prepare, then pretraining that fails its check and ends the run.
FOUNDATION = ("--gates.stop=true", "--gates.pretrain-loss=0.1", "--pretrain.steps=4")
STOPPED = "puna paper: pretrain failed its check"


def fault(*words: str) -> str:
    """The one line with which a `puna paper` of the smallest size refuses to go on."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main(["paper", str(MICRO), *words])
    return one_line(status, errors.getvalue())


def one_line(status: int, errors: str) -> str:
    assert status == 2, errors
    assert errors.startswith("puna paper: ")
    assert errors.count("\n") == 1 and errors.endswith("\n")
    return errors.strip()


def whole(folder: Path) -> bool:
    """Whether nothing half-written is left beside the finished files."""
    return not [path for path in folder.rglob(".*") if path.is_file() and path.name != ".gitignore"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A run whose first two stages are finished."""
    folder = tmp_path_factory.mktemp("prepared")
    assert fault(f"--run={folder}", *FOUNDATION).startswith(STOPPED)
    return folder


# --- settings -------------------------------------------------------------------------------------


def test_an_unknown_setting_is_refused_with_a_suggestion(tmp_path):
    said = fault(f"--run={tmp_path / 'run'}", "--pretrain.stepz=3")
    assert "pretrain.stepz" in said and "pretrain.steps" in said
    assert not (tmp_path / "run").exists()


def test_a_setting_of_another_type_is_refused_with_its_name(tmp_path):
    assert "pretrain.steps" in fault(f"--run={tmp_path / 'run'}", "--pretrain.steps=many")


@pytest.mark.parametrize("setting", ["pretrain.steps=0", "sft.tuning.epochs=0"])
def test_training_without_a_step_is_refused(tmp_path, setting):
    assert setting.partition("=")[0] in fault(f"--run={tmp_path / 'run'}", f"--{setting}")


def test_a_sequence_longer_than_the_context_is_refused(tmp_path):
    assert "seq_len=385" in fault(f"--run={tmp_path}", "--pretrain.seq-len=385")


def test_a_missing_preset_is_refused_with_its_name(tmp_path):
    assert "nowhere.toml" in fault(str(tmp_path / "nowhere.toml"))


def test_a_folder_made_with_other_settings_is_refused_and_left_as_it_is(tmp_path):
    assert fault(f"--run={tmp_path}", *FOUNDATION).startswith(STOPPED)
    before = (tmp_path / "prepare/config.toml").read_bytes()
    assert "prepare.documents" not in fault(f"--run={tmp_path}", *FOUNDATION)
    said = fault(f"--run={tmp_path}", *FOUNDATION, "--prepare.documents=301")
    assert "documents was 300 and is now 301" in said
    assert (tmp_path / "prepare/config.toml").read_bytes() == before


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path) -> Path:
    """A folder of files such as a user gives: a corpus, dialogues, judgements of both kinds."""
    data = tmp_path / "data"
    data.mkdir()
    words = "tea coffee cake milk sugar water juice bread butter jam honey salt".split()
    texts = [d.text.replace("\n", " ") for d in cafe_documents.documents(random.Random(0), 80)]
    (data / "corpus.txt").write_text("\n\n".join(texts))
    dialogs, helpful, safe = [], [], []
    for i in range(60):
        user = {"role": "user", "content": f"Do you have {words[i % 12]} at table {i}?"}
        dialogs.append(
            {"messages": [user, {"role": "assistant", "content": f"Yes, {words[i % 12]}."}]}
        )
        prompt = {"role": "user", "content": f"May I have {words[i % 12]}, order {i}?"}
        sides = {
            side: [{"role": "assistant", "content": f"{side} {words[(i + n) % 12]}."}]
            for n, side in enumerate(("chosen", "rejected"))
        }
        helpful.append({"prompt": [prompt], **sides, "strength": "better"})
        safe.append({"prompt": [prompt], **sides, "safety": "both_safe"})
    for name, rows in (("dialogs", dialogs), ("helpful", helpful), ("safe", safe)):
        write(data / f"{name}.jsonl", rows)
    return data


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def of(data: Path, run: Path) -> tuple[str, ...]:
    """The options of a run on the user's own files."""
    return (
        f"--run={run}",
        f"--data={data}",
        "--prepare.world=none",
        "--prepare.corpus",
        "corpus.txt",
        "--prepare.dialogs",
        "dialogs.jsonl",
        "--prepare.helpfulness",
        "helpful.jsonl",
        "--prepare.safety",
        "safe.jsonl",
        "--align.versions=1",
        *FOUNDATION,
    )


def test_the_users_own_files_are_prepared(given, tmp_path):
    assert fault(*of(given, tmp_path / "run")).startswith(STOPPED)
    figures = json.loads((tmp_path / "run/prepare/stage.json").read_text())["figures"]
    assert figures["dialogs"] + figures["dialogs_held_out"] == 60
    assert figures["preferences_safety"] + figures["preferences_safety_held_out"] == 60


@pytest.mark.parametrize("name", ["corpus.txt", "dialogs.jsonl", "helpful.jsonl"])
def test_a_missing_file_is_refused_with_its_name(given, tmp_path, name):
    (given / name).unlink()
    assert str(given / name) in fault(*of(given, tmp_path / "run"))


@pytest.mark.parametrize("name", ["corpus.txt", "dialogs.jsonl", "safe.jsonl"])
def test_an_empty_file_is_refused_with_its_name(given, tmp_path, name):
    (given / name).write_text("")
    assert str(given / name) in fault(*of(given, tmp_path / "run"))


def test_a_malformed_line_is_refused_with_its_number_and_mending_it_is_enough(given, tmp_path):
    path, run = given / "dialogs.jsonl", tmp_path / "run"
    good = path.read_text()
    lines = good.splitlines()
    lines[36] = lines[36][:-3]
    path.write_text("\n".join(lines))
    assert f"{path}:37: " in fault(*of(given, run))
    assert not (run / "prepare/stage.json").exists()
    path.write_text(good)
    assert fault(*of(given, run)).startswith(STOPPED)  # the mended file goes on to pretraining
    assert (run / "prepare/stage.json").exists()


def equal_answers(path: Path, line: int) -> None:
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    rows[line - 1]["rejected"] = rows[line - 1]["chosen"]
    write(path, rows)


def test_a_given_preference_with_two_equal_answers_is_refused_with_its_place(given, tmp_path):
    path = given / "helpful.jsonl"
    equal_answers(path, 5)
    said = fault(*of(given, tmp_path / "run"))
    assert f"{path}:5: field 'rejected': the two answers are equal" in said
    assert not (tmp_path / "run/prepare/stage.json").exists()


def test_an_own_preference_with_two_equal_answers_is_refused_with_its_place(given, prepared):
    path, errors = given / "helpful.jsonl", io.StringIO()
    equal_answers(path, 5)
    words = [f"--preferences={path}", f"--model={prepared / 'pretrain/checkpoint'}"]
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main(["reward", f"--run={given / 'run'}", *words])
    said = f"puna reward: {path}:5: field 'rejected': the two answers are equal\n"
    assert (status, errors.getvalue()) == (2, said)


def test_a_dialogue_where_judgements_belong_is_refused(given, tmp_path):
    shutil.copy(given / "dialogs.jsonl", given / "helpful.jsonl")
    said = fault(*of(given, tmp_path / "run"))
    assert f"{given / 'helpful.jsonl'}" in said and "expected a preference or label" in said


def test_an_empty_corpus_is_refused(tmp_path):
    said = fault(f"--run={tmp_path}", "--prepare.documents=0")
    assert said.startswith("puna paper: prepare: ") and "corpus" in said


# --- the disk -------------------------------------------------------------------------------------


@pytest.fixture
def half_way(prepared, tmp_path) -> Path:
    """A copy of it whose pretraining is still to do."""
    folder = tmp_path / "run"
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns("pretrain"))
    for path in folder.rglob("config.toml"):
        path.write_text(path.read_text().replace(str(prepared), str(folder)))
    return folder


@contextlib.contextmanager
def failing_disk(number: int, allowance: int, inside: Path) -> Iterator[None]:
    """Every opening of a file for writing fails, once `allowance` of them went well."""
    left = [allowance]
    real = io.open

    def opening(file, mode="r", *args, **kwargs):
        if set(mode) & set("wax+") and str(file).startswith(str(inside)):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(number, os.strerror(number), str(file))
        return real(file, mode, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", opening)
        patch.setattr("builtins.open", opening)
        yield


@pytest.mark.parametrize("allowance", [0, 1, 2, 4, 6])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_failing_disk_stops_with_its_reason_and_damages_nothing(
    half_way, prepared, number, allowance
):
    with failing_disk(number, allowance, half_way):
        said = fault(f"--run={half_way}", *FOUNDATION)
    assert os.strerror(number) in said
    assert whole(half_way)
    kept = (half_way / "prepare/tokens/train/index.json").read_bytes()
    assert kept == (prepared / "prepare/tokens/train/index.json").read_bytes()
    assert fault(f"--run={half_way}", *FOUNDATION).startswith(STOPPED)
    assert weights(half_way) == weights(prepared)


def weights(run: Path) -> bytes:
    (path,) = (run / "pretrain/checkpoint").rglob("model.safetensors")
    return path.read_bytes()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_with_one_line_and_room_is_enough_to_go_on(small_disk):
    words = [sys.executable, "-m", "puna", "paper", str(MICRO), f"--run={small_disk / 'run'}"]
    words += FOUNDATION
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "No space left on device" in one_line(done.returncode, done.stderr)
    room = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(room, check=True)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert one_line(done.returncode, done.stderr).startswith(STOPPED)


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert str(tmp_path) in fault(f"--run={tmp_path / 'run'}", *FOUNDATION)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_where_the_run_belongs_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    assert str(tmp_path / "run") in fault(f"--run={tmp_path / 'run'}", *FOUNDATION)


@pytest.mark.parametrize(
    "name", ["prepare/tokens/train/tokens-00000.bin", "prepare/tokenizer.model"]
)
def test_a_file_that_was_damaged_later_is_refused_with_its_name(half_way, name):
    content = bytearray((half_way / name).read_bytes())
    content[len(content) // 2] ^= 1
    (half_way / name).write_bytes(content)
    said = fault(f"--run={half_way}", *FOUNDATION)
    assert "tokens" in said or name in said
