"""Campaigns for tests: rules, batches, items that are ready, judgements about them."""

import random
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.store import batches, campaigns
from puna.store.rules import Rules, Variant, defaults
from puna.store.store import Store, now
from puna.store.tables import Annotation, Item, Task

# for tests whose SQL is plain: one database is enough
ON_SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


def rules(name: str = "Round", **changes: Any) -> Rules:
    """Rules of a preference campaign with two settings of the model "tiny"."""
    variants = [Variant("tiny", 0.6, 0.9, 32), Variant("tiny", 1.0, 0.9, 32)]
    changes = {"variants": variants} | changes
    return replace(defaults("preference", "helpfulness", "tiny"), name=name, **changes)


def made(store: Store, by: int, *, state: str = "draft", **changes: Any) -> int:
    """A campaign that exists, by its rules; opened if `state` says so."""
    with store.write() as session:
        number = campaigns.create(session, by, rules(**changes)).id
        if state == "open":
            campaigns.change_state(session, by, number, "open")
        return number


def upload(store: Store, by: int, campaign: int, text: str, **about: Any) -> batches.Added:
    """A batch from a text."""
    with store.write() as session:
        given = batches.Upload(text, **about)
        return batches.add(session, by, campaign, given, random.Random(0))


def judge(
    session: Session, item_id: int, account: int, chosen: int | None = 0, **fields: Any
) -> int:
    """A judgement as the annotation page stores one."""
    item = session.get_one(Item, item_id)
    item.taken += 1
    task = Task(
        item_id=item_id,
        account_id=account,
        state="done",
        swapped=False,
        leased=now(),
        expires=now(),
        reason="",
    )
    session.add(task)
    session.flush()
    row = {"strength": "better", "swapped": False, "comment": "", "seconds": 12.0}
    row |= {"review": "pending"} | fields
    annotation = Annotation(
        task_id=task.id,
        item_id=item_id,
        campaign_id=item.campaign_id,
        batch_id=item.batch_id,
        account_id=account,
        chosen=chosen,
        created=now(),
        **row,
    )
    session.add(annotation)
    session.flush()
    return annotation.id


def item_ids(store: Store, campaign: int) -> list[int]:
    """The ids of a campaign's items."""
    with store.read() as session:
        query = select(Item.id).where(Item.campaign_id == campaign).order_by(Item.id)
        return list(session.scalars(query))
