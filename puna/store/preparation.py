"""Items that wait for two answers: which come next, and what became of them.

All that is known about their preparation stands in the store, so a server that is started again
goes on where the last one ended.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, select, update
from sqlalchemy.orm import Session

from puna.store.tables import Campaign, Item

MOST_FAILURE = 300  # characters


@dataclass(frozen=True)
class Waiting:
    """An item without answers, with what its campaign says about asking."""

    id: int
    campaign_id: int
    kind: str
    messages: list[dict[str, str]]
    variants: list[dict[str, Any]]
    context_tokens: int  # the longest prompt; 0: what the model can hold


def waiting(
    session: Session, most: int, items: Collection[int] = (), campaigns: Collection[int] = ()
) -> list[Waiting]:
    """The items that are prepared next, those that somebody waits for first.

    Not these `items`, and none of these `campaigns`.
    """
    query = (
        select(Item, Campaign)
        .join(Campaign, Campaign.id == Item.campaign_id)
        .where(Item.state == "preparing", Campaign.state != "closed")
        .order_by(case((Item.only_id.is_(None), 1), else_=0), Item.id)
        .limit(most)
    )
    if items:
        query = query.where(Item.id.not_in(items))
    if campaigns:
        query = query.where(Campaign.id.not_in(campaigns))
    return [
        Waiting(
            id=item.id,
            campaign_id=campaign.id,
            kind=campaign.kind,
            messages=item.dialog["messages"],
            variants=campaign.variants,
            context_tokens=int(campaign.settings.get("context_tokens") or 0),
        )
        for item, campaign in session.execute(query)
    ]


def prepared(session: Session, item_id: int, answers: list[dict[str, Any]]) -> bool:
    """Store two answers; the item is ready. False: it did not wait for any more."""
    return _ended(session, item_id, state="ready", answers=answers, failure="")


def failed(session: Session, item_id: int, why: str) -> bool:
    """Store why the item could not be prepared. False: it did not wait for any more."""
    return _ended(session, item_id, state="failed", failure=" ".join(why.split())[:MOST_FAILURE])


def _ended(session: Session, item_id: int, **values: Any) -> bool:
    done = session.execute(
        update(Item).where(Item.id == item_id, Item.state == "preparing").values(**values)
    )
    return bool(done.rowcount)  # type: ignore[attr-defined]
