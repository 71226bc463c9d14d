"""Batches: the items of a round, as they are uploaded, prepared, tried again, withdrawn.

An item without answers waits in the state "preparing" until two of the campaign's variants have
answered it; gold and qualification items know which answer is the right one.
"""

import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from puna.store.audit import note
from puna.store.campaigns import EVERYBODY, find
from puna.store.faults import Conflict, Missing, Refused
from puna.store.store import now
from puna.store.tables import Account, Annotation, Batch, Campaign, Item, Review
from puna.store.uploads import Given, lines_of
from puna.text.dialog import BINS, Dialog

PURPOSES = ("normal", "gold", "qualification")
ITEM_STATES = ("preparing", "ready", "failed", "closed")
SHOWN_FAULTS = 20


@dataclass(frozen=True)
class Upload:
    """What somebody adds to a campaign: a text of lines (`puna.store.uploads`)."""

    text: str
    purpose: str = "normal"
    source: str = ""  # the file's name
    system: str = ""
    category: str = ""
    batch: int | None = None  # the number of a batch that gets more; none: a new one


@dataclass
class Added:
    """What became of an upload."""

    batch: int  # its number; 0: nothing was added
    items: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)  # {"line", "reason"}

    def leave(self, line: int, reason: str) -> None:
        """Count a line that is not taken."""
        self.left_out[reason] += 1
        if len(self.examples) < SHOWN_FAULTS:
            self.examples.append({"line": line, "reason": reason})


def digest_of(dialog: Dialog) -> str:
    """Equal for equal messages."""
    messages = [message.to_json() for message in dialog.messages]
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def new_batch(session: Session, campaign_id: int, by_id: int | None, source: str = "") -> Batch:
    """The campaign's next batch, without items."""
    session.get(Campaign, campaign_id, with_for_update=True)  # numbers are given one by one
    last = session.scalar(select(func.max(Batch.number)).where(Batch.campaign_id == campaign_id))
    batch = Batch(
        campaign_id=campaign_id,
        number=(last or 0) + 1,
        source=source,
        left_out={},
        by_id=by_id,
        created=now(),
    )
    session.add(batch)
    session.flush()
    return batch


def add(
    session: Session, by_id: int, campaign_id: int, upload: Upload, rng: random.Random
) -> Added:
    """A new batch from an upload. Refused: the upload has no line that can be taken.

    `rng` puts given answers in random order. What is in the campaign already is left out.
    """
    campaign = find(session, campaign_id)
    _check_upload(campaign, upload)
    batch = _batch(session, by_id, campaign_id, upload)
    added, seen = Added(batch.number), _seen(session, campaign_id, upload.purpose)
    for given in lines_of(upload.text, upload.system, upload.category):
        if isinstance(given, tuple):
            added.leave(*given)
            continue
        digest = digest_of(given.dialog)
        reason = _lacks(campaign, upload, given) or (digest in seen and "is there already")
        if reason:
            added.leave(given.line, reason)
            continue
        seen.add(digest)
        session.add(_item(campaign, batch, upload, given, digest, rng))
        added.items += 1
    if not added.items:
        why = "; ".join(f"{reason} ({count})" for reason, count in added.left_out.most_common(3))
        raise Refused("text", f"has nothing to add: {why or 'it is empty'}")
    batch.left_out = dict(Counter(batch.left_out) + added.left_out)
    detail: dict[str, Any] = {
        "batch": batch.number,
        "items": added.items,
        "purpose": upload.purpose,
    }
    note(session, "batch_added", by_id, f"campaign:{campaign_id}", **detail)
    return added


def _batch(session: Session, by_id: int, campaign_id: int, upload: Upload) -> Batch:
    if upload.batch is None:
        return new_batch(session, campaign_id, by_id, upload.source)
    session.get(Campaign, campaign_id, with_for_update=True)
    number = Batch.number == upload.batch
    found = session.scalar(select(Batch).where(Batch.campaign_id == campaign_id, number))
    if found is None:
        raise Refused("batch", f"the campaign has no batch {upload.batch}")
    return found


