"""Reading and writing: faults name file and line, a write happens whole or not at all."""

import errno
import gzip
import hashlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import InputError
from puna.text import files
from puna.text.dialog import Dialog, Label, Message, Preference

ASK = Dialog((Message("user", "Ein Stück Kuchen, 🍰 bitte"),), "d1")
PAIR = Preference(ASK, "Yes.", "No.")

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=8,
)


def lines_with(path, number, bad):
    """Write 50 good preference lines with `bad` as line `number`."""
    good = json.dumps(PAIR.to_json()).encode()
    path.write_bytes(b"\n".join(bad if i == number else good for i in range(1, 51)) + b"\n")
    return path


def refusal(call, *arguments):
    """The one line that a call is refused with."""
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"prompt": [', "not valid JSON: Expecting value, column 13"),
        (b"hello", "not valid JSON: Expecting value, column 1"),
        (b'{"a": NaN}', "not valid JSON: NaN is not a JSON number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON: "),
        (b"[" * 200_000, "not valid JSON: nested too deeply"),
        (b'{"a": "\xff"}', "not UTF-8 text: byte 8 is wrong"),
        (b"[1, 2]", "expected a JSON object"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path, bad, message):
    path = lines_with(tmp_path / "p.jsonl", 37, bad)
    assert refusal(files.read_preferences, path).startswith(f"{path}:37: {message}")


def test_a_wrong_record_is_named_by_line_and_field(tmp_path):
    wrong = json.dumps(PAIR.to_json() | {"chosen": "Yes."}).encode()
    path = lines_with(tmp_path / "p.jsonl", 37, wrong)
    told = refusal(files.read_preferences, path)
    assert told == f"{path}:37: field 'chosen': is text, expected a list"


def test_equal_answers_in_a_file_are_named_by_line(tmp_path):
    record = PAIR.to_json()
    wrong = json.dumps(record | {"rejected": record["chosen"]}).encode()
    path = lines_with(tmp_path / "p.jsonl", 37, wrong)
    assert refusal(files.read_preferences, path).endswith(
        ":37: field 'rejected': the two answers are equal"
    )


def test_blank_lines_are_passed_over_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\n  \n{"n": 2}\n{"n":')
    assert refusal(files.read_jsonl, path, dict).startswith(f"{path}:5: not valid JSON")


def test_an_empty_file_is_refused_unless_allowed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n")
    assert refusal(files.read_dialogs, path) == f"{path}: has no records, expected at least one"
    assert files.read_jsonl(path, dict, allow_empty=True) == []


@pytest.mark.parametrize("read", [files.read_dialogs, files.read_json, files.sha256])
def test_a_missing_file_is_named(tmp_path, read):
    path = tmp_path / "absent.jsonl"
    assert refusal(read, path) == f"{path}: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "content", [b"not packed", gzip.compress(b'{"n": 1}\n' * 99, mtime=0)[:-12]]
)
def test_a_damaged_gzip_file_is_named(tmp_path, content):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    assert refusal(files.read_jsonl, path, dict).startswith(f"{path}: cannot be read: ")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_each_kind_of_record_survives_a_file(tmp_path, name):
    path, label = tmp_path / "new" / "folder" / name, Label(ASK, "Yes.", True)
    files.write_dialogs(path, [ASK, ASK])
    assert files.read_dialogs(path) == [ASK, ASK]
    files.write_preferences(path, [PAIR])
    assert files.read_preferences(path) == [PAIR]
    files.write_labels(path, [label])
    assert files.read_labels(path) == [label]


def test_a_gzip_file_is_the_same_whenever_it_is_written(tmp_path, monkeypatch):
    files.write_dialogs(tmp_path / "a.jsonl.gz", [ASK])
    monkeypatch.setattr("time.time", lambda: 1.0)
    files.write_dialogs(tmp_path / "b.jsonl.gz", [ASK])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


RECORDS = st.lists(st.dictionaries(st.sampled_from(["a", "é", ""]), JSON, max_size=2), max_size=3)


@given(RECORDS)
@settings(max_examples=50)
def test_any_json_records_come_back_equal(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    files.write_jsonl(path, records)
    assert files.read_jsonl(path, dict, allow_empty=True) == records


@given(JSON)
def test_any_json_value_comes_back_equal(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("any") / "a.json"
    files.write_json(path, value)
    assert files.read_json(path) == value


def test_bad_json_is_named_by_its_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{\n "a": 1,\n "b" 2\n}')
    told = refusal(files.read_json, path)
    assert told == f"{path}:3: not valid JSON: Expecting ':' delimiter, column 6"


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800"])
def test_what_is_not_json_is_not_written(tmp_path, value):
    for write, given_value in ((files.write_json, value), (files.write_jsonl, [{"x": value}])):
        told = refusal(write, tmp_path / "a.json", given_value)
        assert told.startswith(f"{tmp_path}/a.json: cannot be written")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_names_the_path_and_leaves_the_old_file(tmp_path, monkeypatch, code):
    path = tmp_path / "a.jsonl"
    files.write_dialogs(path, [ASK])

    def full(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", full)
    told = refusal(files.write_dialogs, path, [ASK, ASK])
    assert told == f"{path}: cannot be written: {os.strerror(code)}"
    monkeypatch.undo()
    assert files.read_dialogs(path) == [ASK]
    assert os.listdir(tmp_path) == ["a.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_a_read_only_folder_names_the_path(tmp_path):
    tmp_path.chmod(0o500)
    told = refusal(files.write_text, tmp_path / "a.txt", "x")
    assert told == f"{tmp_path}/a.txt: cannot be written: Permission denied"


def test_a_file_in_place_of_a_folder_names_the_path(tmp_path):
    (tmp_path / "folder").write_text("in the way")
    told = refusal(files.write_text, tmp_path / "folder" / "a.txt", "x")
    assert told.startswith(f"{tmp_path}/folder/a.txt: cannot be written: ")


def test_a_fault_in_the_records_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    files.write_jsonl(path, [{"n": 1}])

    def records():
        yield {"n": 2}
        raise KeyError("lost")

    with pytest.raises(KeyError):
        files.write_jsonl(path, records())
    assert files.read_jsonl(path, dict) == [{"n": 1}]
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    files.write_text(tmp_path / "a.txt", "x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_sha256_is_that_of_the_bytes(tmp_path):
    files.write_bytes(tmp_path / "a", b"abc" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
