"""Tables of conversations with models, and what people thought of answers."""

from typing import Any

from sqlalchemy import String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from puna.store.tables.base import GROWING, Base, key, to


class Conversation(Base):
    """A tree of messages of one person with models."""

    __tablename__ = "conversations"
    id: Mapped[int] = key()
    account_id: Mapped[int] = to("accounts.id")
    purpose: Mapped[str] = mapped_column(String(16), default="chat")  # chat, redteam
    title: Mapped[str]
    system: Mapped[str]  # the system prompt; empty: none
    model: Mapped[str]  # asked last
    settings: Mapped[dict[str, Any]]  # temperature, top_p, max_tokens, ...
    leaf_id: Mapped[int | None]  # last message of the branch that is shown
    created: Mapped[float]
    changed: Mapped[float]
    deleted: Mapped[float | None]


class Turn(Base):
    """One message of a conversation; its parent is what it answers."""

    __tablename__ = "turns"
    id: Mapped[int] = key()
    conversation_id: Mapped[int] = to("conversations.id")
    parent_id: Mapped[int | None] = to("turns.id")
    role: Mapped[str] = mapped_column(String(16))  # user, assistant
    content: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))  # writing, complete, length, stopped, failed
    model: Mapped[str]  # which model wrote it; empty: a person
    version: Mapped[str]  # its fingerprint
    settings: Mapped[dict[str, Any]]  # with which it was written
    figures: Mapped[dict[str, Any]]  # tokens, seconds, context used, turns dropped and why
    created: Mapped[float]


class Thumb(Base):
    """What somebody thought of an answer in the chat; one for each person and answer."""

    __tablename__ = "thumbs"
    id: Mapped[int] = key()
    turn_id: Mapped[int] = to("turns.id")
    account_id: Mapped[int] = to("accounts.id")
    up: Mapped[bool]
    reasons: Mapped[list[Any]]
    comment: Mapped[str]
    rewrite: Mapped[str]  # how the person would have answered; empty: not said
    created: Mapped[float]
    __table_args__ = (UniqueConstraint("turn_id", "account_id"), GROWING)


class Choice(Base):
    """Which of two answers side by side somebody preferred in the chat."""

    __tablename__ = "choices"
    id: Mapped[int] = key()
    account_id: Mapped[int] = to("accounts.id")
    chosen_id: Mapped[int] = to("turns.id")
    rejected_id: Mapped[int] = to("turns.id")
    strength: Mapped[str] = mapped_column(String(32))  # puna.text.dialog.STRENGTHS
    created: Mapped[float]
