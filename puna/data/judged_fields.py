"""Fields of other tools' records: the prompt, the answers, a comparison made of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.errors import InputError
from puna.text.dialog import Dialog, Message, Preference, Role

Fields = Mapping[str, Any]
PROMPTS = ("prompt", "instruction", "question", "messages", "conversation", "chat", "query", "text")
ENDS = (("1", "2"), ("a", "b"), ("left", "right"))  # of the names of two answers
SPEAKERS: dict[str, Role] = {
    **dict.fromkeys(("user", "human", "customer", "prompter"), "user"),
    **dict.fromkeys(("assistant", "bot", "ai", "agent", "model", "gpt"), "assistant"),
    "system": "system",
}


@dataclass(frozen=True)
class Names:
    """Which fields hold what; empty: found by their names."""

    prompt: str = ""
    answers: tuple[str, ...] = ()  # of Label Studio: left, then right
    question: str = ""  # of Argilla: the question; of Label Studio: the Pairwise tag's name


def plain(name: str) -> str:
    """A field's name without case and signs: answer-1 is answer_1."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def listed(value: Any, name: str) -> Sequence[Any]:
    """The value, which has to be a list."""
    if not isinstance(value, list):
        raise InputError(f"field '{name}': is {type(value).__name__}, expected a list")
    return value


def two_answers(fields: Fields) -> tuple[str, str]:
    """The two answers, by names that differ in their end: text1 and text2, answer_a, answer_b."""
    by_plain = {plain(name): name for name in fields}
    found = [
        (name, by_plain[word.removesuffix(one) + other])
        for one, other in ENDS
        for word, name in by_plain.items()
        if word.endswith(one) and word.removesuffix(one) + other in by_plain
    ]
    if len(found) != 1:
        known = ", ".join(map(str, fields))
        raise InputError(f"fields {known}: which are the two answers? --answers=FIRST,SECOND")
    return found[0]


def dialog_of(fields: Fields, names: Names, identity: str) -> Dialog:
    """The dialogue that the answers are to, from the field that holds the prompt."""
    name = names.prompt or next((name for name in PROMPTS if name in fields), "")
    if name not in fields:
        raise InputError(
            f"fields {', '.join(map(str, fields))}: which is the prompt? --prompt=NAME"
        )
    value = fields[name]
    if isinstance(value, str) and value.strip():
        return Dialog((Message("user", value),), identity)
    if not is_chat(value):
        raise InputError(f"field {name!r}: expected text or a list of messages")
    try:
        dialog = Dialog(tuple(_message(turn) for turn in value), identity)
    except InputError as error:
        raise InputError(f"field {name!r}: {error}") from None
    if not dialog.ends_with_user:
        raise InputError(f"field {name!r}: ends with an assistant message, expected 'user'")
    return dialog


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(_parts(turn) for turn in value)


def _parts(turn: Any) -> tuple[str, str] | None:
    """(speaker, words) of {role, content} or of Label Studio's {author, text}."""
    if isinstance(turn, dict):
        for who, what in (("role", "content"), ("author", "text")):
            if isinstance(turn.get(who), str) and isinstance(turn.get(what), str):
                return turn[who], turn[what]
    return None


def _message(turn: Any) -> Message:
    speaker, words = _parts(turn) or ("", "")
    role = SPEAKERS.get(speaker.casefold())
    if role is None:
        raise InputError(f"speaker {speaker!r}, expected user or assistant")
    return Message(role, words)


def preference(
    dialog: Dialog, fields: Fields, chosen: str, rejected: str, person: str
) -> Preference:
    """One field's text preferred to another's."""
    for name in (chosen, rejected):
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            raise InputError(f"field {name!r}: expected the text of an answer")
    if fields[chosen] == fields[rejected]:
        raise InputError(f"field {rejected!r}: is equal to {chosen!r}")
    return Preference(dialog, fields[chosen], fields[rejected], annotator=person)
