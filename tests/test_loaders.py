"""What no loader of ours does, and what a stream of damaged files leads to."""

import ast
import re
from pathlib import Path

import pytest

from benchmarks.fuzz_loaders import TARGETS, fuzz
from puna import cli
from puna.data.formats import iter_dialogs
from puna.errors import InputError
from puna.text import files

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("module", ["yaml", "tarfile", "pickle", "marshal", "shelve", "joblib"])
def test_no_module_that_can_run_or_unpack_what_it_reads_is_imported(module):
    for path in (ROOT / "puna").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert module not in {name.split(".")[0] for name in names}, path


def test_nothing_is_extracted_from_an_archive_and_no_template_of_a_model_is_run():
    word = re.compile(r"extractall|\.extract\(|unpack_archive|apply_chat_template|chat_template\b")
    for path in (ROOT / "puna").rglob("*.py"):
        assert not word.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", ["x.yaml", "x.yml"])
def test_settings_in_yaml_are_refused(tmp_path, capsys, name):
    (tmp_path / name).write_text("a: !!python/object/apply:os.system [true]")
    assert cli.main(["sft", str(tmp_path / name)]) == 2
    assert "expected PRESET.toml or --name=value" in capsys.readouterr().err


def test_settings_given_twice_in_a_preset_are_refused(tmp_path, capsys):
    (tmp_path / "x.toml").write_text("seed = 1\nseed = 2\n")
    assert cli.main(["sft", str(tmp_path / "x.toml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("read", [iter_dialogs, files.read_dialogs])
def test_a_line_without_end_is_refused_before_it_is_in_memory(tmp_path, monkeypatch, read):
    monkeypatch.setattr(files, "LINE_BYTES", 1 << 20)
    good = '{"messages": [{"role": "user", "content": "x"}], "id": "1", "tags": {}}\n'
    (tmp_path / "x.jsonl").write_text(good + "[" * (3 << 20))
    with pytest.raises(InputError, match=r"x\.jsonl:2: has more than 1 MB in one line"):
        list(read(tmp_path / "x.jsonl"))


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused_and_nothing_else(name, tmp_path):
    found = fuzz(name, tmp_path, rounds=150, seed=7)
    assert found.refused + found.read == 150
    assert found.refused >= 15  # the changes do reach what is checked
