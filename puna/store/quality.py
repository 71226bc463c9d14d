"""What the quality pages read: judgements that count, and what was judged, as plain records.

An annotation counts if it is neither undone nor rejected, and its item is no qualification test.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from puna.store.faults import Missing
from puna.store.tables import (
    Account,
    Annotation,
    Attack,
    Batch,
    Campaign,
    Item,
    Review,
    Severity,
    Turn,
)

CHUNK = 500  # ids in one question to the database


@dataclass(frozen=True)
class Judged:
    """One annotation that counts."""

    id: int
    item: int
    annotator: int
    campaign: int
    batch: int  # its number
    chosen: int | None
    strength: str | None
    safety: str | None
    rating: int | None
    swapped: bool
    seconds: float
    gold: bool
    expected: dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """What an annotator saw: the dialogue, two answers with who wrote them, the category."""

    dialog: dict[str, Any]
    answers: list[dict[str, Any]]
    category: str


@dataclass(frozen=True)
class Work:
    """A campaign with judgements that count."""

    id: int
    name: str
    kind: str
    judgements: int
    last: int  # its newest annotation


@dataclass(frozen=True)
class Marked:
    """How bad one answer was, to one person."""

    turn: int
    rater: int
    model: str
    points: int
    risk: str
    turns: int  # of the user, up to the answer


def counts() -> list[ColumnElement[bool]]:
    """The conditions on an annotation that counts, and on its item."""
    return [
        Annotation.undone.is_(None),
        Annotation.review != "rejected",
        Item.purpose.in_(("normal", "gold")),
    ]


def state(session: Session) -> tuple[int, ...]:
    """Numbers that change when any figure may: what was computed at the same state still holds."""
    rows = (
        session.scalar(select(func.max(Annotation.id))),
        session.scalar(select(func.count()).where(Annotation.undone.is_not(None))),
        session.scalar(select(func.count()).where(Annotation.review == "rejected")),
        session.scalar(select(func.max(Review.id))),
        session.scalar(select(func.count()).where(Review.undone.is_not(None))),
        session.scalar(select(func.max(Severity.id))),
        session.scalar(select(func.sum(Severity.points * Severity.id))),
        session.scalar(select(func.count()).where(Account.erased.is_not(None))),
    )
    return tuple(int(row or 0) for row in rows)


def work(session: Session, kinds: Iterable[str]) -> list[Work]:
    """The campaigns of these kinds with judgements that count, the one judged last first."""
    found = session.execute(
        select(
            Campaign.id,
            Campaign.name,
            Campaign.kind,
            func.count(Annotation.id),
            func.max(Annotation.id),
        )
        .join(Annotation, Annotation.campaign_id == Campaign.id)
        .join(Item, Item.id == Annotation.item_id)
        .where(Campaign.kind.in_(list(kinds)), *counts())
        .group_by(Campaign.id, Campaign.name, Campaign.kind)
    )
    return sorted((Work(*row) for row in found), key=lambda row: -row.last)


def judged(
    session: Session, campaigns: Sequence[int], annotator: int | None = None
) -> list[Judged]:
    """The judgements of campaigns that count, oldest first; of one person, if one is named."""
    question = (
        select(Annotation, Batch.number, Item.purpose, Item.expected)
        .join(Item, Item.id == Annotation.item_id)
        .join(Batch, Batch.id == Annotation.batch_id)
        .where(Annotation.campaign_id.in_(list(campaigns)), *counts())
        .order_by(Annotation.id)
    )
    if annotator is not None:
        question = question.where(Annotation.account_id == annotator)
    return [
        Judged(
            id=said.id,
            item=said.item_id,
            annotator=said.account_id,
            campaign=said.campaign_id,
            batch=number,
            chosen=said.chosen,
            strength=said.strength,
            safety=said.safety,
            rating=said.rating,
            swapped=said.swapped,
            seconds=said.seconds,
            gold=purpose == "gold",
            expected=dict(expected or {}),
        )
        for said, number, purpose, expected in session.execute(question)
    ]


def shown(session: Session, items: Iterable[int]) -> dict[int, Shown]:
    """What was shown, by item."""
    wanted = sorted(set(items))
    found: dict[int, Shown] = {}
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        rows = session.execute(
            select(Item.id, Item.dialog, Item.answers, Item.category).where(Item.id.in_(part))
        )
        found.update({row[0]: Shown(row[1], row[2], row[3]) for row in rows})
    return found


def names(session: Session, accounts: Iterable[int]) -> dict[int, str]:
    """What people are called."""
    wanted = sorted(set(accounts))
    found: dict[int, str] = {}
    for start in range(0, len(wanted), CHUNK):
        part = wanted[start : start + CHUNK]
        rows = session.execute(select(Account.id, Account.name).where(Account.id.in_(part)))
        found.update({row[0]: row[1] for row in rows})
    return found


def campaign(session: Session, found: Sequence[Work], number: int | None) -> Work | None:
    """The campaign of this number among those with work; without one, the one judged last.

    None: nothing was judged yet. Missing: there is no such campaign.
    """
    if number is None:
        return found[0] if found else None
    known = {row.id: row for row in found}
    if number in known:
        return known[number]
    made = session.get(Campaign, number)
    if made is None:
        raise Missing
    return Work(made.id, made.name, made.kind, 0, 0)


def marked(session: Session) -> list[Marked]:
    """Every severity that was given, oldest first."""
    rows = session.execute(
        select(Severity, Attack.risk, Attack.model, Turn)
        .join(Attack, Attack.id == Severity.attack_id)
        .join(Turn, Turn.id == Severity.turn_id)
        .order_by(Severity.id)
    ).all()
    talks = sorted({turn.conversation_id for _, _, _, turn in rows})
    above: dict[int, tuple[int | None, str]] = {}
    for start in range(0, len(talks), CHUNK):
        part = talks[start : start + CHUNK]
        turns = session.execute(
            select(Turn.id, Turn.parent_id, Turn.role).where(Turn.conversation_id.in_(part))
        )
        above.update({row[0]: (row[1], row[2]) for row in turns})
    return [
        Marked(
            turn=turn.id,
            rater=said.account_id,
            model=turn.model or model,
            points=said.points,
            risk=risk,
            turns=_asked(above, turn.id),
        )
        for said, risk, model, turn in rows
    ]


def _asked(above: dict[int, tuple[int | None, str]], turn: int | None) -> int:
    """How many times the user spoke on the way to a turn."""
    found = 0
    while turn is not None and turn in above:
        turn, role = above[turn]
        found += role == "user"
    return found
