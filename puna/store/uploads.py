"""What an upload holds, line by line: prompts, dialogues, prompts with two ready answers.

A line is a prompt in plain words, or a JSON object:

    {"messages": [{"role", "content"}, ...]}              Puna's and TRL's dialogues
    {"prompt": "..." or [messages], "category": "..."}    a prompt
    {"prompt": ..., "answers": ["...", "..."],            with two answers, and for gold and test
     "chosen": 0, "safety": "both_safe"}                  items which one is right
    {"prompt": [...], "chosen": [...], "rejected": [...]} a preference: the chosen answer is right

A line that cannot be taken is left out with a reason; the others are kept.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from puna.errors import InputError
from puna.text.dialog import BINS, Dialog, Message, Preference

MOST_LINES = 20_000
MOST_TEXT = 100_000  # characters of a dialogue or an answer
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it, and no other words
MOST_NAME = 200  # characters of a model's name or version
MOST_NUMBER = 100  # a temperature, or a share of the probability
ABOUT_ANSWERS = ("model", "version", "temperature", "top_p")


class LeftOut(Exception):
    """A line that cannot be taken; the text is the reason, and what is counted."""


@dataclass(frozen=True)
class Given:
    """One line of an upload."""

    line: int
    dialog: Dialog
    answers: list[dict[str, Any]] = field(default_factory=list)  # none, or two
    expected: dict[str, Any] = field(default_factory=dict)
    category: str = ""


def lines_of(text: str, system: str = "", category: str = "") -> Iterator[Given | tuple[int, str]]:
    """What each line that is not blank holds; or its number, and why it is left out.

    `system` and `category` are those of lines that bring none of their own.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            if number > MOST_LINES:
                raise LeftOut(f"beyond {MOST_LINES} lines")
            yield _line(number, line.strip(), system, category)
        except LeftOut as error:
            yield number, str(error)
        except InputError as error:
            yield number, " ".join(str(error).split())[:200]


def _line(number: int, line: str, system: str, category: str) -> Given:
    if line[0] != "{":
        dialog = Dialog((Message("user", line),))
        return _finished(Given(number, dialog, category=category), system)
    record = _record(line)
    given = _preference(number, record) if "rejected" in record else _prompt(number, record)
    return _finished(given, system, _category(record) or category)


def _record(line: str) -> Any:
    """The JSON of a line: what Python's reader takes besides JSON could not be shown again."""
    try:
        record = json.loads(line)
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        raise LeftOut("has half a UTF-16 surrogate pair, which is not text") from None
    except (ValueError, RecursionError):  # also NaN, infinite numbers, thousands of digits
        raise LeftOut("not JSON") from None
    if NUL.search(text):
        raise LeftOut("holds a NUL character")
    return record


def _finished(given: Given, system: str, category: str = "") -> Given:
    dialog = given.dialog
    if not dialog.ends_with_user:
        raise LeftOut("ends with an answer, expected a user's message")
    if not dialog.last.content.strip():
        raise LeftOut("the prompt is empty")
    texts = [message.content for message in dialog.messages]
    if sum(map(len, texts)) > MOST_TEXT or any(
        len(one["text"]) > MOST_TEXT for one in given.answers
    ):
        raise LeftOut(f"more than {MOST_TEXT} characters")
    if system and dialog.system is None:
        dialog = dialog.with_system(system)
    return Given(given.line, dialog, given.answers, given.expected, category or given.category)


def _prompt(number: int, record: Mapping[str, Any]) -> Given:
    answers = _answers(record["answers"]) if record.get("answers") is not None else []
    if "messages" in record:
        dialog = Dialog.from_json(record)
        if not answers and not dialog.ends_with_user:
            dialog = dialog.prompt()  # a training example: its answer is not asked for
    elif isinstance(record.get("prompt"), str):
        dialog = Dialog((Message("user", record["prompt"]),), id=str(record.get("id") or ""))
    elif "prompt" in record:
        dialog = Dialog.from_json({**record, "messages": record["prompt"]})
    else:
        raise LeftOut("has neither prompt nor messages")
    return Given(number, dialog, answers, _expected(record) if answers else {})


def _preference(number: int, record: Mapping[str, Any]) -> Given:
    found = Preference.from_json(record)
    variants = found.variants
    answers = [
        _answer({"text": text, **_about(variants.get(name))})
        for name, text in (("chosen", found.chosen), ("rejected", found.rejected))
    ]
    expected: dict[str, Any] = {"chosen": 0}
    if found.safety is not None:
        expected["safety"] = found.safety
    return Given(number, found.dialog, answers, expected)


def _answers(values: Any) -> list[dict[str, Any]]:
    if not isinstance(values, list) or len(values) != 2:
        raise LeftOut("answers: expected a list of two")
    return [_answer(value) for value in values]


def _answer(value: Any) -> dict[str, Any]:
    record = {"text": value} if isinstance(value, str) else value
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise LeftOut("answers: expected texts")
    text = Message("assistant", record["text"]).content
    if not text.strip():
        raise LeftOut("an answer is empty")
    return {"text": text, **_about(record)}


def _about(record: Any) -> dict[str, Any]:
    """Who wrote an answer, as far as the upload says so."""
    known = record if isinstance(record, dict) else {"model": record}
    found: dict[str, Any] = {"model": "", "version": "", "temperature": None, "top_p": None}
    for name in ABOUT_ANSWERS:
        value = known.get(name)
        if found[name] is not None:
            fits, large = isinstance(value, str), isinstance(value, str) and len(value) > MOST_NAME
        elif isinstance(value, int | float) and not isinstance(value, bool):
            fits, large = True, not 0 <= value <= MOST_NUMBER
        else:
            fits = large = False
        if large:
            raise LeftOut(f"{name}: is too large")
        if fits:
            found[name] = value
    return found


def _expected(record: Mapping[str, Any]) -> dict[str, Any]:
    expected: dict[str, Any] = {}
    if record.get("chosen") is not None:
        if record["chosen"] not in (0, 1) or isinstance(record["chosen"], bool | float):
            raise LeftOut("chosen: expected 0 or 1")
        expected["chosen"] = record["chosen"]
    if record.get("safety") is not None:
        if record["safety"] not in BINS:
            raise LeftOut(f"safety: expected one of {', '.join(BINS)}")
        expected["safety"] = record["safety"]
    return expected


def _category(record: Mapping[str, Any]) -> str:
    tags = record.get("tags")
    value = record.get("category") or (tags.get("category") if isinstance(tags, dict) else "")
    if not value:
        return ""
    if not isinstance(value, str) or len(value) > 64:
        raise LeftOut("category: expected at most 64 characters")
    return value
