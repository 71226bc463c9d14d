"""Comparisons of other tools: taken as they were meant, or refused with their place."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from puna import cli
from puna.data.judged import Judged, Names, read_judged
from puna.errors import InputError
from puna.recipes import export, importing
from puna.store.store import open_store
from puna.store.tables import Imported
from puna.text.dialog import Preference
from puna.text.files import read_preferences, write_preferences

FIELDS = {"prompt": "Which tea?", "reply_1": "Green tea.", "reply_2": "No idea."}
RANKED = [{"value": "reply-2", "rank": 2}, {"value": "reply-1", "rank": 1}]
BETTER = ("Which tea?", "Green tea.", "No idea.")

ARGILLA = {
    "version 1, by person": {
        "fields": FIELDS,
        "responses": [
            {"user_id": "u1", "values": {"best": {"value": RANKED}}, "status": "submitted"}
        ],
    },
    "version 1, columns of a data set": {
        **FIELDS,
        "external_id": None,
        "metadata": "{}",
        "best": {
            "user_id": ["u1"],
            "value": [{"rank": [2, 1], "value": ["reply-2", "reply-1"]}],
            "status": ["submitted"],
        },
    },
    "version 1, rows of a data set": {
        **FIELDS,
        "best": [{"user_id": "u1", "value": RANKED, "status": "submitted"}],
        "best-suggestion": None,
    },
    "version 2": {
        "id": "7",
        "fields": FIELDS,
        "metadata": {},
        "suggestions": {},
        "responses": {"best": [{"value": ["reply_1", "reply_2"], "user_id": "u1"}]},
        "vectors": {},
        "_server_id": "s",
    },
    "version 2, a data set": {
        "id": "7",
        "status": "completed",
        **FIELDS,
        "best.responses": [["reply_1", "reply_2"]],
        "best.responses.users": ["u1"],
        "best.responses.status": ["submitted"],
    },
    "a label": {
        "fields": FIELDS,
        "responses": {"best": [{"value": "reply_1", "user_id": "u1"}]},
    },
}


def pairwise(selected: str, **more: Any) -> dict[str, Any]:
    value = {"selected": selected}
    result = {"type": "pairwise", "from_name": "pw", "to_name": ["t1", "t2"], "value": value}
    return {"id": 5, "completed_by": 3, "result": [{"id": "r", **result}], **more}


DATA = {"prompt": "Which tea?", "text1": "Green tea.", "text2": "No idea."}
LABEL_STUDIO = {
    "JSON": {"id": 1, "data": DATA, "annotations": [pairwise("left")], "predictions": []},
    "JSON with a person": {
        "id": 1,
        "data": DATA,
        "annotations": [pairwise("left", completed_by={"id": 3, "email": "anna@example.org"})],
    },
    "JSON-MIN": {
        **DATA,
        "id": 1,
        "pw": [{"selected": "left"}],
        "annotator": "anna@example.org",
        "annotation_id": 5,
        "lead_time": 3.2,
    },
}


def written(folder: Path, *records: Any, lines: bool = False) -> Path:
    path = folder / "export.json"
    body = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    path.write_text(body, encoding="utf-8")
    return path


def judged(folder: Path, *records: Any, names: Names | None = None, lines: bool = False) -> Judged:
    return read_judged(
        written(folder, *records, lines=lines), None, names or Names(), {"safety": False}
    )


def said(one: Preference) -> tuple[str, str, str]:
    return one.dialog.last.content, one.chosen, one.rejected


# --- layouts


@pytest.mark.parametrize("lines", [False, True], ids=["list", "lines"])
@pytest.mark.parametrize("name", ARGILLA)
def test_argilla_s_records_are_read_in_every_layout(name: str, lines: bool, tmp_path: Path) -> None:
    found = judged(tmp_path, ARGILLA[name], ARGILLA[name], lines=lines)
    assert (found.format, found.faults) == ("argilla", [])
    assert [said(one) for _, one in found.found] == [BETTER, BETTER]
    assert {one.annotator for _, one in found.found} == {"argilla-1"}


@pytest.mark.parametrize("name", LABEL_STUDIO)
def test_label_studio_s_tasks_are_read_in_every_layout(name: str, tmp_path: Path) -> None:
    found = judged(tmp_path, LABEL_STUDIO[name])
    assert (found.format, found.faults) == ("label_studio", [])
    assert [said(one) for _, one in found.found] == [BETTER]
    assert found.found[0][1].annotator == "label_studio-1"
    assert "example.org" not in json.dumps(found.found[0][1].to_json())


def test_right_is_the_second_answer_and_equal_is_none(tmp_path: Path) -> None:
    task = {"id": 1, "data": DATA, "annotations": [pairwise("right"), pairwise("equal")]}
    found = judged(tmp_path, task)
    assert [one.chosen for _, one in found.found] == ["No idea."]
    assert found.left_out["answers judged equal"] == 1


def test_a_ranking_of_three_gives_every_pair_that_is_not_equal(tmp_path: Path) -> None:
    fields = {"prompt": "Which?", "a": "A.", "b": "B.", "c": "C."}
    ranking = [{"value": v, "rank": r} for v, r in (("a", 1), ("b", 2), ("c", 2))]
    record = {"fields": fields, "responses": {"q": [{"value": ranking, "user_id": "u"}]}}
    found = judged(tmp_path, record)
    assert [(one.chosen, one.rejected) for _, one in found.found] == [("A.", "B."), ("A.", "C.")]


def test_what_was_not_submitted_or_is_equal_is_counted_and_not_taken(tmp_path: Path) -> None:
    draft = {"user_id": "u", "values": {"q": {"value": RANKED}}, "status": "draft"}
    tie = [{"value": "reply-1", "rank": 1}, {"value": "reply-2", "rank": 1}]
    equal = {"user_id": "v", "values": {"q": {"value": tie}}, "status": "submitted"}
    found = judged(tmp_path, {"fields": FIELDS, "responses": [draft, equal]})
    assert found.found == [] and found.faults == []
    assert found.left_out["response not submitted"] == 1
    assert found.left_out["answers ranked equal"] == 1


def test_a_cancelled_annotation_is_not_taken(tmp_path: Path) -> None:
    task = {"id": 1, "data": DATA, "annotations": [pairwise("left", was_cancelled=True)]}
    assert judged(tmp_path, task).found == []


def test_a_conversation_is_taken_as_one(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Which tea?"},
    ]
    record = {**ARGILLA["version 2"], "fields": {**FIELDS, "prompt": talk}}
    [(_, one)] = judged(tmp_path, record).found
    assert one.dialog.turns == 2 and said(one) == BETTER


def test_fields_can_be_named(tmp_path: Path) -> None:
    data = {"ask": "Which tea?", "good": "No idea.", "other": "Green tea."}
    task = {"id": 1, "data": data, "annotations": [pairwise("right")]}
    names = Names("ask", ("good", "other"))
    [(_, one)] = judged(tmp_path, task, names=names).found
    assert said(one) == BETTER


# --- what is wrong


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (
            {**ARGILLA["version 2"], "fields": {"reply_1": "A", "reply_2": "B"}},
            "which is the prompt",
        ),
        (
            {**ARGILLA["version 2"], "fields": {**FIELDS, "reply_2": "Green tea."}},
            "field 'reply_2': is equal",
        ),
        (
            {**ARGILLA["version 2"], "fields": {**FIELDS, "reply_2": " "}},
            "field 'reply_2': expected",
        ),
        ({"fields": FIELDS, "responses": {"q": [{"value": "blue"}]}}, "none of q orders fields"),
        ({"fields": FIELDS, "responses": {"q": "reply_1"}}, "field 'responses.q': is str"),
        ({"fields": FIELDS, "responses": [7]}, r"field 'responses[0]': expected an object"),
        (
            {"id": 1, "data": {"prompt": "p", "x": "1"}, "annotations": [pairwise("left")]},
            "which are the two answers",
        ),
        (
            {"id": 1, "data": DATA, "annotations": [{"result": [{"type": "pairwise"}]}]},
            "has no selected",
        ),
        ("words", "expected an object"),
    ],
)
def test_a_bad_record_is_one_line_with_file_record_and_field(
    record: Any, told: str, tmp_path: Path
) -> None:
    good = ARGILLA["version 2"] if "responses" in record else LABEL_STUDIO["JSON"]
    found = judged(tmp_path, good, record)
    [fault] = found.faults
    assert fault.startswith(f"{tmp_path / 'export.json'}: record 2: ")
    assert told in fault and len(fault.splitlines()) == 1
    assert len(found.found) == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("", "has no records"),
        ("[]", "has no records"),
        ('{"a": 1}', "none of Argilla's, Label Studio's or Puna's"),
        ('[{"a": 1}]', "none of Argilla's, Label Studio's or Puna's"),
        ('{"fields": {}}\n{oops', ":2: not valid JSON"),
        ("[" * 100_000, "not valid JSON: nested too deeply"),
    ],
)
def test_a_file_that_is_no_export_is_refused(body: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(body)
    with pytest.raises(InputError, match=re.escape(told)):
        read_judged(path, None, Names(), {})


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_bytes(b'{"fields": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8 text: byte 13"):
        read_judged(path, None, Names(), {})


# --- into the store


def stored(place: str) -> int:
    store = open_store(place)
    with store.read() as session:
        many = session.scalar(select(func.count()).select_from(Imported)) or 0
    store.close()
    return many


def test_what_was_imported_leaves_again_with_the_rest(place: str, tmp_path: Path) -> None:
    path = written(tmp_path, *LABEL_STUDIO.values())
    figures = importing.main(importing.Config(file=path, store=place, aim="safety"))
    assert (figures["format"], figures["comparisons"], figures["bad"]) == ("label_studio", 3, 0)
    out = tmp_path / "out.jsonl"
    if "://" not in place:
        export.main(export.Config(kind="preferences", store=place, out=out))
        found = read_preferences(out)
        assert [said(one) for one in found] == [BETTER] * 3
        assert all(one.dialog.tags["safety"] is True for one in found)


def test_the_same_file_is_taken_once(place: str, tmp_path: Path) -> None:
    path = written(tmp_path, ARGILLA["version 2"])
    importing.main(importing.Config(file=path, store=place))
    copy = path.rename(tmp_path / "another name.json")
    with pytest.raises(InputError, match=r"was imported before \(as argilla: export.json\)"):
        importing.main(importing.Config(file=copy, store=place))
    assert stored(place) == 1


def test_nothing_is_stored_where_one_record_is_bad_unless_bad_ones_are_skipped(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, ARGILLA["version 2"], {"fields": {}, "responses": {}}, "words")
    assert cli.main(["import", str(path), f"--store={place}"]) == 2
    faults = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in faults[:2]] == ["record 2", "record 3"]
    assert "2 of 3 records are bad, nothing was stored" in faults[2]
    assert stored(place) == 0
    assert cli.main(["import", str(path), f"--store={place}", "--skip_bad"]) == 0
    assert stored(place) == 1


def test_puna_s_own_export_comes_back_as_it_was(tmp_path: Path) -> None:
    first, second = (str(tmp_path / name) for name in ("a.db", "b.db"))
    path = written(tmp_path, *LABEL_STUDIO.values())
    importing.main(importing.Config(file=path, store=first))
    out, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    export.main(export.Config(kind="preferences", store=first, out=out))
    importing.main(importing.Config(file=out, store=second))
    export.main(export.Config(kind="preferences", store=second, out=again))
    assert again.read_bytes() == out.read_bytes()


def test_a_preference_that_puna_would_not_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    dialog = judged(tmp_path, ARGILLA["version 2"]).found[0][1]
    write_preferences(path, [dialog])
    broken = json.loads(path.read_text()) | {"strength": "very"}
    path.write_text(json.dumps(broken))
    found = read_judged(path, None, Names(), {})
    assert "record 1: field 'strength': 'very' is unknown" in found.faults[0]


def test_a_file_without_a_comparison_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"fields": FIELDS, "responses": {}})
    with pytest.raises(InputError, match="none of its 1 records has a comparison"):
        importing.main(importing.Config(file=path, store=str(tmp_path / "puna.db")))
    assert not (tmp_path / "puna.db").exists()


def test_one_answer_is_no_pair_of_names(tmp_path: Path) -> None:
    path = written(tmp_path, ARGILLA["version 2"])
    with pytest.raises(InputError, match="answers=a: expected two names"):
        importing.main(importing.Config(file=path, answers=("a",)))
