"""Giving out work: who judges which item next, and for how long they hold it.

A task is one item in one person's hands. `Item.taken` counts the leases that run and the judgements
that count; it grows by an UPDATE that holds only below `Item.wanted`, so nobody gets an item that
has enough people. Gold items look like all others; the test comes before everything else.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.orm import Session

from puna.store.faults import Conflict, Missing, Refused
from puna.store.store import now
from puna.store.tables import Campaign, Item, Qualification, Task
from puna.text.dialog import Dialog

HELD = 3  # tasks in one person's hands: in view, fetched ahead, taken back
MOST_REASON = 500  # characters of why a task was skipped
TRIES = 8  # items that somebody else took in the same moment
RECENT = 20  # tasks of a person over which the order of answers is balanced
WORKING = ("normal", "gold")  # purposes of items that count for quotas and progress

_ORDERS = random.SystemRandom()


@dataclass(frozen=True)
class Given:
    """A task as its person may see it: nothing in it tells a gold item from another."""

    task: int
    digest: str  # of what is shown; comes back with the judgement
    left: float  # seconds of the lease
    test: bool  # it belongs to the qualification test
    messages: list[dict[str, str]]
    answers: tuple[str, str]  # in the order of the page
    turns: int  # user messages
    mine: bool  # the person wrote its last message


@dataclass(frozen=True)
class Nothing:
    """Why there is no task now.

    Codes: closed, failed (the test), quota, held, preparing, waiting, empty.
    """

    code: str
    message: str


def campaign_of(session: Session, campaign_id: int) -> Campaign:
    """A campaign that has or had work for annotators. Missing."""
    campaign = session.get(Campaign, campaign_id)
    if campaign is None or campaign.state == "draft" or campaign.kind == "redteam":
        raise Missing
    return campaign


def next_task(
    session: Session, account_id: int, campaign_id: int, beside: Collection[int] = ()
) -> Given | Nothing:
    """The person's next task: one that they hold and that is not in `beside`, else a new one.

    So a page that is loaded again has the same task, and one that fetches ahead gets another.
    """
    campaign = campaign_of(session, campaign_id)
    if campaign.state != "open":
        return Nothing("closed", "This campaign is closed. Thank you for your work.")
    moment = now()
    _sweep(session, campaign_id, moment)
    held = held_by(session, account_id, campaign_id)
    for task, item in held:
        if task.id not in beside:
            task.expires = moment + campaign.lease_seconds
            return shown(session, task, item)
    if len(held) >= HELD:
        return Nothing("held", f"You hold {len(held)} tasks, judge or skip one of them first.")
    chosen = _choose(session, account_id, campaign, len(held))
    if isinstance(chosen, Nothing):
        return chosen
    return shown(session, _lease(session, chosen, account_id, campaign), chosen)


def renew(session: Session, account_id: int, task_id: int) -> float:
    """Hold a task longer, or again; returns the seconds of the lease. Conflict: it is gone."""
    task, item, campaign = mine(session, account_id, task_id)
    check_open(item, campaign)
    if task.state == "done":
        raise Conflict("You have judged this task already.")
    if task.state != "leased":
        if item.purpose != "qualification":
            enough = full(session, account_id, campaign)
            if enough:
                raise Conflict(enough.message)
        if len(held_by(session, account_id, campaign.id)) >= HELD:
            raise Conflict(f"You hold {HELD} tasks, judge or skip one of them first.")
        if not _claim(session, item.id):
            raise Conflict("The lease ran out, and somebody else has judged the item since.")
        task.state, task.ended, task.reason = "leased", None, ""
    task.expires = now() + campaign.lease_seconds
    return campaign.lease_seconds


def skip(session: Session, account_id: int, task_id: int, reason: str) -> int:
    """Give a task back unjudged; returns the campaign. It does not come to this person again."""
    if len(reason) > MOST_REASON:
        raise Refused("reason", f"expected at most {MOST_REASON} characters")
    task, item, campaign = leased(session, account_id, task_id)
    if item.purpose == "qualification":
        raise Conflict("Tasks of the test cannot be skipped.")
    task.state, task.ended, task.reason = "skipped", now(), reason.strip()
    release(session, item.id)
    return campaign.id


def mine(session: Session, account_id: int, task_id: int) -> tuple[Task, Item, Campaign]:
    """A person's task. Missing: there is none, or it is somebody else's."""
    task = session.get(Task, task_id, with_for_update=True)
    if task is None or task.account_id != account_id:
        raise Missing
    item = session.get_one(Item, task.item_id)
    return task, item, session.get_one(Campaign, item.campaign_id)


def leased(session: Session, account_id: int, task_id: int) -> tuple[Task, Item, Campaign]:
    """A task that its person holds. Conflict says why they do not any more (W75)."""
    task, item, campaign = mine(session, account_id, task_id)
    check_open(item, campaign)
    reasons = {
        "done": "This task is judged already, perhaps in another tab.",
        "skipped": "This task was skipped, perhaps in another tab.",
        "expired": "The lease on this task ran out, it went back to the others.",
    }
    if task.state in reasons:
        raise Conflict(reasons[task.state])
    if task.expires <= now():
        raise Conflict(reasons["expired"])
    return task, item, campaign


def check_open(item: Item, campaign: Campaign) -> None:
    """Conflict: the campaign or the item is closed."""
    if campaign.state != "open":
        raise Conflict("This campaign was closed in the meantime.")
    if item.state != "ready":
        raise Conflict("This item was withdrawn in the meantime.")


def release(session: Session, item_id: int) -> None:
    """One person fewer has or judged this item."""
    lower = update(Item).where(Item.id == item_id, Item.taken > 0).values(taken=Item.taken - 1)
    session.execute(lower)


def held_by(session: Session, account_id: int, campaign_id: int) -> list[tuple[Task, Item]]:
    """The leases of a person that run, the oldest first."""
    found = session.execute(
        select(Task, Item)
        .join(Item, Item.id == Task.item_id)
        .where(Task.account_id == account_id, Task.state == "leased", Task.expires > now())
        .where(Item.campaign_id == campaign_id, Item.state == "ready")
        .order_by(Task.id)
    )
    return [(task, item) for task, item in found]


def shown(session: Session, task: Task, item: Item) -> Given:
    """A task as the page shows it."""
    first, second = (answer["text"] for answer in item.answers)
    dialog = Dialog.from_json(item.dialog)
    return Given(
        task=task.id,
        digest=digest_of(task, item),
        left=max(0.0, task.expires - now()),
        test=item.purpose == "qualification",
        messages=[message.to_json() for message in dialog.messages],
        answers=(second, first) if task.swapped else (first, second),
        turns=dialog.turns,
        mine=item.only_id == task.account_id,
    )


def digest_of(task: Task, item: Item) -> str:
    """Changes when what was shown changes."""
    texts = [answer["text"] for answer in item.answers]
    seen = json.dumps([item.dialog["messages"], texts, task.swapped])
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


def counts_of(session: Session, account_id: int, campaign_id: int) -> Counter[tuple[str, str]]:
    """(purpose, state of the task) -> how many tasks of this person."""
    found = session.execute(
        select(Item.purpose, Task.state, func.count())
        .join(Item, Item.id == Task.item_id)
        # + 0: from the person's tasks to their items, not through all items of the campaign
        .where(Task.account_id == account_id, Item.campaign_id + 0 == campaign_id)
        .group_by(Item.purpose, Task.state)
    )
    return Counter({(purpose, state): number for purpose, state, number in found})


def _sweep(session: Session, campaign_id: int, moment: float) -> None:
    """Leases that ran out, or whose item was withdrawn, end."""
    over = session.execute(
        select(Task.id, Task.item_id)
        .join(Item, Item.id == Task.item_id)
        .where(Task.state == "leased", Item.campaign_id == campaign_id)
        .where(or_(Task.expires <= moment, Item.state != "ready"))
    ).all()
    for task_id, item_id in over:
        ended = session.execute(
            update(Task)
            .where(Task.id == task_id, Task.state == "leased")
            .values(state="expired", ended=moment)
        )
        if ended.rowcount:  # type: ignore[attr-defined]
            release(session, item_id)


def _choose(session: Session, account_id: int, campaign: Campaign, held: int) -> Item | Nothing:
    """The item that this person judges next, with a place in it claimed."""
    test = verdict_of(session, account_id, campaign)
    if isinstance(test, Nothing):
        return test
    if not test:
        item = _claimed(session, account_id, campaign.id, "qualification")
        return item or _no_test(held)
    enough = full(session, account_id, campaign)
    if enough:
        return enough
    item = _claimed(session, account_id, campaign.id, "normal", own=True)
    if item is None and _gold_is_due(session, account_id, campaign):
        item = _claimed(session, account_id, campaign.id, "gold")
    item = item or _claimed(session, account_id, campaign.id, "normal")
    return item or _none_left(session, account_id, campaign.id)


def test_result(session: Session, account_id: int, campaign_id: int) -> Qualification | None:
    """How far the person is in the campaign's test; None: not begun."""
    return session.scalar(
        select(Qualification)
        .where(Qualification.campaign_id == campaign_id)
        .where(Qualification.account_id == account_id)
    )


