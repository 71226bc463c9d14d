"""Label Studio's tasks, JSON and JSON-MIN, with a Pairwise tag, as comparisons."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from puna.data.judged_fields import Fields, Names, dialog_of, listed, preference, two_answers
from puna.errors import InputError
from puna.text.dialog import Preference


def label_studio_comparisons(
    record: Fields, names: Names, left_out: Counter[str]
) -> Iterator[Preference]:
    """The comparisons of a task, one for each person; InputError names the field."""
    data = record.get("data", record)
    if not isinstance(data, dict):
        raise InputError("field 'data': expected an object")
    choices = list(
        _tasks(record, names, left_out) if "annotations" in record else _min(record, names)
    )
    if not choices:
        left_out["no pairwise result"] += 1
        return
    dialog = dialog_of(data, names, str(record.get("id") or ""))
    left, right = names.answers or two_answers(data)
    for selected, who in choices:
        if selected not in ("left", "right"):
            left_out["answers judged equal"] += 1
        else:
            chosen, rejected = (left, right) if selected == "left" else (right, left)
            yield preference(dialog, data, chosen, rejected, who)


def _tasks(record: Fields, names: Names, left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    for number, annotation in enumerate(listed(record["annotations"], "annotations")):
        where = f"annotations[{number}]"
        if not isinstance(annotation, dict):
            raise InputError(f"field '{where}': expected an object")
        if annotation.get("was_cancelled"):
            left_out["skipped by the annotator"] += 1
            continue
        for result in listed(annotation.get("result"), f"{where}.result"):
            if not isinstance(result, dict):
                raise InputError(f"field '{where}.result': expected objects")
            named = not names.question or result.get("from_name") == names.question
            if result.get("type") == "pairwise" and named:
                yield _selected(result.get("value"), f"{where}.result"), _who(annotation)


def _min(record: Fields, names: Names) -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        inner = value[0] if isinstance(value, list) and len(value) == 1 else value
        pairwise = isinstance(inner, dict) and "selected" in inner
        if (pairwise and names.question in ("", name)) or name == names.question:
            yield _selected(inner, name), _who(record)


def _selected(value: Any, where: str) -> str:
    selected = value.get("selected") if isinstance(value, dict) else value
    if not isinstance(selected, str):
        raise InputError(f"field '{where}': has no selected, expected left or right")
    return selected


def _who(record: Fields) -> str:
    who = record.get("completed_by", record.get("annotator"))
    who = who.get("id", who.get("email")) if isinstance(who, dict) else who
    return "" if who is None else str(who)
