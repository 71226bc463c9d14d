"""Campaigns: made, changed, opened, closed; how far they are and who works in them."""

from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from puna.store.audit import note
from puna.store.faults import Conflict, Missing, Refused
from puna.store.rules import Rules, Variant, check
from puna.store.store import now
from puna.store.tables import (
    Account,
    Annotation,
    Attack,
    Batch,
    Campaign,
    Item,
    Qualification,
    Task,
)

EVERYBODY = 1_000_000  # `wanted` of gold and qualification items
STATES = {"draft": ("open",), "open": ("closed",), "closed": ("open",)}


def find(session: Session, campaign_id: int) -> Campaign:
    """The campaign. Missing."""
    found = session.get(Campaign, campaign_id)
    if found is None:
        raise Missing
    return found


def create(session: Session, by_id: int, rules: Rules) -> Campaign:
    """A new campaign, in the state "draft". Refused: a rule that cannot be, a name in use."""
    check(rules)
    campaign = Campaign(**rules.columns(), state="draft", by_id=by_id, created=now())
    _keep(session, campaign, rules.name)
    note(session, "campaign_created", by_id, f"campaign:{campaign.id}", name=rules.name)
    return campaign


def edit(session: Session, by_id: int, campaign_id: int, rules: Rules) -> Campaign:
    """Change the rules. Refused: what people's work stands on, and so can not be changed any more.

    Kind and aim are fixed by the first item, the variants of an evaluation by the first judgement,
    the pass mark by the first test that somebody finished. A new overlap holds for the items that
    nobody has begun.
    """
    check(rules)
    campaign = find(session, campaign_id)
    _check_fixed(session, campaign, rules)
    columns = rules.columns()
    changed = {name: getattr(campaign, name) for name in columns}
    changed = {name: value for name, value in changed.items() if value != columns[name]}
    if not changed:
        return campaign
    for name, value in columns.items():
        setattr(campaign, name, value)
    _keep(session, campaign, rules.name)
    if "overlap" in changed:
        session.execute(
            update(Item)
            .where(Item.campaign_id == campaign_id, Item.purpose == "normal", Item.taken == 0)
            .where(Item.only_id.is_(None))
            .values(wanted=rules.overlap)
        )
    if "guidelines" in changed:
        changed["guidelines"] = f"{len(changed['guidelines'])} characters"  # the log holds no texts
    note(session, "campaign_changed", by_id, f"campaign:{campaign_id}", before=changed)
    return campaign


def _keep(session: Session, campaign: Campaign, name: str) -> None:
    try:
        session.add(campaign)
        session.flush()
    except IntegrityError:
        raise Refused("name", f"there is a campaign {name!r} already") from None


def _check_fixed(session: Session, campaign: Campaign, rules: Rules) -> None:
    number = campaign.id
    items = _count(session, Item.campaign_id == number)
    if campaign.kind == "redteam":
        items += _count(session, Attack.campaign_id == number)
    for name in ("kind", "aim"):
        if items and getattr(rules, name) != getattr(campaign, name):
            raise Refused(name, f"cannot be changed, the campaign has work in it ({items})")
    if campaign.kind == "evaluation" and rules.columns()["variants"] != campaign.variants:
        judged = _count(session, Annotation.campaign_id == number, Annotation.undone.is_(None))
        if judged:
            raise Refused("variants", f"cannot be changed, {judged} judgements compare them")
    if rules.pass_mark != campaign.pass_mark:
        tested = _count(
            session, Qualification.campaign_id == number, Qualification.passed.is_not(None)
        )
        if tested:
            raise Refused("pass_mark", f"cannot be changed, {tested} people were tested by it")


def _count(session: Session, *holds: Any) -> int:
    return session.scalar(select(func.count()).where(*holds)) or 0


def change_state(session: Session, by_id: int, campaign_id: int, state: str) -> Campaign:
    """Open or close a campaign. Conflict: from where it is there is no such way. Refused: it cannot
    be opened, with what it lacks."""
    campaign = session.get(Campaign, campaign_id, with_for_update=True)
    if campaign is None:
        raise Missing
    if state not in ("open", "closed"):
        raise Refused("state", f"{state!r} is unknown, expected open or closed")
    if state not in STATES[campaign.state]:
        raise Conflict(f"the campaign is {campaign.state}, it cannot become {state}")
    if state == "open":
        _check_open(session, campaign)
    before, campaign.state = campaign.state, state
    note(session, f"campaign_{state}", by_id, f"campaign:{campaign_id}", before=before)
    return campaign


def _check_open(session: Session, campaign: Campaign) -> None:
    """What a campaign needs before people come."""
    if campaign.kind == "redteam":
        return
    there = dict(
        session.execute(
            select(Item.purpose, func.count())
            .where(Item.campaign_id == campaign.id, Item.state.in_(("ready", "preparing")))
            .group_by(Item.purpose)
        ).all()
    )
    if not there.get("normal") and not campaign.own_prompts:
        raise Refused("state", "the campaign has no items, add a batch before it opens")
    if campaign.pass_mark and not there.get("qualification"):
        raise Refused("pass_mark", f"is {campaign.pass_mark:g}, but no item belongs to the test")
    if campaign.gold_share and not there.get("gold"):
        raise Refused("gold_share", f"is {campaign.gold_share:g}, but there is no gold item")


def rules_of(campaign: Campaign) -> Rules:
    """A campaign's rules."""
    names = Rules.__dataclass_fields__
    row = {name: getattr(campaign, name) for name in names}
    return Rules(**row | {"variants": [Variant(**variant) for variant in campaign.variants]})