def verdict_of(session: Session, account_id: int, campaign: Campaign) -> bool | Nothing:
    """Whether the person may work: True, False (the test comes first), or why they never may."""
    if not campaign.pass_mark:
        return True
    row = test_result(session, account_id, campaign.id)
    if row is None or row.passed is None:
        return False
    if row.passed:
        return True
    needed = f"{campaign.pass_mark:.0%}"
    return Nothing(
        "failed",
        f"You answered {row.right} of {row.answered} tasks of the test as expected; this campaign "
        f"asks for {needed}. It has no work for you; others may have.",
    )


def _no_test(held: int) -> Nothing:
    if held:
        return Nothing("held", "Judge the last task of the test first.")
    return Nothing("waiting", "The test of this campaign has no tasks yet.")


def full(session: Session, account_id: int, campaign: Campaign) -> Nothing | None:
    """Why the person may have no more items; None: they may."""
    if not campaign.quota:
        return None
    counts = counts_of(session, account_id, campaign.id)
    had = sum(counts[purpose, state] for purpose in WORKING for state in ("done", "leased"))
    if had < campaign.quota:
        return None
    return Nothing("quota", f"You have had your {campaign.quota} tasks. Thank you for your work.")


def _gold_is_due(session: Session, account_id: int, campaign: Campaign) -> bool:
    """By lot, and never far from the share."""
    share = campaign.gold_share
    if not share:
        return False
    counts = counts_of(session, account_id, campaign.id)
    had = sum(number for (purpose, _), number in counts.items() if purpose in WORKING)
    gold = sum(number for (purpose, _), number in counts.items() if purpose == "gold")
    owed = share * (had + 1) - gold
    return owed >= 1 or (owed > -1 and _ORDERS.random() < share)


