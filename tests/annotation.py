"""Work for annotators in tests: campaigns with items that are ready, people, judgements."""

from typing import Any

from puna.store.judging import Judgement, submit
from puna.store.store import Store, now
from puna.store.tables import Batch, Campaign, Item
from puna.store.work import Given, Nothing, next_task
from tests.pages import add_account


def people(store: Store, count: int) -> list[int]:
    """So many annotators."""
    return [add_account(store, f"Person {number}") for number in range(count)]


def campaign(store: Store, items: int = 4, **changes: Any) -> int:
    """An open campaign with items; its admin is made with it."""
    admin = add_account(store, f"Admin {now()}", "admin")
    variants = [
        {"model": "tiny", "temperature": t, "top_p": 0.9, "max_tokens": 16} for t in (0.6, 1.0)
    ]
    rules: dict[str, Any] = {
        **{
            "name": f"Round {now()}",
            "kind": "preference",
            "aim": "safety",
            "guidelines": "Be *kind*.",
        },
        **{"state": "open", "overlap": 1, "quota": 0, "lease_seconds": 600.0, "max_turns": 1},
        **{"own_prompts": False, "gold_share": 0.0, "pass_mark": 0.0, "variants": variants},
        **{"settings": {}, "by_id": admin, "created": now()},
        **changes,
    }
    with store.write() as session:
        made = Campaign(**rules)
        session.add(made)
        session.flush()
        session.add(Batch(campaign_id=made.id, number=1, left_out={}, created=now()))
        session.flush()
    add_items(store, made.id, items)
    return made.id


def add_items(
    store: Store, campaign_id: int, count: int, purpose: str = "normal", **fields: Any
) -> None:
    """More items, whose first answer is the one expected of gold."""
    with store.write() as session:
        rules = session.get_one(Campaign, campaign_id)
        batch = session.query(Batch).filter(Batch.campaign_id == campaign_id).first()
        for number in range(count):
            content = f"{purpose} question {number}"
            row: dict[str, Any] = {
                **{"campaign_id": campaign_id, "batch_id": batch.id, "purpose": purpose},
                **{"state": "ready", "category": "", "failure": "", "taken": 0, "created": now()},
                "dialog": {
                    "messages": [{"role": "user", "content": content}],
                    "id": "",
                    "tags": {},
                },
                "answers": [
                    {
                        "text": text,
                        "model": "tiny",
                        "version": "1",
                        "temperature": 0.6,
                        "top_p": 0.9,
                    }
                    for text in (f"first {number}", f"second {number}")
                ],
                "expected": {} if purpose == "normal" else {"chosen": 0},
                "wanted": rules.overlap if purpose == "normal" else 1_000_000,
                **fields,
            }
            session.add(Item(**row))


def take(
    store: Store, account: int, campaign_id: int, beside: tuple[int, ...] = ()
) -> Given | Nothing:
    """What `next_task` says."""
    with store.write() as session:
        return next_task(session, account, campaign_id, beside)


def given(store: Store, account: int, campaign_id: int, beside: tuple[int, ...] = ()) -> Given:
    """A task that there must be."""
    found = take(store, account, campaign_id, beside)
    assert isinstance(found, Given), found
    return found


def said(task: Given, chosen: int = 0, **fields: Any) -> Judgement:
    """A judgement of a task."""
    rest = {"strength": "better", "safety": "both_safe", "seconds": 3.0} | fields
    return Judgement(task.digest, chosen, **rest)


def judge(store: Store, account: int, task: Given, chosen: int = 0, **fields: Any) -> Any:
    """Store a judgement."""
    with store.write() as session:
        return submit(session, account, task.task, said(task, chosen, **fields))


def right_side(task: Given) -> int:
    """Where the item's first answer stands on the page."""
    return 0 if task.answers[0].startswith("first") else 1