def described(campaign: Campaign) -> dict[str, Any]:
    """The campaign as JSON."""
    head = {"id": campaign.id, "state": campaign.state, "created": campaign.created}
    return head | rules_of(campaign).columns()


def listed(session: Session) -> list[dict[str, Any]]:
    """Every campaign with how far it is; the newest first, closed ones last."""
    counts = counted(session)
    people = dict(
        session.execute(
            select(Annotation.campaign_id, func.count(func.distinct(Annotation.account_id)))
            .where(Annotation.undone.is_(None))
            .group_by(Annotation.campaign_id)
        ).all()
    )
    found = session.scalars(select(Campaign).order_by(Campaign.id.desc())).all()
    rows = [
        described(one) | {"counts": counts.get(one.id, empty()), "people": people.get(one.id, 0)}
        for one in found
    ]
    return sorted(rows, key=lambda row: row["state"] == "closed")


def empty() -> dict[str, int]:
    """No items."""
    states = ("preparing", "ready", "failed", "closed")
    return dict.fromkeys((*states, "gold", "qualification", "wanted", "done", "items"), 0)


def counted(session: Session, campaign_id: int | None = None) -> dict[int, dict[str, int]]:
    """For each campaign, or (with its id) for each batch of it: items by state, gold and test
    items, judgements wanted and done. Only normal items have a state and a wish here."""
    group = Item.campaign_id if campaign_id is None else Item.batch_id
    here = [Item.campaign_id == campaign_id] if campaign_id is not None else []
    found: dict[int, dict[str, int]] = {}
    for number, purpose, state, items, wanted in session.execute(
        select(group, Item.purpose, Item.state, func.count(), func.sum(Item.wanted))
        .where(*here)
        .group_by(group, Item.purpose, Item.state)
    ):
        row = found.setdefault(number, empty())
        if purpose != "normal":
            row[purpose] += items
            continue
        row[state] += items
        row["items"] += items
        row["wanted"] += int(wanted) if state in ("preparing", "ready") else 0
    done = case((Item.state.in_(("preparing", "ready")), 0), else_=1)
    for number, over, judged in session.execute(
        select(group, done, func.count())
        .join(Annotation, Annotation.item_id == Item.id)
        .where(*here, Item.purpose == "normal")
        .where(Annotation.undone.is_(None), Annotation.review != "rejected")
        .group_by(group, done)
    ):
        row = found.setdefault(number, empty())
        row["done"] += judged
        row["wanted"] += judged if over else 0  # of closed items nothing more is wanted
    return found


def progress(session: Session, campaign_id: int) -> list[dict[str, Any]]:
    """Every batch with how far it is, why items failed and what its upload left out."""
    counts = counted(session, campaign_id)
    failures: dict[int, dict[str, int]] = {}
    for batch, why, items in session.execute(
        select(Item.batch_id, Item.failure, func.count())
        .where(Item.campaign_id == campaign_id, Item.state == "failed")
        .group_by(Item.batch_id, Item.failure)
    ):
        kinds = failures.setdefault(batch, {})
        kind = why.partition(":")[0]
        kinds[kind] = kinds.get(kind, 0) + items
    batches = session.scalars(
        select(Batch).where(Batch.campaign_id == campaign_id).order_by(Batch.number.desc())
    )
    return [
        {
            "id": batch.id,
            "number": batch.number,
            "source": batch.source,
            "created": batch.created,
            "left_out": batch.left_out,
            "failures": failures.get(batch.id, {}),
            "counts": counts.get(batch.id, empty()),
        }
        for batch in batches
    ]


def people(session: Session, campaign_id: int) -> list[dict[str, Any]]:
    """Who works here: judgements that count, rejected ones, skips, the test; most first."""
    rows: dict[int, dict[str, Any]] = {}

    def row(account: int) -> dict[str, Any]:
        return rows.setdefault(
            account,
            {"id": account, "done": 0, "rejected": 0, "skipped": 0, "now": 0, "test": None}
            | {"seconds": 0.0, "last": None},
        )

    for account, review, number, seconds, last in session.execute(
        select(
            Annotation.account_id,
            Annotation.review,
            func.count(),
            func.sum(Annotation.seconds),
            func.max(Annotation.created),
        )
        .join(Item, Item.id == Annotation.item_id)
        .where(Annotation.campaign_id == campaign_id, Annotation.undone.is_(None))
        .where(Item.purpose != "qualification")
        .group_by(Annotation.account_id, Annotation.review)
    ):
        found = row(account)
        found["rejected" if review == "rejected" else "done"] += number
        found["seconds"] += float(seconds or 0)
        found["last"] = max(found["last"] or 0.0, last)
    for account, state, number in session.execute(
        select(Task.account_id, Task.state, func.count())
        .join(Item, Item.id == Task.item_id)
        .where(Item.campaign_id == campaign_id, Task.state.in_(("leased", "skipped")))
        .where((Task.state == "skipped") | (Task.expires > now()))
        .group_by(Task.account_id, Task.state)
    ):
        row(account)["now" if state == "leased" else "skipped"] += number
    for test in session.scalars(
        select(Qualification).where(Qualification.campaign_id == campaign_id)
    ):
        row(test.account_id)["test"] = {
            "right": test.right,
            "answered": test.answered,
            "passed": test.passed,
        }
    names = session.execute(select(Account.id, Account.name).where(Account.id.in_(rows))).all()
    for account, name in names:
        rows[account]["name"] = name
    return sorted(rows.values(), key=lambda one: (-one["done"], one["id"]))
