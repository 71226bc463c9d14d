"""Taking in work: a judgement is stored, or refused with the reason; the last one is taken back.

The page shows two answers in an order of its own; what is stored speaks of the item's answers.
Nothing here asks the clock what came first: ids do that.
"""

import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from puna.store.faults import Conflict, Refused
from puna.store.store import now
from puna.store.tables import Annotation, Campaign, Item, Qualification, Task
from puna.store.work import HELD, check_open, digest_of, held_by, leased, mine
from puna.text.dialog import BINS, REJECTED_SAFE, STRENGTHS

MOST_RATING = 3
MOST_COMMENT = 4000  # characters
MOST_SECONDS = 86400.0  # in view
UNDONE = 5  # tasks taken back one after another, beside those in the page
UNDO_SECONDS = 600.0


@dataclass(frozen=True)
class Judgement:
    """What somebody says about two answers, in the order of the page."""

    digest: str  # of what was shown
    chosen: int | None = None  # 0: the first on the page
    strength: str | None = None
    safety: str | None = None
    rating: int | None = None  # evaluation: 3 (the first much better) to -3 (the second)
    comment: str = ""
    seconds: float = 0.0  # in view


@dataclass(frozen=True)
class Taken:
    """What became of a judgement."""

    annotation: int
    campaign: int
    excluded: bool  # from training, by its safety bin
    may_go_on: bool  # the person may write the next message
    passed: bool | None  # the test, where this was its last task


def submit(session: Session, account_id: int, task_id: int, said: Judgement) -> Taken:
    """Store a judgement. Refused: a value that cannot be; Conflict: the task is not theirs any
    more, or has changed (W75)."""
    _check(said)
    task, item, campaign = leased(session, account_id, task_id)
    if said.digest != digest_of(task, item):
        raise Conflict("This item was changed since it was shown; look at it again.")
    _check_kind(said, campaign)
    annotation = Annotation(
        task_id=task.id,
        item_id=item.id,
        campaign_id=campaign.id,
        batch_id=item.batch_id,
        account_id=account_id,
        chosen=_turned(said.chosen, task.swapped),
        strength=said.strength,
        safety=said.safety,
        rating=None if said.rating is None else said.rating * (-1 if task.swapped else 1),
        swapped=task.swapped,
        comment=said.comment.strip(),
        seconds=said.seconds,
        created=now(),
        review="pending",
    )
    session.add(annotation)
    task.state, task.ended = "done", now()
    if item.only_id == account_id and item.wanted > 1:
        item.only_id = None  # from now on others may judge it too
    session.flush()
    test = item.purpose == "qualification"
    return Taken(
        annotation=annotation.id,
        campaign=campaign.id,
        excluded=said.safety == REJECTED_SAFE,
        may_go_on=not test and _may_go_on(item, campaign),
        passed=_marked(session, account_id, campaign) if test else None,
    )


def undo(session: Session, account_id: int, campaign_id: int) -> int:
    """Take the person's last judgement back; returns its task, which they hold again.

    Nobody else's item changes: the place that was taken stays taken. Conflict: there is none, it is
    too old, reviewed, answered by a next message, or part of the test.
    """
    last = session.scalar(
        select(Annotation)
        .where(Annotation.account_id == account_id, Annotation.campaign_id == campaign_id)
        .where(Annotation.undone.is_(None))
        .order_by(Annotation.id.desc())
        .limit(1)
    )
    if last is None:
        raise Conflict("There is no judgement to take back.")
    task, item, campaign = mine(session, account_id, last.task_id)
    check_open(item, campaign)
    if item.purpose == "qualification":
        raise Conflict("Answers of the test stand.")
    if now() - last.created > UNDO_SECONDS:
        minutes = round(UNDO_SECONDS / 60)
        raise Conflict(f"The last judgement is older than {minutes} minutes, it stands.")
    if last.review != "pending":
        raise Conflict("The last judgement was reviewed already, it stands.")
    if session.scalar(follower(item.id, account_id)) is not None:
        raise Conflict("The conversation went on from this judgement, it stands.")
    held = len(held_by(session, account_id, campaign_id))
    if held >= HELD + UNDONE:
        raise Conflict(f"You hold {held} tasks, judge or skip one of them first.")
    last.undone = now()
    task.state, task.ended = "leased", None
    task.expires = now() + campaign.lease_seconds
    session.flush()
    return task.id


