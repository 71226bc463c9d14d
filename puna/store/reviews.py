"""Reviews: somebody with experience looks at judgements, approves, corrects or rejects them (A.5).

A campaign's `review_share` says which part of its judgements is looked at. Where it is above 0,
every judgement that missed a gold item comes first, then those of items about which people
disagree, then the share. What lies before one reviewer comes to nobody else, and nobody reviews
their own work. A rejected judgement no longer counts, and its item is given to somebody else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from puna.store.audit import note as write_down
from puna.store.faults import Conflict, Missing, Refused
from puna.store.judging import as_expected
from puna.store.store import now
from puna.store.tables import Account, Annotation, Campaign, Desk, Item, Review
from puna.text.dialog import BINS, STRENGTHS

VERDICTS = ("approved", "edited", "rejected")
WHYS = ("gold", "disagreement", "share")
FIELDS = ("chosen", "strength", "safety", "rating")
DESK_SECONDS = 900.0  # that a judgement lies before one reviewer
MOST_NOTE = 2000
FEW, MOST_MISSED = 50, 1000
SPREAD = 617  # has no divisor in common with 1000: a share of any 1000 ids in a row is exact


@dataclass(frozen=True)
class Verdict:
    """What a reviewer decides; `changes` are those of `FIELDS` that are corrected."""

    verdict: str
    note: str = ""
    changes: dict[str, Any] | None = None


def next_review(
    session: Session, reviewer_id: int, campaign_id: int | None = None
) -> dict[str, Any] | None:
    """The judgement that this reviewer looks at next, laid before them; None: there is none."""
    for why, number in _candidates(session, reviewer_id, campaign_id):
        if _lay(session, number, reviewer_id):
            return _shown(session, number, why)
    return None


def in_queue(session: Session, reviewer_id: int, campaign_id: int | None = None) -> dict[str, int]:
    """How many judgements wait for this reviewer, by why they do."""
    shares = _shares(session, campaign_id)
    if not shares:
        return dict.fromkeys(WHYS, 0)
    base = _pending(reviewer_id, list(shares))
    missed = _missed_gold(session, base)[:MOST_MISSED]
    rest = base.with_only_columns(func.count()).where(Annotation.id.not_in(missed))
    split = session.scalar(rest.where(_disagreed())) or 0
    sampled = session.scalar(rest.where(~_disagreed(), _in_share(shares))) or 0
    return {"gold": len(missed), "disagreement": split, "share": sampled}


def _candidates(
    session: Session, reviewer_id: int, campaign_id: int | None
) -> Iterator[tuple[str, int]]:
    """(why, id) of judgements, the most pressing first; a few of each why.

    What lies before the reviewer already comes first.
    """
    shares = _shares(session, campaign_id)
    if not shares:
        return
    base = _pending(reviewer_id, list(shares))
    missed = _missed_gold(session, base)
    split = base.where(_disagreed()).order_by(Annotation.id).limit(FEW)
    sampled = base.where(_in_share(shares)).order_by(Annotation.id).limit(FEW)
    mine = base.join(Desk, Desk.annotation_id == Annotation.id)
    mine = mine.where(Desk.account_id == reviewer_id, Desk.expires > now())
    for number in session.scalars(mine.order_by(Desk.id)).all():
        odd = session.scalar(base.where(_disagreed(), Annotation.id == number))
        yield "gold" if number in missed else "disagreement" if odd else "share", number
    yield from (("gold", number) for number in missed)
    yield from (("disagreement", number) for number in session.scalars(split).all())
    yield from (("share", number) for number in session.scalars(sampled).all())


def _shares(session: Session, campaign_id: int | None) -> dict[int, float]:
    """The share of each campaign of which something is reviewed."""
    query = select(Campaign.id, Campaign.settings)
    if campaign_id is not None:
        query = query.where(Campaign.id == campaign_id)
    found = session.execute(query).all()
    shares = {number: float(settings.get("review_share") or 0) for number, settings in found}
    return {number: share for number, share in shares.items() if share > 0}


def _pending(reviewer_id: int, campaigns: list[int]) -> Select[Any]:
    desk = aliased(Desk)
    elsewhere = exists().where(
        desk.annotation_id == Annotation.id,
        desk.account_id != reviewer_id,
        desk.expires > now(),
    )
    return (
        select(Annotation.id)
        .join(Item, Item.id == Annotation.item_id)
        .where(Annotation.campaign_id.in_(campaigns), Annotation.undone.is_(None))
        .where(Annotation.review == "pending", Annotation.account_id != reviewer_id)
        .where(Item.purpose != "qualification", ~elsewhere)
    )


def _missed_gold(session: Session, base: Select[Any]) -> list[int]:
    rows = session.execute(
        base.add_columns(Annotation, Item.expected)
        .where(Item.purpose == "gold")
        .order_by(Annotation.id)
    )
    return [number for number, one, expected in rows if not as_expected(one, expected)]


def _disagreed() -> Any:
    """Somebody else chose the other answer, and that counts."""
    other = aliased(Annotation)
    return exists().where(
        other.item_id == Annotation.item_id,
        other.id != Annotation.id,
        other.undone.is_(None),
        other.review != "rejected",
        or_(
            other.chosen != Annotation.chosen,
            other.rating * Annotation.rating < 0,
        ),
    )


def _in_share(shares: dict[int, float]) -> Any:
    return or_(
        *(
            and_(
                Annotation.campaign_id == number,
                (Annotation.id * SPREAD) % 1000 < round(share * 1000),
            )
            for number, share in shares.items()
        )
    )


def _lay(session: Session, annotation_id: int, reviewer_id: int) -> bool:
    """Lay a judgement before a reviewer. False: it lies before somebody else."""
    there = session.scalar(
        select(Desk).where(Desk.annotation_id == annotation_id).with_for_update()
    )
    moment = now()
    if there is not None:
        if there.account_id != reviewer_id and there.expires > moment:
            return False
        there.account_id, there.expires = reviewer_id, moment + DESK_SECONDS
        return True
    row = {"annotation_id": annotation_id, "account_id": reviewer_id}
    try:
        with session.begin_nested():
            session.add(Desk(**row, expires=moment + DESK_SECONDS))
    except IntegrityError:
        return False
    return True


def _shown(session: Session, annotation_id: int, why: str) -> dict[str, Any]:
    one = session.get_one(Annotation, annotation_id)
    item, campaign = session.get_one(Item, one.item_id), session.get_one(Campaign, one.campaign_id)
    others = session.execute(
        select(Annotation, Account.name)
        .join(Account, Account.id == Annotation.account_id)
        .where(Annotation.item_id == item.id, Annotation.id != annotation_id)
        .where(Annotation.undone.is_(None), Annotation.review != "rejected")
        .order_by(Annotation.id)
    )
    return {
        "id": one.id,
        "why": why,
        "campaign": {"id": campaign.id, "name": campaign.name}
        | {"kind": campaign.kind, "aim": campaign.aim},
        "item": item.id,
        "purpose": item.purpose,
        "dialog": item.dialog,
        "answers": item.answers,
        "expected": item.expected,
        "annotator": session.get_one(Account, one.account_id).name,
        "judgement": _fields(one) | {"comment": one.comment, "seconds": one.seconds},
        "others": [{"annotator": name} | _fields(other) for other, name in others],
    }


def _fields(one: Annotation) -> dict[str, Any]:
    return {name: getattr(one, name) for name in FIELDS}


def decide(session: Session, reviewer_id: int, annotation_id: int, given: Verdict) -> int:
    """Store a verdict; returns the review's id. What stood there before is kept with it.

    Missing, Refused: the reviewer's own, a rejection without a note, a correction that cannot be.
    Conflict: somebody reviewed it, has it before them, or it was taken back.
    """
    one = session.get(Annotation, annotation_id, with_for_update=True)
    if one is None:
        raise Missing
    item, campaign = session.get_one(Item, one.item_id), session.get_one(Campaign, one.campaign_id)
    if one.account_id == reviewer_id:
        raise Refused("annotation", "is your own, somebody else reviews it")
    if item.purpose == "qualification":
        raise Refused("annotation", "belongs to a test, which is not reviewed")
    if one.undone is not None:
        raise Conflict("the annotator took this judgement back")
    if one.review != "pending":
        raise Conflict(f"this judgement is {one.review} already")
    if not _lay(session, annotation_id, reviewer_id):
        raise Conflict("this judgement lies before another reviewer")
    changes = _changes(one, campaign, given)
    before = _fields(one) | {"review": one.review}
    for name, value in changes.items():
        setattr(one, name, value)
    one.review = given.verdict
    if given.verdict == "rejected":
        _recount(session, item.id, -1)
    review = Review(
        annotation_id=annotation_id,
        account_id=reviewer_id,
        verdict=given.verdict,
        note=given.note.strip(),
        before=before,
        created=now(),
    )
    session.add(review)
    _clear(session, annotation_id)
    about = f"annotation:{annotation_id}"
    write_down(session, f"review_{given.verdict}", reviewer_id, about, campaign=campaign.id)
    session.flush()
    return review.id


def _changes(one: Annotation, campaign: Campaign, given: Verdict) -> dict[str, Any]:
    """The corrections that are some. Refused: those that cannot be."""
    if given.verdict not in VERDICTS:
        raise Refused("verdict", f"{given.verdict!r} is unknown, expected {', '.join(VERDICTS)}")
    if len(given.note) > MOST_NOTE:
        raise Refused("note", f"expected at most {MOST_NOTE} characters")
    if given.verdict == "rejected" and not given.note.strip():
        raise Refused("note", "is empty, the annotator is to learn why it was rejected")
    changes = {name: value for name, value in (given.changes or {}).items()}
    if given.verdict != "edited":
        if changes:
            raise Refused("changes", f"expected none in a verdict {given.verdict!r}")
        return {}
    allowed = _allowed(campaign)
    for name, value in changes.items():
        if name not in allowed:
            raise Refused(f"changes.{name}", f"a judgement of this campaign has no {name}")
        if value not in allowed[name] or isinstance(value, bool):
            expected = ", ".join(map(str, allowed[name]))
            raise Refused(f"changes.{name}", f"{value!r} is unknown, expected one of {expected}")
    if "rating" in changes and one.chosen is not None:
        changes["chosen"] = int(changes["rating"] < 0)
    changes = {name: value for name, value in changes.items() if value != getattr(one, name)}
    if not changes:
        raise Refused("changes", "expected a value that differs")
    return changes


def _allowed(campaign: Campaign) -> dict[str, tuple[Any, ...]]:
    if campaign.kind == "evaluation":
        return {"rating": (-3, -2, -1, 0, 1, 2, 3)}
    allowed: dict[str, tuple[Any, ...]] = {"chosen": (0, 1), "strength": STRENGTHS}
    return allowed | {"safety": BINS}


def undo(session: Session, reviewer_id: int) -> int:
    """Take the reviewer's last verdict back; returns the judgement, which lies before them again.

    Conflict: there is none, or something else has happened to the judgement since.
    """
    review = session.scalar(
        select(Review)
        .where(Review.account_id == reviewer_id, Review.undone.is_(None))
        .order_by(Review.id.desc())
        .limit(1)
    )
    if review is None:
        raise Conflict("you have reviewed nothing yet")
    one = session.get_one(Annotation, review.annotation_id, with_for_update=True)
    if one.undone is not None:
        raise Conflict("the annotator took this judgement back")
    if one.review != review.verdict:
        raise Conflict("somebody else has changed this judgement since")
    if review.verdict == "rejected":
        item = session.get_one(Item, one.item_id, with_for_update=True)
        if item.taken >= item.wanted:
            raise Conflict("somebody else has judged the item since")
        _recount(session, item.id, 1)
    for name, value in review.before.items():
        setattr(one, name, value)
    review.undone = now()
    _lay(session, one.id, reviewer_id)
    write_down(session, "review_undone", reviewer_id, f"annotation:{one.id}", review=review.id)
    return one.id


def _recount(session: Session, item_id: int, by: int) -> None:
    session.execute(update(Item).where(Item.id == item_id).values(taken=Item.taken + by))


def _clear(session: Session, annotation_id: int) -> None:
    there = session.scalar(select(Desk).where(Desk.annotation_id == annotation_id))
    if there is not None:
        session.delete(there)


def done_by(session: Session, reviewer_id: int) -> int:
    """How many verdicts of a reviewer stand."""
    query = select(func.count()).where(Review.account_id == reviewer_id, Review.undone.is_(None))
    return session.scalar(query) or 0


def _told_to(account_id: int) -> Any:
    return (
        select(Review, Annotation, Item, Campaign)
        .join(Annotation, Annotation.id == Review.annotation_id)
        .join(Item, Item.id == Annotation.item_id)
        .join(Campaign, Campaign.id == Annotation.campaign_id)
        .where(Annotation.account_id == account_id, Review.undone.is_(None))
        .where((Review.verdict != "approved") | (Review.note != ""))
    )


def feedback(
    session: Session, account_id: int, before: int | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """What reviewers said about this person's work, the newest first: corrections, rejections, and
    approvals with a note. Who said it is left out."""
    query = _told_to(account_id).order_by(Review.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Review.id < before)
    return [
        {
            "id": review.id,
            "verdict": review.verdict,
            "note": review.note,
            "created": review.created,
            "new": review.seen is None,
            "campaign": campaign.name,
            "aim": campaign.aim,
            "dialog": item.dialog,
            "answers": [answer["text"] for answer in item.answers],
            "yours": {name: review.before[name] for name in FIELDS},
            "now": _fields(one),
        }
        for review, one, item, campaign in session.execute(query)
    ]


def unread(session: Session, account_id: int) -> int:
    """How many of them the person has not read."""
    told = _told_to(account_id).where(Review.seen.is_(None))
    return session.scalar(told.with_only_columns(func.count())) or 0


def mark_read(session: Session, account_id: int, upto: int) -> None:
    """Everything up to a review has been read."""
    mine = select(Annotation.id).where(Annotation.account_id == account_id)
    session.execute(
        update(Review)
        .where(Review.annotation_id.in_(mine), Review.id <= upto, Review.seen.is_(None))
        .values(seen=now())
    )
