"""How far somebody is: in a campaign, today, in a row, day after day."""

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from puna.store.store import now
from puna.store.tables import Annotation, Campaign, Item, Task
from puna.store.work import WORKING, counts_of, test_result

DAY = 86400.0
KEPT_DAYS = 400  # of judgements that a streak looks at
PAUSE_SECONDS = 1800.0  # a longer one ends what is in a row
FEW = 20  # judgements whose time in view is averaged


def campaigns_for(session: Session, account_id: int) -> list[dict[str, Any]]:
    """The campaigns that are open for annotators, with what this person did in each."""
    found = session.scalars(
        select(Campaign)
        .where(Campaign.state == "open", Campaign.kind.in_(("preference", "evaluation")))
        .order_by(Campaign.id)
    )
    return [
        {
            "id": campaign.id,
            "name": campaign.name,
            "kind": campaign.kind,
            "aim": campaign.aim,
            "own_prompts": campaign.own_prompts,
            "test": test_of(session, account_id, campaign),
            **reached(session, account_id, campaign),
        }
        for campaign in found
    ]


def test_of(session: Session, account_id: int, campaign: Campaign) -> dict[str, Any] | None:
    """The qualification test: how many tasks it has, how many are answered, whether it is passed;
    what was right is told at its end. None: the campaign has none."""
    if not campaign.pass_mark:
        return None
    row = test_result(session, account_id, campaign.id)
    tasks = session.scalar(
        select(func.count(Item.id))
        .where(Item.campaign_id == campaign.id, Item.purpose == "qualification")
        .where(Item.state == "ready")
    )
    passed = row.passed if row else None
    return {
        "tasks": tasks or 0,
        "answered": row.answered if row else 0,
        "right": row.right if row and passed is not None else None,
        "pass_mark": campaign.pass_mark,
        "passed": passed,
    }


def reached(session: Session, account_id: int, campaign: Campaign) -> dict[str, int]:
    """Judgements done here, and all that there are for this person, done and open."""
    counts = counts_of(session, account_id, campaign.id)
    done = sum(counts[purpose, "done"] for purpose in WORKING)
    touched = exists().where(
        Task.item_id == Item.id, Task.account_id == account_id, Task.state.in_(("done", "skipped"))
    )
    holds = exists().where(
        Task.item_id == Item.id, Task.account_id == account_id, Task.state == "leased"
    )
    open_items = session.scalar(
        select(func.count(Item.id))
        .where(Item.campaign_id == campaign.id, Item.state == "ready", ~touched)
        .where(or_(Item.only_id.is_(None), Item.only_id == account_id))
        .where(or_(holds, (Item.purpose == "normal") & (Item.taken < Item.wanted)))
        .where(Item.purpose.in_(WORKING))
    )
    total = done + (open_items or 0)
    return {"done": done, "total": min(total, campaign.quota) if campaign.quota else total}


def diligence(session: Session, account_id: int, west: int = 0) -> dict[str, Any]:
    """Judgements today and in a row, days in a row, seconds for one.

    west: minutes that the person's clock is behind UTC, as JavaScript says it.
    """
    moment = now()
    rows = session.execute(
        select(Annotation.created, Annotation.seconds)
        .where(Annotation.account_id == account_id, Annotation.undone.is_(None))
        .where(Annotation.created > moment - KEPT_DAYS * DAY)
        .order_by(Annotation.id.desc())
    ).all()
    times = [created for created, _ in rows]
    days = [_day(created, west) for created in times]
    today = _day(moment, west)
    seconds = sorted(seconds for _, seconds in rows[:FEW])
    return {
        "today": days.count(today),
        "in_a_row": _in_a_row(times, moment),
        "days": _days_in_a_row(set(days), today),
        "seconds": seconds[len(seconds) // 2] if seconds else None,
    }


def _day(moment: float, west: int) -> int:
    return math.floor((moment - 60 * west) / DAY)


def _days_in_a_row(days: set[int], today: int) -> int:
    """Up to today, or to yesterday while nothing is done today."""
    last = today if today in days else today - 1
    count = 0
    while last - count in days:
        count += 1
    return count


def _in_a_row(times: Sequence[float], moment: float) -> int:
    """Judgements, the newest first, between which nobody paused."""
    count = 0
    for created in times:
        if abs(moment - created) > PAUSE_SECONDS:
            break
        moment, count = created, count + 1
    return count