def taken_back(session: Session, task_id: int) -> dict[str, Any] | None:
    """What the person had said about a task that they took back, in the order of the page."""
    last = session.scalar(
        select(Annotation)
        .where(Annotation.task_id == task_id, Annotation.undone.is_not(None))
        .order_by(Annotation.id.desc())
        .limit(1)
    )
    if last is None:
        return None
    return {
        "chosen": _turned(last.chosen, last.swapped),
        "strength": last.strength,
        "safety": last.safety,
        "rating": None if last.rating is None else last.rating * (-1 if last.swapped else 1),
        "comment": last.comment,
    }


def follower(item_id: int, account_id: int) -> Any:
    """Selects the item with which this person went on from an item."""
    judged = exists().where(Task.item_id == Item.id, Task.account_id == account_id)
    return select(Item.id).where(
        Item.parent_id == item_id, Item.state != "closed", or_(Item.only_id == account_id, judged)
    )


def as_expected(said: Annotation, expected: dict[str, Any]) -> bool:
    """Whether a judgement is the one that a gold or test item expects."""
    chosen = said.chosen
    if said.rating is not None:
        chosen = None if said.rating == 0 else int(said.rating < 0)
    if "chosen" in expected and chosen != expected["chosen"]:
        return False
    return said.safety is None or said.safety == (expected.get("safety") or said.safety)


def _turned(side: int | None, swapped: bool) -> int | None:
    return side if side is None or not swapped else 1 - side


def _check(said: Judgement) -> None:
    if len(said.comment) > MOST_COMMENT:
        raise Refused("comment", f"expected at most {MOST_COMMENT} characters")
    if not math.isfinite(said.seconds) or not 0 <= said.seconds <= MOST_SECONDS:
        raise Refused("seconds", f"expected 0 to {MOST_SECONDS:g}")


def _check_kind(said: Judgement, campaign: Campaign) -> None:
    """Refused: what a judgement of this kind must have, or has not."""
    if campaign.kind == "evaluation":
        for name in ("chosen", "strength", "safety"):
            if getattr(said, name) is not None:
                raise Refused(name, "expected none, an evaluation has a rating")
        if said.rating is None or not -MOST_RATING <= said.rating <= MOST_RATING:
            raise Refused("rating", f"expected {-MOST_RATING} to {MOST_RATING}")
        return
    if said.rating is not None:
        raise Refused("rating", "expected none, a comparison has a choice and a strength")
    if said.chosen not in (0, 1):
        raise Refused("chosen", "expected 0 or 1")
    if said.strength not in STRENGTHS:
        raise Refused("strength", f"expected one of {', '.join(STRENGTHS)}")
    if said.safety not in BINS:
        raise Refused("safety", f"expected one of {', '.join(BINS)}")


def _may_go_on(item: Item, campaign: Campaign) -> bool:
    turns = sum(message["role"] == "user" for message in item.dialog["messages"])
    return campaign.kind == "preference" and turns < campaign.max_turns and _asks(campaign)


def _asks(campaign: Campaign) -> bool:
    return len(campaign.variants) >= 2


def _marked(session: Session, account_id: int, campaign: Campaign) -> bool | None:
    """How the test stands, kept; None: it is not at its end."""
    found = session.execute(
        select(Annotation, Item.expected)
        .join(Item, Item.id == Annotation.item_id)
        .where(Annotation.campaign_id == campaign.id, Annotation.account_id == account_id)
        .where(Annotation.undone.is_(None), Item.purpose == "qualification")
    ).all()
    tasks = session.scalar(
        select(func.count(Item.id)).where(
            Item.campaign_id == campaign.id,
            Item.purpose == "qualification",
            Item.state == "ready",
        )
    )
    row = session.scalar(
        select(Qualification)
        .where(Qualification.campaign_id == campaign.id)
        .where(Qualification.account_id == account_id)
    )
    if row is None:
        row = Qualification(campaign_id=campaign.id, account_id=account_id)
        session.add(row)
    row.answered, row.changed = len(found), now()
    row.right = sum(as_expected(said, expected) for said, expected in found)
    over = row.answered >= (tasks or 0)
    row.passed = row.right >= campaign.pass_mark * row.answered if over else None
    session.flush()
    return row.passed
