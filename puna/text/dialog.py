"""Dialogs and the two kinds of judgement about answers: what people write and compare.

A `Dialog` is a conversation, a `Preference` two answers to one of them in order of merit
(Sec. 3.2.1), a `Label` one answer with a yes or no. Their JSON is the conversational layout
that TRL reads, so that files go both ways without a converter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, cast

from puna.errors import InputError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")

# How much better the chosen answer is, strongest first (Sec. 3.2.1).
STRENGTHS = ("significantly_better", "better", "slightly_better", "negligibly_better")

# chosen safe and rejected unsafe | both safe | both unsafe (Sec. 3.2.1). There is no fourth bin:
# a safer answer is also the better one, so pairs with only the rejected answer safe are left out.
SAFETY_BINS = ("chosen_safe", "both_safe", "both_unsafe")
# Only the rejected answer is safe: people may say so, and it is left out of training (Sec. 3.2.1).
REJECTED_SAFE = "rejected_safe"
BINS = (*SAFETY_BINS, REJECTED_SAFE)  # all that people may say


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: who speaks, and the text. InputError on an unknown role."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        """Refuse an unknown role, and content that is not text a tokenizer can read."""
        if self.role not in ROLES:
            raise InputError(f"role {self.role!r} is unknown, expected one of {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise InputError(f"content is {_kind(self.content)}, expected text")
        if not _is_unicode(self.content):
            raise InputError("content has half a UTF-16 surrogate pair, which is not text")

    def to_json(self) -> dict[str, str]:
        """Return `{"role", "content"}`."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Dialog:
    """A conversation: an optional system message, then user and assistant in turns.

    `tags` are JSON values carried along and never shown to a model, such as the kind of prompt
    or the facts a checker needs. InputError names the first message whose role is out of order.
    """

    messages: tuple[Message, ...]
    id: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check the order of the roles: [system,] user, assistant, user, ..."""
        start = 1 if self.messages and self.messages[0].role == "system" else 0
        if len(self.messages) == start:
            raise InputError("a dialog needs at least one user message")
        for index in range(start, len(self.messages)):
            expected = "user" if (index - start) % 2 == 0 else "assistant"
            role = self.messages[index].role
            if role != expected:
                raise InputError(f"message {index}: role is {role!r}, expected {expected!r}")

    @property
    def system(self) -> str | None:
        """The system message's text, None without one."""
        first = self.messages[0]
        return first.content if first.role == "system" else None

    @property
    def turns(self) -> int:
        """The number of user messages."""
        return sum(message.role == "user" for message in self.messages)

    @property
    def last(self) -> Message:
        """The final message."""
        return self.messages[-1]

    @property
    def ends_with_user(self) -> bool:
        """Whether the assistant is to speak next."""
        return self.last.role == "user"

    @property
    def answer(self) -> str:
        """The final assistant message's text. InputError if the dialog ends with the user."""
        if self.ends_with_user:
            raise InputError(f"{self._name()} has no answer: it ends with a user message")
        return self.last.content

    def prompt(self) -> "Dialog":
        """Return the dialog without its final assistant message (itself if it has none)."""
        return self if self.ends_with_user else replace(self, messages=self.messages[:-1])

    def with_answer(self, text: str) -> "Dialog":
        """Return the dialog with an assistant message added. InputError if it is not its turn."""
        return self._with("assistant", text)

    def with_user(self, text: str) -> "Dialog":
        """Return the dialog with a user message added. InputError if it is not its turn."""
        return self._with("user", text)

    def with_system(self, text: str | None) -> "Dialog":
        """Return the dialog with this system message in place of any other; None removes it."""
        rest = self.messages if self.system is None else self.messages[1:]
        head = () if text is None else (Message("system", text),)
        return replace(self, messages=head + rest)

    def to_json(self) -> dict[str, Any]:
        """Return `{"messages": [{"role", "content"}, ...], "id", "tags"}`."""
        return {"messages": _to_list(self.messages), "id": self.id, "tags": dict(self.tags)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Dialog":
        """Read what `to_json` wrote; other keys are ignored. InputError names the field."""
        return _dialog(record, "messages")

    def _with(self, role: Role, text: str) -> "Dialog":
        return replace(self, messages=(*self.messages, Message(role, text)))

    def _name(self) -> str:
        return f"dialog {self.id!r}" if self.id else "the dialog"


@dataclass(frozen=True)
class Preference:
    """Two answers to the same dialog, `chosen` judged better than `rejected` (Sec. 3.2.1).

    `strength` says how much better, `safety` into which safety bin the pair fell (None if nobody
    judged it), `variants` which model and temperature wrote each answer, `source` which data
    set the pair is from. InputError if the two answers are equal or a label is unknown.
    """

    dialog: Dialog
    chosen: str
    rejected: str
    strength: str = "better"
    safety: str | None = None
    annotator: str = ""
    source: str = ""
    variants: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check that the pair can be learned from."""
        if not self.dialog.ends_with_user:
            raise InputError("field 'prompt': ends with an assistant message, expected 'user'")
        _check_answer("chosen", self.chosen)
        _check_answer("rejected", self.rejected)
        if self.chosen == self.rejected:
            raise InputError("field 'rejected': the two answers are equal")
        _check_choice("strength", self.strength, STRENGTHS)
        if self.safety is not None:
            _check_choice("safety", self.safety, SAFETY_BINS)

    def swap(self) -> "Preference":
        """Return the opposite judgement, to test a judge or a loss for a bias of order.

        The bin `chosen_safe` has no opposite among the paper's bins and becomes None.
        """
        names = {"chosen": "rejected", "rejected": "chosen"}
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            safety=None if self.safety == "chosen_safe" else self.safety,
            variants={names.get(name, name): value for name, value in self.variants.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return TRL's conversational preference layout, with Puna's own fields beside it."""
        return {
            "prompt": _to_list(self.dialog.messages),
            "chosen": _to_list((Message("assistant", self.chosen),)),
            "rejected": _to_list((Message("assistant", self.rejected),)),
            "strength": self.strength,
            "safety": self.safety,
            "annotator": self.annotator,
            "source": self.source,
            "variants": dict(self.variants),
            "id": self.dialog.id,
            "tags": dict(self.dialog.tags),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Preference":
        """Read what `to_json` wrote; other keys are ignored. InputError names the field."""
        return cls(
            dialog=_dialog(record, "prompt"),
            chosen=_answer(record, "chosen"),
            rejected=_answer(record, "rejected"),
            strength=_typed(record, "strength", str, "better"),
            safety=None if record.get("safety") is None else _typed(record, "safety", str),
            annotator=_typed(record, "annotator", str, ""),
            source=_typed(record, "source", str, ""),
            variants=_typed(record, "variants", dict, {}),
        )


@dataclass(frozen=True)
class Label:
    """One answer to a dialog, judged good (True) or not: a human reward of 1 or 0."""

    dialog: Dialog
    completion: str
    label: bool
    source: str = ""

    def __post_init__(self) -> None:
        """Check that the dialog waits for an answer."""
        if not self.dialog.ends_with_user:
            raise InputError("field 'prompt': ends with an assistant message, expected 'user'")
        _check_answer("completion", self.completion)

    def to_json(self) -> dict[str, Any]:
        """Return TRL's conversational unpaired preference layout, with `source`, `id`, `tags`."""
        return {
            "prompt": _to_list(self.dialog.messages),
            "completion": _to_list((Message("assistant", self.completion),)),
            "label": self.label,
            "source": self.source,
            "id": self.dialog.id,
            "tags": dict(self.dialog.tags),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Label":
        """Read what `to_json` wrote; other keys are ignored. InputError names the field."""
        return cls(
            dialog=_dialog(record, "prompt"),
            completion=_answer(record, "completion"),
            label=_typed(record, "label", bool),
            source=_typed(record, "source", str, ""),
        )


_KINDS: tuple[tuple[type, str], ...] = (
    (str, "text"),
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number"),
    (Mapping, "an object"),
    (Sequence, "a list"),
)


def _kind(value: object) -> str:
    """The JSON name of a value's type, for messages."""
    names = (name for kind, name in _KINDS if isinstance(value, kind))
    return "null" if value is None else next(names, type(value).__name__)


def _is_unicode(text: str) -> bool:
    """False for a lone surrogate: JSON can carry one, UTF-8 and the tokenizer cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_REQUIRED: Any = object()
T = TypeVar("T")


def _typed(record: Mapping[str, Any], name: str, kind: type[T], default: T = _REQUIRED) -> T:
    """The record's field `name`, checked to be of type `kind`; the default if it is absent."""
    value = record.get(name, default)
    if value is _REQUIRED:
        raise InputError(f"field {name!r}: is missing")
    if not isinstance(value, kind):
        expected = next((text for known, text in _KINDS if issubclass(kind, known)), kind.__name__)
        raise InputError(f"field {name!r}: is {_kind(value)}, expected {expected}")
    return value


def _to_list(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [message.to_json() for message in messages]


def _messages(record: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    values = _typed(record, name, list)
    return tuple(_message(value, name, index) for index, value in enumerate(values))


def _message(value: object, name: str, index: int) -> Message:
    where = f"field {name!r}: message {index}"
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: is {_kind(value)}, expected an object")
    for key in ("role", "content"):
        if key not in value:
            raise InputError(f"{where}: {key!r} is missing")
    try:
        return Message(cast(Role, value["role"]), value["content"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _dialog(record: Mapping[str, Any], name: str) -> Dialog:
    """The dialog whose messages are in field `name`, with the record's `id` and `tags`."""
    messages = _messages(record, name)
    identity, tags = _typed(record, "id", str, ""), _typed(record, "tags", dict, {})
    try:
        return Dialog(messages, identity, tags)
    except InputError as error:
        raise InputError(f"field {name!r}: {error}") from None


def _answer(record: Mapping[str, Any], name: str) -> str:
    """The text of the one assistant message in field `name`."""
    messages = _messages(record, name)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise InputError(f"field {name!r}: expected one assistant message")
    return messages[0].content


def _check_answer(name: str, text: str) -> None:
    try:
        Message("assistant", text)
    except InputError as error:
        raise InputError(f"field {name!r}: {error}") from None


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(
            f"field {name!r}: {value!r} is unknown, expected one of {', '.join(choices)}"
        )
