"""What people think of answers in the chat: thumbs, and which of two answers is better."""

from dataclasses import dataclass

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from puna.store.faults import Refused
from puna.store.store import now
from puna.store.tables import Choice, Thumb, Turn
from puna.store.talk import conversation, show, storable, turn_of
from puna.text.dialog import STRENGTHS

GOOD = ("correct", "helpful", "clear", "well_written")
BAD = ("wrong", "unhelpful", "ignored_instruction", "too_long", "too_short", "unsafe", "refused")


@dataclass(frozen=True)
class Opinion:
    """A thumb, why, and how the person would have answered."""

    up: bool
    reasons: tuple[str, ...] = ()  # of GOOD or BAD
    comment: str = ""
    rewrite: str = ""


def thumb(session: Session, account_id: int, turn_id: int, opinion: Opinion) -> Thumb:
    """Keep what somebody thinks of an answer, in place of what they thought before."""
    turn = _answer(session, account_id, turn_id, "turn")
    known = GOOD if opinion.up else BAD
    for place, reason in enumerate(opinion.reasons):
        if reason not in known:
            raise Refused(f"reasons[{place}]", f"expected one of {', '.join(known)}")
    if opinion.rewrite.strip() and opinion.rewrite.strip() == turn.content.strip():
        raise Refused("rewrite", "is the answer itself")
    found = session.scalar(_thumbs(account_id).where(Thumb.turn_id == turn_id))
    if found is None:
        found = Thumb(turn_id=turn_id, account_id=account_id, created=now())
        session.add(found)
    found.up, found.reasons = opinion.up, list(dict.fromkeys(opinion.reasons))
    found.comment, found.rewrite = storable(opinion.comment), storable(opinion.rewrite)
    session.flush()
    return found


def take_back(session: Session, account_id: int, turn_id: int) -> None:
    """Remove a thumb, if there is one."""
    turn_of(session, account_id, turn_id)
    session.execute(delete(Thumb).where(Thumb.turn_id == turn_id, Thumb.account_id == account_id))


def thumbs_of(session: Session, account_id: int, number: int) -> dict[int, Thumb]:
    """A person's thumbs in a conversation, by message."""
    inside = select(Turn.id).where(Turn.conversation_id == number)
    found = session.scalars(_thumbs(account_id).where(Thumb.turn_id.in_(inside)))
    return {row.turn_id: row for row in found}


def choose(
    session: Session, account_id: int, chosen_id: int, rejected_id: int, strength: str
) -> Choice:
    """Keep which of two answers to the same message is better; that branch is then shown.

    A second judgement of the same two answers takes the first one's place.
    """
    chosen = _answer(session, account_id, chosen_id, "chosen_id")
    rejected = _answer(session, account_id, rejected_id, "rejected_id")
    if chosen.parent_id != rejected.parent_id or chosen.id == rejected.id:
        raise Refused("rejected_id", "expected another answer to the same message")
    if chosen.content.strip() == rejected.content.strip():
        raise Refused("rejected_id", "the two answers are equal")
    if strength not in STRENGTHS:
        raise Refused("strength", f"expected one of {', '.join(STRENGTHS)}")
    pair = (chosen_id, rejected_id)
    session.execute(
        delete(Choice).where(
            Choice.account_id == account_id,
            Choice.chosen_id.in_(pair),
            Choice.rejected_id.in_(pair),
        )
    )
    made = Choice(
        account_id=account_id,
        chosen_id=chosen_id,
        rejected_id=rejected_id,
        strength=strength,
        created=now(),
    )
    session.add(made)
    session.flush()
    show(session, account_id, chosen.conversation_id, chosen_id)
    return made


def choices_of(session: Session, account_id: int, number: int) -> list[Choice]:
    """A person's choices in a conversation, the oldest first."""
    inside = select(Turn.id).where(Turn.conversation_id == number)
    query = select(Choice).where(Choice.account_id == account_id, Choice.chosen_id.in_(inside))
    return list(session.scalars(query.order_by(Choice.id)))


def _answer(session: Session, account_id: int, number: int, field: str) -> Turn:
    turn = turn_of(session, account_id, number)
    conversation(session, account_id, turn.conversation_id)
    if turn.role != "assistant" or turn.state == "writing" or not turn.content.strip():
        raise Refused(field, "expected an answer that is over")
    return turn


def _thumbs(account_id: int) -> Select[Thumb]:
    return select(Thumb).where(Thumb.account_id == account_id)
