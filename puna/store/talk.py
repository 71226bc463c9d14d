"""Conversations as trees: an edit is a sibling of the message, a retry a sibling of the answer.

What is shown of a tree is one branch, from its first message to `Conversation.leaf_id`. An answer
is stored while it is written, so that what somebody has seen is there after a crash.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, func, or_, select, update
from sqlalchemy.orm import Session

from puna.store.faults import Conflict, Missing, Refused
from puna.store.store import now
from puna.store.tables import Conversation, Turn

PURPOSE = "chat"
TITLE = 200  # characters
CUT = ("length", "stopped", "failed")  # states of answers that can be gone on with
TURNS = 4000  # messages of one conversation, all branches together


@dataclass(frozen=True)
class Found:
    """One line of the history: a conversation, and its newest message's number."""

    id: int
    title: str
    model: str
    changed: float
    last: int


def conversation(session: Session, account_id: int, number: int, deleted: bool = False) -> Any:
    """A person's conversation. Missing: there is none, it is another's, or it was deleted."""
    found = session.get(Conversation, number)
    if found is None or found.account_id != account_id or found.purpose != PURPOSE:
        raise Missing
    if (found.deleted is not None) != deleted:
        raise Missing
    return found


def turns_of(session: Session, number: int) -> list[Turn]:
    """All messages of a conversation, the oldest first."""
    query = select(Turn).where(Turn.conversation_id == number).order_by(Turn.id)
    return list(session.scalars(query))


def turn_of(session: Session, account_id: int, number: int) -> Turn:
    """A message of one of the person's conversations. Missing: there is none."""
    found = session.get(Turn, number)
    if found is None:
        raise Missing
    conversation(session, account_id, found.conversation_id)
    return found


def branch(turns: Iterable[Turn], leaf_id: int | None) -> list[Turn]:
    """The messages from the first to `leaf_id`; none without one."""
    by_id = {turn.id: turn for turn in turns}
    found: list[Turn] = []
    while leaf_id is not None:
        found.append(by_id[leaf_id])
        leaf_id = by_id[leaf_id].parent_id
    return found[::-1]


def siblings(turns: Iterable[Turn], turn: Turn) -> list[int]:
    """The messages that stand in the same place, the oldest first; this one is among them."""
    return [other.id for other in turns if other.parent_id == turn.parent_id]


def leaf_below(turns: Sequence[Turn], number: int) -> int:
    """The end of the branch through a message: its newest child, that one's newest child, ..."""
    newest = {turn.parent_id: turn.id for turn in turns}
    while number in newest:
        number = newest[number]
    return number


def history(
    session: Session, account_id: int, words: str = "", before: int | None = None, limit: int = 40
) -> list[Found]:
    """A person's conversations, the one with the newest message first.

    words: what the title or a message holds; before: only those whose newest message is older.
    """
    last = func.max(Turn.id)
    query = (
        select(Conversation, last)
        .join(Turn, Turn.conversation_id == Conversation.id)
        .where(Conversation.account_id == account_id, Conversation.purpose == PURPOSE)
        .where(Conversation.deleted.is_(None))
        .group_by(Conversation.id)
        .order_by(last.desc())
        .limit(limit)
    )
    if words.strip():
        texts = select(Turn.conversation_id).where(_holds(Turn.content, words.strip()))
        query = query.where(
            or_(_holds(Conversation.title, words.strip()), Conversation.id.in_(texts))
        )
    if before is not None:
        query = query.having(last < before)
    rows = session.execute(query)
    return [Found(found.id, found.title, found.model, found.changed, top) for found, top in rows]


def _holds(column: Any, words: str) -> ColumnElement[bool]:
    """Whether a text holds the words, in any case; SQLite itself knows that of ASCII only."""
    forms = {words, words.lower(), words.upper(), words.capitalize(), words.title()}
    exact = [column.contains(form, autoescape=True) for form in sorted(forms)]
    return or_(column.icontains(words, autoescape=True), *exact)


def start(
    session: Session, account_id: int, model: str, system: str, settings: dict[str, Any]
) -> Conversation:
    """A new conversation, without a title until something is said."""
    made = Conversation(
        account_id=account_id,
        purpose=PURPOSE,
        title="",
        system=system,
        model=model,
        settings=settings,
        created=now(),
        changed=now(),
    )
    session.add(made)
    session.flush()
    return made


