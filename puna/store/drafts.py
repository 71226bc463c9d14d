"""From a violation to training data: a safety prompt, and a safe answer that a reviewer approved.

The person who found it or a reviewer writes the answer that the model should have given (section
4.2.2); a reviewer approves it, mends it first, or rejects it with a reason (section A.5.2). What is
approved leaves by `puna.store.leaving`: as a dialogue where there is an answer, and as a prompt.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.store.attacks import Person
from puna.store.faults import Conflict, Missing, Refused
from puna.store.store import now
from puna.store.tables import Account, Draft

STATES = ("draft", "approved", "rejected")


def drafts(
    session: Session, state: str | None = None, account_id: int | None = None
) -> list[Draft]:
    """Drafts in a state (None: in any), of a person (None: of all), the oldest first.

    What a person who asked for deletion had written is not among them.
    """
    if state is not None and state not in STATES:
        raise Refused("state", f"{state!r} is unknown, expected one of {', '.join(STATES)}")
    query = select(Draft).order_by(Draft.id)
    if state is not None:
        query = query.where(Draft.state == state)
    if account_id is not None:
        query = query.where(Draft.account_id == account_id)
    return [draft for draft in session.scalars(query) if draft.dialog]


def write_answer(session: Session, person: Person, draft_id: int, answer: str) -> Draft:
    """The safe answer; "" takes it back. A rejected draft is a draft again.

    Missing: it is somebody else's. Conflict: it is approved.
    """
    draft = session.get(Draft, draft_id, with_for_update=True)
    own = draft is not None and draft.account_id == person.id
    if draft is None or not draft.dialog or not (person.reviews or own):
        raise Missing
    if draft.state == "approved":
        raise Conflict("this draft is approved already: a reviewer opens it again first")
    draft.answer, draft.state, draft.changed = answer.strip(), "draft", now()
    return draft


def decide(
    session: Session, person: Person, draft_id: int, state: str, answer: str, reason: str
) -> Draft:
    """A reviewer's verdict: approved with this answer (none: the prompt alone), rejected for a
    reason, or a draft again.

    Conflict: it is their own, and there is another reviewer. Refused: no reason is given.
    """
    draft = session.get(Draft, draft_id, with_for_update=True)
    if draft is None or not draft.dialog or not person.reviews:
        raise Missing
    if state not in STATES:
        raise Refused("state", f"{state!r} is unknown, expected one of {', '.join(STATES)}")
    if state == "rejected" and not reason.strip():
        raise Refused("reason", "expected why, for the person who wrote it")
    if state == "approved" and draft.account_id == person.id and _others(session, person.id):
        raise Conflict("this is your own: another reviewer approves it")
    if state != "rejected":
        draft.answer = answer.strip()
    draft.state, draft.reason, draft.changed = state, reason.strip(), now()
    draft.by_id = None if state == "draft" else person.id
    return draft


def _others(session: Session, person_id: int) -> bool:
    others = select(Account.id).where(
        Account.id != person_id,
        Account.role.in_(("reviewer", "admin")),
        Account.disabled.is_(None),
        Account.erased.is_(None),
    )
    return session.scalar(others.limit(1)) is not None