def _check_upload(campaign: Campaign, upload: Upload) -> None:
    if campaign.kind == "redteam":
        raise Refused("kind", "a red-team campaign has no items, people write their own")
    if campaign.state == "closed":
        raise Conflict("the campaign is closed")
    if upload.purpose not in PURPOSES:
        raise Refused("purpose", f"{upload.purpose!r} is unknown, expected {', '.join(PURPOSES)}")
    known = campaign.settings.get("categories") or []
    if upload.category and known and upload.category not in known:
        raise Refused("category", f"{upload.category!r} is not one of this campaign's")


def _lacks(campaign: Campaign, upload: Upload, given: Given) -> str:
    """Why a line cannot be an item here; empty: it can."""
    if upload.purpose != "normal" and not given.answers:
        return f"no answers, which {upload.purpose} items need"
    if upload.purpose != "normal" and "chosen" not in given.expected:
        return f"no chosen answer, which {upload.purpose} items need"
    if not given.answers and len(campaign.variants) < 2:
        return "no answers, and the campaign has no models to ask"
    texts = {answer["text"].strip() for answer in given.answers}
    if len(texts) == 1 and (campaign.kind != "evaluation" or upload.purpose != "normal"):
        return "the two answers are equal"
    known = campaign.settings.get("categories") or []
    if given.category and known and given.category not in known:
        return "a category that the campaign does not have"
    return ""


def _seen(session: Session, campaign_id: int, purpose: str) -> set[str]:
    found = session.scalars(
        select(Item.digest).where(
            Item.campaign_id == campaign_id, Item.purpose == purpose, Item.state != "closed"
        )
    )
    return set(found)


def _item(
    campaign: Campaign,
    batch: Batch,
    upload: Upload,
    given: Given,
    digest: str,
    rng: random.Random,
) -> Item:
    answers, expected = list(given.answers), dict(given.expected)
    if answers and rng.random() < 0.5:
        answers.reverse()
        if "chosen" in expected:
            expected["chosen"] = 1 - expected["chosen"]
    return Item(
        campaign_id=campaign.id,
        batch_id=batch.id,
        purpose=upload.purpose,
        state="ready" if answers else "preparing",
        dialog=given.dialog.to_json(),
        digest=digest,
        answers=answers,
        expected=expected if upload.purpose != "normal" else {},
        category=given.category,
        wanted=campaign.overlap if upload.purpose == "normal" else EVERYBODY,
        taken=0,
        failure="",
        created=now(),
    )