def say(session: Session, found: Conversation, parent_id: int | None, text: str) -> Turn:
    """What the person says, after an answer or, without `parent_id`, at the beginning."""
    if parent_id is not None:
        parent = _inside(session, found, parent_id, "assistant")
        if parent.state == "writing":
            raise Conflict("the answer before it is still being written")
    turn = _add(session, found, parent_id, role="user", content=text, state="complete")
    if not found.title:
        found.title = title_of(text)
    return turn


def begin(
    session: Session,
    found: Conversation,
    parent_id: int,
    model: str,
    version: str,
    settings: dict[str, Any],
) -> Turn:
    """An answer that is about to be written, to a message of the person."""
    _inside(session, found, parent_id, "user")
    found.model, found.settings = model, settings
    what = {"model": model, "version": version, "settings": settings}
    return _add(session, found, parent_id, role="assistant", content="", state="writing", **what)


def keep(session: Session, number: int, text: str) -> None:
    """Store what is written of an answer so far."""
    session.execute(
        update(Turn)
        .where(Turn.id == number, Turn.state == "writing")
        .values(content=storable(text))
    )


def end(session: Session, number: int, text: str, state: str, figures: dict[str, Any]) -> None:
    """An answer is over: `state` is complete, length, stopped or failed."""
    session.execute(
        update(Turn)
        .where(Turn.id == number, Turn.state == "writing")
        .values(content=storable(text), state=state, figures=figures)
    )


def go_on(session: Session, account_id: int, number: int) -> Turn:
    """An answer that was cut is written again, after what is there. Conflict: it is not cut."""
    turn = turn_of(session, account_id, number)
    if turn.role != "assistant" or turn.state not in CUT or not turn.content.strip():
        raise Conflict("there is no answer here that was cut")
    answered = select(Turn.id).where(Turn.parent_id == turn.id).limit(1)
    if session.scalar(answered) is not None:
        raise Conflict("the conversation has gone on after this answer")
    turn.state = "writing"
    return turn


def show(session: Session, account_id: int, number: int, turn_id: int) -> Conversation:
    """Show the branch through a message."""
    found: Conversation = conversation(session, account_id, number)
    turns = turns_of(session, number)
    if turn_id not in {turn.id for turn in turns}:
        raise Missing
    found.leaf_id = leaf_below(turns, turn_id)
    return found


def change(
    session: Session,
    account_id: int,
    number: int,
    title: str | None = None,
    system: str | None = None,
) -> Conversation:
    """Give a conversation another title or system prompt."""
    found: Conversation = conversation(session, account_id, number)
    if title is not None:
        line = " ".join(title.split())[:TITLE]
        if not line:
            raise Refused("title", "expected at least one character")
        found.title = line
    if system is not None:
        found.system = system
    found.changed = now()
    return found


def delete(session: Session, account_id: int, number: int) -> None:
    """Take a conversation out of sight; `restore` brings it back."""
    conversation(session, account_id, number).deleted = now()


def restore(session: Session, account_id: int, number: int) -> None:
    """Bring back a deleted conversation."""
    conversation(session, account_id, number, deleted=True).deleted = None


def stop_all(session: Session) -> int:
    """Answers that nobody writes any more, as after a crash, are stopped; returns how many."""
    query = update(Turn).where(Turn.state == "writing").values(state="stopped")
    return cast("CursorResult[Any]", session.execute(query)).rowcount


def title_of(text: str) -> str:
    """The first words of a text, as a title."""
    line = " ".join(text[:1000].split())
    if len(line) <= 60:
        return line
    head = line[:60].rpartition(" ")[0] or line[:60]
    return f"{head} …"


def storable(text: str) -> str:
    """A text without NUL, which PostgreSQL refuses."""
    return text.replace("\0", "\ufffd")


def _inside(session: Session, found: Conversation, number: int, role: str) -> Turn:
    turn = session.get(Turn, number)
    if turn is None or turn.conversation_id != found.id:
        raise Missing
    if turn.role != role:
        raise Refused("parent_id", f"is a message of the {turn.role}, expected the {role}'s")
    return turn


def _add(session: Session, found: Conversation, parent_id: int | None, **fields: Any) -> Turn:
    count = select(func.count()).select_from(Turn).where(Turn.conversation_id == found.id)
    if (session.scalar(count) or 0) >= TURNS:
        raise Conflict(f"a conversation has at most {TURNS} messages; begin another")
    blank: dict[str, Any] = {"model": "", "version": "", "settings": {}, "figures": {}}
    turn = Turn(conversation_id=found.id, parent_id=parent_id, created=now(), **(blank | fields))
    session.add(turn)
    session.flush()
    found.leaf_id, found.changed = turn.id, now()
    return turn
