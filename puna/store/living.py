"""Conversations that annotators write: a prompt of their own, or the next message after a choice.

The text becomes an item that waits for its answers, for its writer alone; the preparation of items
makes those. So nothing typed is lost while the models are away.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.store.faults import Conflict, Missing, Refused
from puna.store.judging import follower
from puna.store.store import now
from puna.store.tables import Annotation, Batch, Campaign, Item
from puna.store.work import Nothing, campaign_of, check_open, full, mine, verdict_of
from puna.text.dialog import Dialog, Message

MOST_TEXT = 16_000  # characters of a message
MOST_WAITING = 3  # of one person's items without answers


def write_prompt(
    session: Session, account_id: int, campaign_id: int, text: str, category: str = ""
) -> int:
    """Begin a conversation; returns the item. Refused, Conflict: why it cannot be."""
    campaign = campaign_of(session, campaign_id)
    known = campaign.settings.get("categories") or []
    if category and category not in known:
        raise Refused("category", f"{category!r} is unknown, expected one of {', '.join(known)}")
    if not campaign.own_prompts:
        raise Conflict("In this campaign the prompts are given.")
    _check(session, account_id, campaign, text)
    dialog = Dialog((Message("user", text.strip()),))
    batch = _last_batch(session, campaign_id)
    item = _waiting_item(campaign, batch, dialog, account_id, category)
    session.add(item)
    session.flush()
    return item.id


def go_on(session: Session, account_id: int, task_id: int, text: str) -> int:
    """Answer the chosen answer; returns the item. Refused, Conflict: why it cannot be."""
    task, item, campaign = mine(session, account_id, task_id)
    check_open(item, campaign)
    last = session.scalar(
        select(Annotation)
        .where(Annotation.task_id == task.id, Annotation.undone.is_(None))
        .order_by(Annotation.id.desc())
        .limit(1)
    )
    if task.state != "done" or last is None or last.chosen is None:
        raise Conflict("Choose an answer before the conversation goes on.")
    dialog = Dialog.from_json(item.dialog)
    if item.purpose == "qualification" or dialog.turns >= campaign.max_turns:
        raise Conflict("This conversation is at its end.")
    if session.scalar(follower(item.id, account_id)) is not None:
        raise Conflict("This conversation went on already, perhaps in another tab.")
    _check(session, account_id, campaign, text)
    dialog = dialog.with_answer(item.answers[last.chosen]["text"]).with_user(text.strip())
    batch = session.get_one(Batch, item.batch_id)
    made = _waiting_item(campaign, batch, dialog, account_id, item.category)
    made.parent_id = item.id
    session.add(made)
    session.flush()
    return made.id


def waiting_for(session: Session, account_id: int, campaign_id: int) -> list[dict[str, Any]]:
    """The person's own conversations that wait for answers, or will never have any."""
    campaign_of(session, campaign_id)
    found = session.scalars(
        select(Item)
        .where(Item.campaign_id == campaign_id, Item.only_id == account_id)
        .where(Item.state.in_(("preparing", "failed")))
        .order_by(Item.id)
    )
    return [
        {
            "item": item.id,
            "state": item.state,
            "text": item.dialog["messages"][-1]["content"],
            "why": item.failure,
        }
        for item in found
    ]


def drop(session: Session, account_id: int, item_id: int) -> str:
    """Give up an own conversation that waits, or has failed; returns its last message."""
    item = session.get(Item, item_id, with_for_update=True)
    if item is None or item.only_id != account_id:
        raise Missing
    if item.state not in ("preparing", "failed"):
        raise Conflict("Its answers are there already.")
    item.state = "closed"
    return str(item.dialog["messages"][-1]["content"])


def _check(session: Session, account_id: int, campaign: Campaign, text: str) -> None:
    if not text.strip() or len(text) > MOST_TEXT:
        raise Refused("text", f"expected 1 to {MOST_TEXT} characters")
    if campaign.state != "open":
        raise Conflict("This campaign was closed in the meantime.")
    if campaign.kind != "preference" or len(campaign.variants) < 2:
        raise Conflict("This campaign has no models to ask.")
    test = verdict_of(session, account_id, campaign)
    if not test or isinstance(test, Nothing):
        raise Conflict(test.message if isinstance(test, Nothing) else "The test comes first.")
    enough = full(session, account_id, campaign)
    if enough:
        raise Conflict(enough.message)
    if len(waiting_for(session, account_id, campaign.id)) >= MOST_WAITING:
        raise Conflict(f"{MOST_WAITING} of your messages wait for answers, judge those first.")


def _last_batch(session: Session, campaign_id: int) -> Batch:
    query = select(Batch).where(Batch.campaign_id == campaign_id).order_by(Batch.number.desc())
    batch = session.scalar(query.limit(1))
    if batch is None:
        batch = Batch(campaign_id=campaign_id, number=1, created=now())
        session.add(batch)
        session.flush()
    return batch


def _waiting_item(
    campaign: Campaign, batch: Batch, dialog: Dialog, account_id: int, category: str
) -> Item:
    return Item(
        campaign_id=campaign.id,
        batch_id=batch.id,
        purpose="normal",
        state="preparing",
        dialog=dialog.to_json(),
        answers=[],
        expected={},
        category=category,
        wanted=campaign.overlap,
        taken=0,
        only_id=account_id,
        failure="",
        created=now(),
    )