def items(
    session: Session,
    campaign_id: int,
    *,
    state: str = "",
    purpose: str = "",
    batch: int | None = None,
    after: int = 0,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Items of a campaign in the order of their ids, those after an id; one line each."""
    query = select(Item, Batch.number).join(Batch, Batch.id == Item.batch_id)
    query = query.where(Item.campaign_id == campaign_id, Item.id > after)
    if state:
        query = query.where(Item.state == state)
    if purpose:
        query = query.where(Item.purpose == purpose)
    if batch is not None:
        query = query.where(Batch.number == batch)
    found = session.execute(query.order_by(Item.id).limit(limit)).all()
    judged: dict[int, int] = dict(
        session.execute(
            select(Annotation.item_id, func.count())
            .where(Annotation.item_id.in_([item.id for item, _ in found]))
            .where(Annotation.undone.is_(None), Annotation.review != "rejected")
            .group_by(Annotation.item_id)
        ).all()
    )
    return [_row(item, number, judged.get(item.id, 0)) for item, number in found]


def _row(item: Item, batch: int, judged: int) -> dict[str, Any]:
    messages = item.dialog["messages"]
    wanted = item.wanted if item.purpose == "normal" else None
    return {
        "id": item.id,
        "batch": batch,
        "purpose": item.purpose,
        "state": item.state,
        "prompt": messages[-1]["content"][:200],
        "turns": sum(message["role"] == "user" for message in messages),
        "category": item.category,
        "judged": judged,
        "wanted": wanted,
        "failure": item.failure,
    }


def item(session: Session, campaign_id: int, item_id: int) -> dict[str, Any]:
    """An item with everything that was judged about it. Missing."""
    found = session.get(Item, item_id)
    if found is None or found.campaign_id != campaign_id:
        raise Missing
    batch = session.get_one(Batch, found.batch_id)
    annotations = session.execute(
        select(Annotation, Account.name)
        .join(Account, Account.id == Annotation.account_id)
        .where(Annotation.item_id == item_id)
        .order_by(Annotation.id)
    ).all()
    counted = [one for one, _ in annotations if one.undone is None and one.review != "rejected"]
    return _row(found, batch.number, len(counted)) | {
        "dialog": found.dialog,
        "answers": found.answers,
        "expected": found.expected,
        "parent": found.parent_id,
        "judgements": [_judgement(session, one, name) for one, name in annotations],
    }


def _judgement(session: Session, one: Annotation, name: str) -> dict[str, Any]:
    reviews = session.execute(
        select(Review, Account.name)
        .join(Account, Account.id == Review.account_id)
        .where(Review.annotation_id == one.id, Review.undone.is_(None))
        .order_by(Review.id)
    )
    return {
        "id": one.id,
        "annotator": name,
        "chosen": one.chosen,
        "strength": one.strength,
        "safety": one.safety,
        "rating": one.rating,
        "comment": one.comment,
        "seconds": one.seconds,
        "created": one.created,
        "undone": one.undone is not None,
        "review": one.review,
        "reviews": [
            {"reviewer": who, "verdict": review.verdict, "note": review.note}
            for review, who in reviews
        ],
    }


def copy(
    session: Session,
    by_id: int,
    campaign_id: int,
    item_id: int,
    purpose: str,
    expected: dict[str, Any],
    rng: random.Random,
) -> int:
    """A gold or test item made of an item, in its batch. Returns its id. Missing, Refused."""
    found = session.get(Item, item_id)
    if found is None or found.campaign_id != campaign_id:
        raise Missing
    if len(found.answers) != 2:
        raise Refused("item", "has no answers yet")
    if "safety" in expected and expected["safety"] not in BINS:
        raise Refused("safety", f"{expected['safety']!r} is unknown")
    campaign, batch = find(session, campaign_id), session.get_one(Batch, found.batch_id)
    dialog = Dialog.from_json(found.dialog)
    digest = digest_of(dialog)
    if digest in _seen(session, campaign_id, purpose):
        raise Conflict(f"there is a {purpose} item of this prompt already")
    given = Given(0, dialog, found.answers, expected, found.category)
    made = _item(campaign, batch, Upload("", purpose), given, digest, rng)
    session.add(made)
    session.flush()
    note(session, "item_copied", by_id, f"item:{item_id}", purpose=purpose, copy=made.id)
    return made.id


def withdraw(session: Session, by_id: int, campaign_id: int, item_id: int) -> None:
    """Give an item to nobody any more; what was judged about it stays. Missing."""
    found = session.get(Item, item_id, with_for_update=True)
    if found is None or found.campaign_id != campaign_id:
        raise Missing
    found.state = "closed"
    note(session, "item_withdrawn", by_id, f"item:{item_id}", campaign=campaign_id)


def retry(session: Session, by_id: int, campaign_id: int, item_id: int | None = None) -> int:
    """Prepare failed items again, one or all of a campaign. Returns how many."""
    campaign = find(session, campaign_id)
    if campaign.state == "closed":
        raise Conflict("the campaign is closed")
    chosen = [Item.campaign_id == campaign_id, Item.state == "failed"]
    chosen += [Item.id == item_id] if item_id is not None else []
    done = session.execute(update(Item).where(*chosen).values(state="preparing", failure=""))
    count: int = done.rowcount  # type: ignore[attr-defined]
    if not count:
        raise Conflict("there is no failed item any more")
    note(session, "items_retried", by_id, f"campaign:{campaign_id}", items=count)
    return count
