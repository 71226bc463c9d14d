"""Delete my data: what one person wrote and judged is gone; that it happened is kept.

What others need to stay is emptied instead: an attack that was rated keeps its numbers, an account
its place. Snapshots that left before say so in `puna.store.leaving.snapshots`. Copies that were
made of the database, also the one before a migration, are the administrator's to remove.
"""

from collections import Counter
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from puna.store.faults import Conflict, Missing
from puna.store.store import now
from puna.store.tables import (
    Account,
    Annotation,
    Attack,
    Audit,
    Choice,
    Conversation,
    Desk,
    Draft,
    Erasure,
    Invite,
    Item,
    Login,
    Qualification,
    Replayed,
    Reply,
    Review,
    Severity,
    Task,
    Thumb,
    Turn,
)

GONE = "gone"  # what stands where a text was that must not be empty


def erase(session: Session, account_id: int) -> dict[str, int]:
    """Delete a person's data for good; returns how much of each kind there was.

    Missing: no such person, or erased before. Conflict: it is the last administrator.
    """
    account = session.get(Account, account_id)
    if account is None or account.erased is not None:
        raise Missing
    _not_the_last(session, account)
    counts: Counter[str] = Counter()
    _empty_attacks(session, account_id, counts)
    _empty_talk(session, account_id, counts)
    _take_back_judgements(session, account_id, counts)
    _empty_own_items(session, account_id, counts)
    _empty_notes(session, account, counts)
    _remove(session, account_id, counts)
    account.name = account.folded = f"#{account.id}"
    account.password = None
    account.disabled = account.disabled or now()
    account.erased = now()
    found = {name: count for name, count in sorted(counts.items()) if count}
    session.add(Erasure(account_id=account_id, counts=found, created=now()))
    session.flush()
    return found


def _not_the_last(session: Session, account: Account) -> None:
    others = session.scalar(
        select(func.count())
        .select_from(Account)
        .where(Account.role == "admin", Account.disabled.is_(None), Account.id != account.id)
    )
    if account.role == "admin" and account.disabled is None and not others:
        raise Conflict("the last administrator cannot be erased: make somebody else one first")


def _change(session: Session, statement: Any) -> int:
    """How many rows a statement changed. Objects that the session holds are read anew."""
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return int(result.rowcount)  # type: ignore[attr-defined]


def _empty_attacks(session: Session, account_id: int, counts: Counter[str]) -> None:
    attacks = select(Attack.id).where(Attack.account_id == account_id)
    severities = select(Severity.id).where(Severity.attack_id.in_(attacks))
    talks = select(Attack.conversation_id).where(Attack.account_id == account_id)
    turns = select(Turn.id).where(Turn.conversation_id.in_(talks))
    _change(session, update(Replayed).where(Replayed.turn_id.in_(turns)).values(answer=""))
    emptied = {"dialog": {}, "answer": "", "reason": "", "state": "rejected", "changed": now()}
    own = or_(Draft.severity_id.in_(severities), Draft.account_id == account_id)
    counts["drafts"] += _change(session, update(Draft).where(own).values(**emptied))
    _change(session, update(Severity).where(Severity.attack_id.in_(attacks)).values(note=""))
    counts["attacks"] += session.scalar(select(func.count()).select_from(attacks.subquery())) or 0


def _empty_talk(session: Session, account_id: int, counts: Counter[str]) -> None:
    talks = select(Conversation.id).where(Conversation.account_id == account_id)
    emptied = {"content": "", "settings": {}, "figures": {}}
    counts["messages"] += _change(
        session, update(Turn).where(Turn.conversation_id.in_(talks)).values(**emptied)
    )
    counts["conversations"] += _change(
        session,
        update(Conversation)
        .where(Conversation.account_id == account_id)
        .values(title=GONE, system="", settings={}, deleted=now()),
    )
    for table, name in ((Thumb, "thumbs"), (Choice, "choices")):
        counts[name] += _change(session, delete(table).where(table.account_id == account_id))


def _take_back_judgements(session: Session, account_id: int, counts: Counter[str]) -> None:
    """Judgements and tasks go, and their items can be taken by somebody else."""
    own = select(Annotation.id).where(Annotation.account_id == account_id)
    counted = session.execute(
        select(Task.item_id, func.count())
        .where(Task.account_id == account_id, Task.state.in_(("leased", "done")))
        .group_by(Task.item_id)
    )
    for item_id, count in counted.all():
        item = session.get(Item, item_id)
        if item is not None:
            item.taken = max(0, item.taken - count)
    session.flush()
    _change(
        session,
        delete(Desk).where(or_(Desk.annotation_id.in_(own), Desk.account_id == account_id)),
    )
    counts["reviews of judgements"] += _change(
        session, delete(Review).where(Review.annotation_id.in_(own))
    )
    counts["judgements"] += _change(
        session, delete(Annotation).where(Annotation.account_id == account_id)
    )
    counts["tasks"] += _change(session, delete(Task).where(Task.account_id == account_id))


def _empty_own_items(session: Session, account_id: int, counts: Counter[str]) -> None:
    """Items that only this person was to judge hold what the person wrote."""
    emptied = {"dialog": {}, "answers": [], "expected": {}, "state": "closed"}
    counts["items"] += _change(
        session, update(Item).where(Item.only_id == account_id).values(**emptied)
    )


def _empty_notes(session: Session, account: Account, counts: Counter[str]) -> None:
    names = (account.name, account.folded)
    counts["review notes"] += _change(
        session, update(Review).where(Review.account_id == account.id).values(note="")
    )
    _change(session, update(Severity).where(Severity.account_id == account.id).values(note=""))
    _change(session, update(Invite).where(Invite.account_id == account.id).values(note=""))
    _change(session, update(Audit).where(Audit.object.in_(names)).values(object=f"#{account.id}"))
    counts["audit lines"] += _change(
        session,
        update(Audit).where(Audit.account_id == account.id).values(detail={}, address=""),
    )


def _remove(session: Session, account_id: int, counts: Counter[str]) -> None:
    for table, name in ((Qualification, "tests"), (Reply, "answers kept"), (Login, "logins")):
        counts[name] += _change(session, delete(table).where(table.account_id == account_id))