def _claimed(
    session: Session, account_id: int, campaign_id: int, purpose: str, own: bool = False
) -> Item | None:
    """An item with room that the person has not had, with a place in it claimed.

    Those with the fewest people come first; of gold items any.
    """
    had = exists().where(
        Task.item_id == Item.id, Task.account_id == account_id, Task.state != "expired"
    )
    whose = Item.only_id == account_id if own else Item.only_id.is_(None)
    # + 0: through the few items of one's own, not through all of the campaign
    there = Item.campaign_id + 0 if own else Item.campaign_id
    query = (
        select(Item.id)
        .where(there == campaign_id, Item.state == "ready", Item.purpose == purpose)
        .where(Item.taken < Item.wanted, whose, ~had)
        .order_by(Item.taken, Item.id)
        .limit(RECENT if purpose == "gold" else 1)
    )
    for _ in range(TRIES):
        found = session.scalars(query).all()
        if not found:
            return None
        item_id = _ORDERS.choice(found)
        if _claim(session, item_id):
            return session.get_one(Item, item_id, populate_existing=True)
    return None


def _claim(session: Session, item_id: int) -> bool:
    """Whether there was room for one more person, who now has it."""
    raised = session.execute(
        update(Item)
        .where(Item.id == item_id, Item.taken < Item.wanted, Item.state == "ready")
        .values(taken=Item.taken + 1)
        .execution_options(synchronize_session=False)
    )
    return bool(raised.rowcount)  # type: ignore[attr-defined]


def _lease(session: Session, item: Item, account_id: int, campaign: Campaign) -> Task:
    moment = now()
    had = session.execute(
        select(Task.id, Task.account_id, Task.swapped).where(Task.item_id == item.id)
    ).all()
    own = next((row.id for row in had if row.account_id == account_id), None)
    if own is None:
        swapped = _order(session, [row.swapped for row in had], account_id)
        task = Task(item_id=item.id, account_id=account_id, swapped=swapped)
        session.add(task)
    else:
        task = session.get_one(Task, own)
    task.state, task.reason, task.ended = "leased", "", None
    task.leased, task.expires = moment, moment + campaign.lease_seconds
    session.flush()
    return task


def _order(session: Session, others: Sequence[bool], account_id: int) -> bool:
    """Whether the second answer stands first: by lot, but the order that the item's other people
    had less often comes first, and what the person had less often of late is likelier."""
    lean = sum(1 if swapped else -1 for swapped in others)
    if lean:
        return lean < 0
    query = select(Task.swapped).where(Task.account_id == account_id).order_by(Task.id.desc())
    recent = session.scalars(query.limit(RECENT)).all()
    lean = sum(1 if swapped else -1 for swapped in recent)
    chance = 0.5 if not lean else 1 / 3 if lean > 0 else 2 / 3
    return _ORDERS.random() < chance


def _none_left(session: Session, account_id: int, campaign_id: int) -> Nothing:
    """Why there is no item: it may come later, or never."""
    here = (Item.campaign_id == campaign_id, Item.purpose == "normal")
    free = or_(Item.only_id.is_(None), Item.only_id == account_id)
    if session.scalar(select(Item.id).where(*here, Item.state == "preparing", free).limit(1)):
        return Nothing(
            "preparing", "More items are being prepared; they appear here by themselves."
        )
    had = select(Task.item_id).where(Task.account_id == account_id, Task.state != "expired")
    query = (
        select(Task.id)
        .join(Item, Item.id == Task.item_id)
        .where(*here, free, Task.state == "leased", Item.state == "ready")
        .where(Task.account_id != account_id, Item.id.not_in(had))
    )
    if session.scalar(query.limit(1)):
        return Nothing(
            "waiting", "Others hold what is left; it comes back if they do not judge it."
        )
    return Nothing("empty", "You have judged everything there is. Thank you for your work.")
