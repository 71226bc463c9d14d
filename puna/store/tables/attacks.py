"""Tables of red teaming: attempts, severities, drafts."""

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
    running: Mapped[float | None]  # since when the timer runs
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
    account_id: Mapped[int] = to("accounts.id")
    dialog: Mapped[dict[str, Any]]  # ends with the user
    answer: Mapped[str]  # empty: only the prompt is used
    state: Mapped[str] = mapped_column(String(16))  # draft, approved, rejected
    risk: Mapped[str] = mapped_column(String(64))
    vector: Mapped[str] = mapped_column(String(64))
    by_id: Mapped[int | None] = to("accounts.id")  # who approved it
    created: Mapped[float]
    changed: Mapped[float]
