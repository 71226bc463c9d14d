"""Argilla's records, versions 1 and 2, nested or flat, as comparisons."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from puna.data.judged_fields import (
    Fields,
    Names,
    dialog_of,
    is_chat,
    listed,
    plain,
    preference,
    two_answers,
)
from puna.errors import InputError
from puna.text.dialog import Preference


class Tied(Exception):
    """A judgement that prefers nothing; the text is the reason that is counted."""


@dataclass(frozen=True)
class Response:
    """What one person answered to one question."""

    question: str
    person: str
    value: Any


def argilla_comparisons(
    record: Fields, names: Names, left_out: Counter[str]
) -> Iterator[Preference]:
    """The comparisons of a record, one for each person and pair; InputError names the field."""
    fields, responses = _nested(record, left_out)
    dialog = dialog_of(fields, names, str(record.get("id") or record.get("external_id") or ""))
    asked = [one for one in responses if not names.question or one.question == names.question]
    fitting = [one for one in asked if _orders(one.value, fields) is not None]
    questions = sorted({one.question for one in fitting})
    if len(questions) > 1:
        raise InputError(f"field 'responses': {', '.join(questions)} all order answers, --question")
    if not responses:
        left_out["no submitted response"] += 1
    elif not fitting:
        known = ", ".join(sorted({one.question for one in responses}))
        raise InputError(f"field 'responses': none of {known} orders fields of this record")
    for one in fitting:
        try:
            pairs = _pairs(_orders(one.value, fields) or {}, fields, names)
        except Tied as tied:
            left_out[str(tied)] += 1
            continue
        for chosen, rejected in pairs:
            yield preference(dialog, fields, chosen, rejected, one.person)


def _nested(record: Fields, left_out: Counter[str]) -> tuple[Fields, list[Response]]:
    """Fields and submitted responses, however the record is laid out."""
    found: list[tuple[Response, str]] = []
    if isinstance(record.get("fields"), dict):
        fields: dict[str, Any] = record["fields"]
        given = record.get("responses") or []
        if isinstance(given, dict):  # version 2: by question
            for question, answers in given.items():
                found += [_response(question, a) for a in listed(answers, f"responses.{question}")]
        else:  # version 1: by person
            for number, answer in enumerate(listed(given, "responses")):
                found += _by_person(answer, f"responses[{number}]")
    else:
        flat = {n: v for n, v in record.items() if isinstance(v, str) or is_chat(v)}
        fields = {n: v for n, v in flat.items() if "." not in n and n != "id"}
        for name, value in record.items():
            if name.endswith(".responses") and value is not None:
                found += _flat_v2(record, name)
            elif is_flat(value):
                found += [_response(name, answer) for answer in rows_of(value)]
    submitted = [one for one, status in found if status in ("submitted", "")]
    left_out["response not submitted"] += len(found) - len(submitted)
    return fields, submitted


def _response(question: str, answer: Any) -> tuple[Response, str]:
    if not isinstance(answer, dict) or "value" not in answer:
        raise InputError(f"field 'responses.{question}': expected an object with value and user_id")
    who, status = answer.get("user_id"), answer.get("status")
    return Response(question, str(who or ""), answer["value"]), str(status or "")


def _by_person(answer: Any, where: str) -> list[tuple[Response, str]]:
    if not isinstance(answer, dict):
        raise InputError(f"field '{where}': expected an object with values, user_id and status")
    values = answer.get("values") or {}
    if not isinstance(values, dict):
        raise InputError(f"field '{where}.values': expected an object of questions")
    who, status = str(answer.get("user_id") or ""), str(answer.get("status") or "")
    return [
        (Response(name, who, value.get("value") if isinstance(value, dict) else value), status)
        for name, value in values.items()
    ]


def _flat_v2(record: Fields, name: str) -> list[tuple[Response, str]]:
    values = listed(record[name], name)
    users, states = record.get(f"{name}.users") or [], record.get(f"{name}.status") or []
    question = name.removesuffix(".responses")
    return [
        (
            Response(question, str(users[k]) if k < len(users) else "", value),
            str(states[k] or "") if k < len(states) else "",
        )
        for k, value in enumerate(values)
    ]


def is_flat(value: Any) -> bool:
    """Whether a value is a question of a flat record of version 1: answers with their person."""
    rows = rows_of(value)
    return bool(rows) and all(isinstance(r, dict) and {"user_id", "value"} <= set(r) for r in rows)


def rows_of(value: Any) -> list[Any]:
    """A list of objects; also from an object of lists, as a data set's columns are written."""
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        size = min(map(len, value.values()))
        return [{name: column[k] for name, column in value.items()} for k in range(size)]
    return value if isinstance(value, list) else []


def _orders(value: Any, fields: Fields) -> dict[str, int] | None:
    """Field → rank (1 is best) of a ranking, or of a label that names a field; None: no order."""
    by_name = {plain(name): name for name in fields}
    if isinstance(value, str):
        best = by_name.get(plain(value))
        return None if best is None else {best: 1}
    rows = rows_of(value)
    ranks: dict[str, int] = {}
    for place, row in enumerate(rows, 1):
        name = row.get("value") if isinstance(row, dict) else row
        rank = row.get("rank") if isinstance(row, dict) else place
        known = by_name.get(plain(name)) if isinstance(name, str) else None
        if known is None or not isinstance(rank, int):
            return None
        ranks[known] = rank
    return ranks or None


def _pairs(ranks: Mapping[str, int], fields: Fields, names: Names) -> list[tuple[str, str]]:
    """(better, worse) of every two answers that were not ranked equal."""
    if len(ranks) == 1:  # a label
        [best] = ranks
        answers = names.answers or two_answers(fields)
        if best not in answers:
            raise InputError(f"field {best!r}: is not one of the answers {', '.join(answers)}")
        return [(best, other) for other in answers if other != best]
    ordered = sorted(ranks, key=lambda name: ranks[name])
    pairs = [(a, b) for a, b in combinations(ordered, 2) if ranks[a] < ranks[b]]
    if not pairs:
        raise Tied("answers ranked equal")
    return pairs
