"""Comparisons in other annotation tools' exports: Argilla (version 1 and 2), Label Studio.

Argilla: records as JSON or JSON Lines, nested ({"fields", "responses"}) or flat as in a data set; a
ranking question orders answers that stand in fields, a label question names the best of two. Label
Studio: tasks as JSON or JSON-MIN with a Pairwise tag. Which fields hold the prompt and the answers
is found by their names, or told (`Names`). What is wrong is said with the record and the field.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from puna.data.argilla import argilla_comparisons, is_flat
from puna.data.judged_fields import Fields, Names
from puna.data.label_studio import label_studio_comparisons
from puna.errors import InputError
from puna.text.dialog import Preference

Format = Literal["argilla", "label_studio", "puna"]
LISTS = ("records", "items", "data", "tasks")  # where a JSON object keeps its records


@dataclass
class Judged:
    """What a file holds: comparisons by record, what is wrong, what has no comparison and why."""

    format: Format
    records: int = 0
    found: list[tuple[int, Preference]] = field(default_factory=list)  # (record, comparison)
    faults: list[str] = field(default_factory=list)  # "record 3: field ...", one line each
    bad: int = 0  # records with a fault
    left_out: Counter[str] = field(default_factory=Counter)


def read_judged(path: Path, format: Format | None, names: Names, tags: Mapping[str, Any]) -> Judged:
    """The comparisons of a file; `tags` are added to each. InputError: it holds no records, or is
    of no format that is known.
    """
    records = _records(path)
    known = format or _format_of(records[0][1], path)
    judged = Judged(known, len(records))
    people: dict[str, str] = {}
    for number, record in records:
        try:
            if not isinstance(record, dict):
                raise InputError("expected an object")
            found = list(_comparisons(known, record, names, judged.left_out))
            for one in found:
                judged.found.append((number, _named(one, known, number, people, tags)))
        except InputError as error:
            judged.bad += 1
            judged.faults.append(f"{path}: record {number}: {error}")
    return judged


def _comparisons(
    known: Format, record: Fields, names: Names, left_out: Counter[str]
) -> Iterator[Preference]:
    if known == "puna":
        yield Preference.from_json(record)
    elif known == "argilla":
        yield from argilla_comparisons(record, names, left_out)
    else:
        yield from label_studio_comparisons(record, names, left_out)


def _named(
    one: Preference, known: Format, number: int, people: dict[str, str], tags: Mapping[str, Any]
) -> Preference:
    """The comparison with a dialogue id and tags; people of other tools become numbers."""
    if known == "puna":
        dialog = replace(one.dialog, tags={**tags, **one.dialog.tags})
        return replace(one, dialog=dialog)
    who = people.setdefault(one.annotator, f"{known}-{len(people) + 1}") if one.annotator else ""
    dialog = replace(one.dialog, id=one.dialog.id or f"{known}-{number}", tags=dict(tags))
    return replace(one, dialog=dialog, annotator=who, source=known)


# --- the file


def _records(path: Path) -> list[tuple[int, Any]]:
    """(number, record): of a JSON list, or of JSON Lines by the line."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path}: cannot be read: {reason}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: byte {error.start + 1} is wrong") from None
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return _lines(text, path)
    if isinstance(whole, dict):
        inside = next((whole[name] for name in LISTS if isinstance(whole.get(name), list)), None)
        whole = [whole] if inside is None else inside
    if not isinstance(whole, list) or not whole:
        raise InputError(f"{path}: has no records, expected a list of objects, or JSON Lines")
    return list(enumerate(whole, 1))


def _lines(text: str, path: Path) -> list[tuple[int, Any]]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                raise InputError(f"{path}:{number}: not valid JSON: {what}") from None
    if not found:
        raise InputError(f"{path}: has no records, expected a list of objects, or JSON Lines")
    return found


def _format_of(record: Any, path: Path) -> Format:
    """The tool that wrote a record, by its fields."""
    if isinstance(record, dict):
        if "chosen" in record and "rejected" in record:
            return "puna"
        if isinstance(record.get("annotations"), list) and isinstance(record.get("data"), dict):
            return "label_studio"
        if "annotation_id" in record or {"annotator", "lead_time"} <= set(record):
            return "label_studio"
        if isinstance(record.get("fields"), dict) or any(
            name.endswith(".responses") or is_flat(value) for name, value in record.items()
        ):
            return "argilla"
    raise InputError(
        f"{path}: record 1 is none of Argilla's, Label Studio's or Puna's, expected fields and "
        "responses, data and annotations, or chosen and rejected (--format says which)"
    )
