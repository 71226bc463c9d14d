"""One JSON record of the kinds people publish → a Dialog, Preference, Label or Document.

The keys decide what a record is; `KINDS` lists the layouts. What breaks the order of roles is
repaired and noted, what cannot be used is skipped with its reason, and a record of no known
layout is an error:

- neighbouring messages of one role are merged, with a line break between them;
- empty messages are left out;
- a dialog that opens with the assistant loses those messages: Llama 2's format begins with the
  user. They stay in `tags["greeting"]`, which no model sees;
- calls of an API and its responses are lines of the assistant's own turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from puna.data.corpus import Document, Ledger
from puna.errors import InputError
from puna.text.dialog import Dialog, Label, Message, Preference, Role

Record = Dialog | Preference | Label | Document
Fields = Mapping[str, Any]
Turn = tuple[Role, str]

STAGE = "read"  # the ledger's name for what this module counts
RESPONSE_LENGTH = 200  # characters kept of an API's response

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "agent", "bot", "model", "chatbot"), "assistant"),
    "system": "system",
}
# An API's opaque id: its beginning tells it from others, the rest only fills the context.
_OPAQUE = re.compile(r"\b([0-9a-f]{4})[0-9a-f]{28}\b")
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


class Skipped(Exception):
    """A record that is well formed and of no use; its text is the reason, for the ledger."""


def parse(record: Fields, source: str, ledger: Ledger) -> Record:
    """Read one record of any layout in `KINDS`; `source` names its data set if it does not.

    Raises:
        Skipped: the record is of no use, such as a pair without an answer.
        InputError: no known layout, a field of the wrong type, or two equal answers.
    """
    for keys, read in KINDS:
        if all(record.get(key) is not None for key in keys):
            return read(record, source, ledger)
    layouts = " | ".join("+".join(keys) for keys, _ in KINDS)
    raise InputError(f"fields {sorted(map(str, record))} fit no known record, expected {layouts}")


# --- the layouts ----------------------------------------------------------------------------------


def _preference(record: Fields, source: str, ledger: Ledger) -> Preference:
    """prompt/chosen/rejected as texts or messages, or two whole transcripts (HH-RLHF)."""
    chosen, rejected = _conversation(record, "chosen"), _conversation(record, "rejected")
    for turns in (chosen, rejected):
        if turns[-1][0] != "assistant":
            raise Skipped("no final answer")
        if not turns[-1][1].strip():
            raise Skipped("empty answer")
    if chosen[:-1] != rejected[:-1]:
        raise Skipped("prompts differ")
    if chosen[-1][1].strip() == rejected[-1][1].strip():
        raise InputError("field 'rejected': the two answers are equal")
    dialog = _dialog(record, chosen, source, ledger)
    return Preference(
        dialog=_waiting(dialog),
        chosen=dialog.answer,
        rejected=_dialog(record, rejected, source, Ledger()).answer,
        strength=record.get("strength") or "better",
        safety=record.get("safety"),
        annotator=_text(record, "annotator"),
        source=_text(record, "source") or source,
        variants=_mapping(record, "variants"),
    )


def _label(record: Fields, source: str, ledger: Ledger) -> Label:
    """prompt/completion/label (TRL's unpaired preferences)."""
    turns = _conversation(record, "completion")
    return _judged(record, turns, record["label"], source, ledger)


def _reward(record: Fields, source: str, ledger: Ledger) -> Label:
    """context/generation/reward (Taskmaster-4): a human's judgement of the next step of a turn.

    The completion is the assistant's whole turn so far: earlier calls and responses, then the
    judged step as its last line, which also stands in `tags["judged"]`.
    """
    steps = [*_listed(record, "context"), record["generation"]]
    turns = [_step(step, f"step {index}") for index, step in enumerate(steps)]
    label = _judged(record, turns, record["reward"], source, ledger)
    tags = {**label.dialog.tags, "judged": turns[-1][1]}
    dialog = Dialog(label.dialog.messages, label.dialog.id, tags)
    return Label(dialog, label.completion, label.label, label.source)


def _judged(record: Fields, turns: list[Turn], judgement: Any, source: str, led: Ledger) -> Label:
    if judgement not in (0, 1):  # False, True, 0.0 and 1.0 among them
        raise InputError(f"label or reward: {judgement!r}, expected 0, 1, true or false")
    if turns[-1][0] != "assistant" or not turns[-1][1].strip():
        raise Skipped("empty answer")
    dialog = _dialog(record, turns, source, led)
    return Label(
        _waiting(dialog), dialog.answer, bool(judgement), _text(record, "source") or source
    )


def _messages(record: Fields, source: str, ledger: Ledger) -> Dialog:
    """messages, turns or conversations: a list of {role, content}, {from, value} or texts."""
    names = ("messages", "turns", "conversations")
    name = next(key for key in names if record.get(key) is not None)
    return _dialog(record, _turns(_listed(record, name), name, "user"), source, ledger)


def _instruction(record: Fields, source: str, ledger: Ledger) -> Dialog:
    """instruction/input/output (Alpaca); the input follows the instruction after a blank line."""
    parts = [_text(record, "instruction"), _text(record, "input")]
    prompt = "\n\n".join(part for part in parts if part.strip())
    return _answered(record, prompt, _text(record, "output"), source, ledger)


def _answered(record: Fields, prompt: str, answer: str, source: str, ledger: Ledger) -> Dialog:
    if not answer.strip():
        raise Skipped("empty answer")
    return _dialog(record, [("user", prompt), ("assistant", answer)], source, ledger)


def _completion(record: Fields, source: str, ledger: Ledger) -> Dialog:
    """prompt/completion without a judgement (TRL): a dialog of a prompt and its answer."""
    turns = _conversation(record, "completion")
    if not turns[-1][1].strip():
        raise Skipped("empty answer")
    return _dialog(record, turns, source, ledger)


def _document(record: Fields, source: str, ledger: Ledger) -> Document:
    """text, with source and site or url where known: a pretraining document."""
    text = _text(record, "text")
    if not text.strip():
        raise Skipped("empty text")
    source = _text(record, "source") or source
    site = _text(record, "site") or urlsplit(_text(record, "url")).netloc or source
    return Document(text, source, site)


KINDS: tuple[tuple[tuple[str, ...], Callable[[Fields, str, Ledger], Record]], ...] = (
    (("chosen", "rejected"), _preference),
    (("context", "generation", "reward"), _reward),
    (("prompt", "completion", "label"), _label),
    (("messages",), _messages),
    (("turns",), _messages),
    (("conversations",), _messages),
    (("instruction", "output"), _instruction),
    (("prompt", "completion"), _completion),
    (("text",), _document),
)


# --- turns → dialog -------------------------------------------------------------------------------


def _dialog(record: Fields, turns: list[Turn], source: str, ledger: Ledger) -> Dialog:
    """The turns with their order of roles repaired, and the record's id and tags."""
    messages, greeting = _repair(turns, ledger)
    tags = dict(_mapping(record, "tags"))
    if "tags" not in record:  # Puna's own files have them, and come back as they were written
        tags["source"] = _text(record, "source") or source
    if greeting:
        ledger.note(STAGE, "greeting moved to tags")
        tags["greeting"] = greeting
    return Dialog(tuple(Message(role, text) for role, text in messages), str(_id(record)), tags)


def _repair(turns: list[Turn], ledger: Ledger) -> tuple[list[Turn], str]:
    """Turns that alternate, [system,] user, assistant, ..., and the greeting taken away."""
    result: list[Turn] = []
    for role, text in turns:
        if not text.strip():
            ledger.note(STAGE, "empty message left out")
        elif result and result[-1][0] == role:
            ledger.note(STAGE, "message merged into the one before")
            result[-1] = (role, f"{result[-1][1]}\n{text}")
        else:
            result.append((role, text))
    start = 1 if result and result[0][0] == "system" else 0
    greeting = ""
    if len(result) > start and result[start][0] == "assistant":
        greeting = result.pop(start)[1]
    if any(role == "system" for role, _ in result[start:]):
        raise Skipped("system message inside the dialog")
    if len(result) == start:
        raise Skipped("no user message")
    return result, greeting


def _waiting(dialog: Dialog) -> Dialog:
    """The dialog without its answer; Skipped if the repair left none to judge."""
    if dialog.ends_with_user:
        raise Skipped("no final answer")
    return dialog.prompt()


def _conversation(record: Fields, name: str) -> list[Turn]:
    """The turns of field `name`, after those of `prompt` unless the field holds a whole dialog."""
    turns = _turns(record[name], name, "assistant")
    prompt = record.get("prompt")
    if prompt is not None and all(role == "assistant" for role, _ in turns):
        turns = _turns(prompt, "prompt", "user") + turns
    if not turns:
        raise Skipped("empty answer")
    return turns


def _turns(value: Any, name: str, role: Role) -> list[Turn]:
    """The turns in a text (a transcript, or one message of `role`) or a list of messages.

    A list of bare texts is a dialog in which two people alternate, the user first.
    """
    if isinstance(value, str):
        return _transcript(value) if _SPEAKER.match(value) else [(role, value)]
    if not isinstance(value, list):
        raise InputError(f"field {name!r}: is {type(value).__name__}, expected text or a list")
    if value and all(isinstance(text, str) for text in value):
        return [("assistant" if k % 2 else "user", text) for k, text in enumerate(value)]
    return [_turn(item, f"field {name!r}: message {index}") for index, item in enumerate(value)]


def _turn(item: Any, where: str) -> Turn:
    role, content = _pair(item, where, ("role", "content"), ("from", "value"))
    return _role(role), _string(content, f"{where}: content")


def _pair(item: Any, where: str, *names: tuple[str, str]) -> tuple[Any, Any]:
    """The two values of the first pair of names that the item has."""
    if isinstance(item, Mapping):
        for first, second in names:
            if first in item and second in item:
                return item[first], item[second]
    expected = " or ".join(f"{{{first}, {second}}}" for first, second in names)
    raise InputError(f"{where}: expected {expected}")


def _role(name: Any) -> Role:
    role = _ROLES.get(str(name).lower())
    if role is None:
        raise Skipped(f"role {str(name)[:20]!r} is not supported")
    return role


def _transcript(text: str) -> list[Turn]:
    """`\\n\\nHuman: ...\\n\\nAssistant: ...` → turns, each stripped."""
    parts = _SPEAKER.split(text)  # "", speaker, words, speaker, words, ...
    return [
        (_ROLES[speaker.lower()], words.strip())
        for speaker, words in zip(parts[1::2], parts[2::2], strict=True)
    ]


# --- API steps ------------------------------------------------------------------------------------


def _step(step: Any, where: str) -> Turn:
    """One step {role: user|agent|api, text|api|response} as a turn; an API acts for the agent."""
    if not isinstance(step, Mapping):
        raise InputError(f"{where}: is {type(step).__name__}, expected an object")
    if "text" in step:
        return _role(step.get("role")), _string(step["text"], f"{where}: text").strip()
    if isinstance(step.get("api"), Mapping):
        calls = [f"{name or 'unknown'}({_listing(args)})" for name, args in step["api"].items()]
        return "assistant", "\n".join(calls)
    if isinstance(step.get("response"), Mapping):
        bodies = [_listing(body) or str(name) for name, body in step["response"].items()]
        return "assistant", "-> " + _shortened("; ".join(bodies), RESPONSE_LENGTH)
    raise InputError(f"{where}: expected one of the fields text, api, response")


def _listing(value: Any) -> str:
    """A JSON value as compact text: `menu_item_id=espresso-0001, quantity=1`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_nested(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_nested(item) for item in value)
    return str(value)


def _nested(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{_listing(value)}}}"
    if isinstance(value, list):
        return f"[{_listing(value)}]"
    return _OPAQUE.sub(r"\1", str(value))


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


# --- fields ---------------------------------------------------------------------------------------


def _text(record: Fields, name: str) -> str:
    value = record.get(name)
    return "" if value is None else _string(value, f"field {name!r}")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: is {type(value).__name__}, expected text")
    return value


def _listed(record: Fields, name: str) -> list[Any]:
    value = record[name]
    if not isinstance(value, list):
        raise InputError(f"field {name!r}: is {type(value).__name__}, expected a list")
    return value


def _mapping(record: Fields, name: str) -> Fields:
    value = record.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"field {name!r}: is {type(value).__name__}, expected an object")
    return value or {}


def _id(record: Fields) -> Any:
    value = record.get("id")
    return "" if value is None else value
