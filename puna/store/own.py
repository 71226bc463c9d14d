"""What the store holds of one person, for that person to take along.

No digests and tokens, and not what a test's right answers are; of what others did only what names
the person.
"""

from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from puna.store.people import account_of
from puna.store.tables import (
    Account,
    Annotation,
    Attack,
    Audit,
    Base,
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
    Review,
    Severity,
    Task,
    Thumb,
    Turn,
)

# kind -> (the table, the column that says whose a row is)
OWN: dict[str, tuple[type[Base], str]] = {
    "account": (Account, "id"),
    "sessions": (Login, "account_id"),
    "links_used": (Invite, "account_id"),
    "invites_given": (Invite, "by_id"),
    "audit": (Audit, "account_id"),
    "conversations": (Conversation, "account_id"),
    "thumbs": (Thumb, "account_id"),
    "choices": (Choice, "account_id"),
    "own_items": (Item, "only_id"),
    "tasks": (Task, "account_id"),
    "annotations": (Annotation, "account_id"),
    "reviewing": (Desk, "account_id"),
    "reviews": (Review, "account_id"),
    "qualifications": (Qualification, "account_id"),
    "attacks": (Attack, "account_id"),
    "severities": (Severity, "account_id"),
    "replayed_marked": (Replayed, "by_id"),
    "drafts": (Draft, "account_id"),
    "drafts_approved": (Draft, "by_id"),
    "erasures": (Erasure, "account_id"),
}
# tables that name a person for what belongs to all, or hold answers that are kept elsewhere too
OTHERS = {
    *(("campaigns", "by_id"), ("batches", "by_id"), ("replays", "by_id"), ("snapshots", "by_id")),
    ("replies", "account_id"),
}
SECRET = frozenset({"sha256", "csrf", "password", "expected"})


def own_data(session: Session, account_id: int) -> dict[str, list[dict[str, Any]]]:
    """Every row of a person, by kind. Missing: nobody."""
    account_of(session, account_id)
    found = {}
    for kind, (table, column) in OWN.items():
        which = table.__table__.c[column] == account_id
        found[kind] = _rows(session, select(table.__table__).where(which))
    talks = select(Conversation.id).where(Conversation.account_id == account_id)
    found["messages"] = _rows(
        session, select(Turn.__table__).where(Turn.conversation_id.in_(talks))
    )
    return found


def _rows(session: Session, wanted: Select[Any]) -> list[dict[str, Any]]:
    rows = session.execute(wanted.order_by(wanted.selected_columns["id"])).mappings()
    return [{name: row[name] for name in row if name not in SECRET} for row in rows]
