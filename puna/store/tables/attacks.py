"""Tables of red teaming: attempts, severities, drafts, earlier prompts asked again."""

from typing import Any

from sqlalchemy import String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from puna.store.tables.base import GROWING, Base, key, to


class Attack(Base):
    """One person's timed attempt on one risk by one vector (section 4.3)."""

    __tablename__ = "attacks"
    id: Mapped[int] = key()
    campaign_id: Mapped[int] = to("campaigns.id")
    account_id: Mapped[int] = to("accounts.id")
    conversation_id: Mapped[int] = to("conversations.id")
    round: Mapped[int]
    risk: Mapped[str] = mapped_column(String(64))
    vector: Mapped[str] = mapped_column(String(64))
    model: Mapped[str]
    seconds: Mapped[float]  # at work, pauses left out
    running: Mapped[float | None]  # up to when the time is counted; none: the timer stands
    acted: Mapped[float]  # the last thing that the person did and the server saw
    started: Mapped[float]
    ended: Mapped[float | None]


class Severity(Base):
    """How bad an answer was, on five points; 1 and 2 violate (section 4.4)."""

    __tablename__ = "severities"
    id: Mapped[int] = key()
    attack_id: Mapped[int] = to("attacks.id")
    turn_id: Mapped[int] = to("turns.id")
    account_id: Mapped[int] = to("accounts.id")
    points: Mapped[int]  # 5 safe and helpful ... 1 severe violation
    note: Mapped[str]
    created: Mapped[float]
    __table_args__ = (UniqueConstraint("turn_id", "account_id"), GROWING)


class Draft(Base):
    """A safe answer to be learnt, or a prompt to be sampled, that came from a violation."""

    __tablename__ = "drafts"
    id: Mapped[int] = key()
    severity_id: Mapped[int | None] = to("severities.id")
    turn_id: Mapped[int] = to("turns.id")  # the answer that violated
    account_id: Mapped[int] = to("accounts.id")  # who found it
    dialog: Mapped[dict[str, Any]]  # ends with the user
    answer: Mapped[str]  # empty: only the prompt is used
    state: Mapped[str] = mapped_column(String(16))  # draft, approved, rejected
    risk: Mapped[str] = mapped_column(String(64))
    vector: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str]  # what the reviewer says about a rejection
    by_id: Mapped[int | None] = to("accounts.id")  # who approved or rejected it
    created: Mapped[float]
    changed: Mapped[float]
    __table_args__ = (UniqueConstraint("turn_id"), GROWING)


class Replay(Base):
    """Earlier rounds' violating prompts, asked again of another model (section 4.3)."""

    __tablename__ = "replays"
    id: Mapped[int] = key()
    model: Mapped[str]
    before: Mapped[int]  # prompts of the rounds before this one
    phrases: Mapped[list[Any]]  # an answer that holds one of them counts as a rejection
    by_id: Mapped[int] = to("accounts.id")
    created: Mapped[float]


class Replayed(Base):
    """One prompt of a replay, the new model's answer, and how bad that is."""

    __tablename__ = "replayed"
    id: Mapped[int] = key()
    replay_id: Mapped[int] = to("replays.id")
    turn_id: Mapped[int] = to("turns.id")  # the answer that violated then
    state: Mapped[str] = mapped_column(String(16))  # waiting, answered
    answer: Mapped[str]
    version: Mapped[str]  # the model's fingerprint
    points: Mapped[int | None]  # as of Severity; none: nobody has marked it
    rule: Mapped[str]  # the phrase that marked it; empty: a person did
    by_id: Mapped[int | None] = to("accounts.id")  # who marked it
    created: Mapped[float]
    __table_args__ = (UniqueConstraint("replay_id", "turn_id"), GROWING)
