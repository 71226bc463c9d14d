"""What the chat page sends: every field with its bounds."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from puna.web.schemas import (
    TEXT,
    Answer,
    Model,
    Repetition,
    Seed,
    Strict,
    Temperature,
    TopK,
    TopP,
)
from puna.web.site.answers import Ask

BODY = 1 << 20  # bytes of a request
IMPORT = 8 << 20  # bytes of an imported file
TITLE = 200

Row = Annotated[int, Field(ge=1, lt=1 << 53)]
Said = Annotated[str, StringConstraints(min_length=1, max_length=200_000, pattern=r"\S")]
System = Annotated[str, StringConstraints(max_length=20_000)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=TITLE, pattern=r"\S")]
Note = Annotated[str, StringConstraints(max_length=20_000)]


class Settings(Strict):
    """How an answer is drawn."""

    temperature: Temperature = Ask.temperature
    top_p: TopP = Ask.top_p
    top_k: TopK = Ask.top_k
    repetition_penalty: Repetition = Ask.repetition_penalty
    max_tokens: Answer = Ask.max_tokens
    seed: Seed | None = None


class Variant(Strict):
    """Which model is to answer, and how."""

    model: Model
    settings: Settings = Settings()


class Asked(Strict):
    """Something said, or, without `text`, a message that is to be answered (again).

    Two variants are answered side by side.
    """

    conversation_id: Row | None = None  # none: a new one
    parent_id: Row | None = None  # what `text` is said after, or the message to be answered
    text: Said | None = None
    system: System = ""  # of a new conversation
    variants: Annotated[list[Variant], Field(min_length=1, max_length=2)]


class GoOn(Strict):
    """How an answer that was cut goes on."""

    settings: Settings = Settings()


class Search(Strict):
    """Which conversations are to be listed; words stay out of addresses."""

    words: Annotated[str, StringConstraints(max_length=200)] = ""
    before: Row | None = None


class Change(Strict):
    """A conversation's new title or system prompt."""

    title: Title | None = None
    system: System | None = None


class Shown(Strict):
    """The message whose branch is to be shown."""

    turn_id: Row


class Thumbed(Strict):
    """What somebody thinks of an answer."""

    up: bool
    reasons: Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(max_length=16)]
    comment: Note = ""
    rewrite: Annotated[str, StringConstraints(max_length=200_000)] = ""


class Chosen(Strict):
    """Which of two answers is better, and by how much."""

    chosen_id: Row
    rejected_id: Row
    strength: Annotated[str, StringConstraints(max_length=32)]


class Empty(Strict):
    """Nothing besides the address."""


class Figures(Strict):
    """What is known of how an answer was written."""

    prompt_tokens: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    completion_tokens: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    seconds: Annotated[float, Field(ge=0, le=1e9)] = 0
    tokens_per_second: Annotated[float, Field(ge=0, le=1e9)] = 0
    context: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    context_used: Annotated[int, Field(ge=0, lt=1 << 53)] = 0


class CarriedTurn(Strict):
    """One message in a file."""

    id: Row
    parent: Row | None = None
    role: Literal["user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=TEXT)]
    state: Literal["complete", "length", "stopped", "failed"] = "complete"
    model: Annotated[str, StringConstraints(max_length=200)] = ""
    version: Annotated[str, StringConstraints(max_length=200)] = ""
    settings: Settings | None = None
    figures: Figures | None = None
    created: Annotated[float, Field(ge=0, le=1e11)] = 0


class Carried(Strict):
    """One conversation in a file."""

    title: Annotated[str, StringConstraints(max_length=TITLE)] = ""
    system: System = ""
    model: Annotated[str, StringConstraints(max_length=200)] = ""
    settings: Settings = Settings()
    leaf: Row | None = None
    turns: Annotated[list[CarriedTurn], Field(min_length=1, max_length=4000)]


class File(Strict):
    """Conversations as they are exported and imported."""

    format: Literal["puna.chat"]
    version: Literal[1]
    conversations: Annotated[list[Carried], Field(min_length=1, max_length=1000)]
