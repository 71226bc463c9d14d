"""What the chat gives: comparisons, dialogues, ratings, from conversations that are not deleted.

A comparison comes from two answers to the same message, of which one person rated one up and the
other down ("better"); from a rewrite, better than the answer that it takes the place of; from a
choice side by side, with its strength.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.errors import InputError
from puna.store.tables import Choice, Conversation, Thumb, Turn
from puna.text.dialog import Dialog, Message, Preference, Role

DONE = ("complete", "length")


def person(account_id: int) -> str:
    """The name that an account has in data."""
    return f"person-{account_id}"


class Talks:
    """Conversations, each read once and kept while its turns are asked for."""

    def __init__(self, session: Session) -> None:
        """Of what this session sees."""
        self._session = session
        self._number = 0
        self._talk: Conversation | None = None
        self._turns: dict[int, Turn] = {}

    def of(self, number: int) -> tuple[Conversation | None, dict[int, Turn]]:
        """The conversation, and its turns by id."""
        if number != self._number:
            self._number = number
            self._talk = self._session.get(Conversation, number)
            query = select(Turn).where(Turn.conversation_id == number).order_by(Turn.id)
            self._turns = {turn.id: turn for turn in self._session.scalars(query)}
        return self._talk, self._turns

    def branch(self, turn: Turn) -> list[Turn]:
        """The message, the one that it answers, and so on up to the first."""
        _, turns = self.of(turn.conversation_id)
        found: list[Turn] = []
        here: Turn | None = turn
        while here is not None and len(found) <= len(turns):
            found.append(here)
            here = turns.get(here.parent_id) if here.parent_id else None
        return found

    def until(self, turn: Turn) -> Dialog | None:
        """The branch from the first message to this one; None if it is not a dialogue."""
        messages = [Message(_role(here.role), here.content) for here in self.branch(turn)]
        talk, _ = self.of(turn.conversation_id)
        if talk is not None and talk.system.strip():
            messages.append(Message("system", talk.system))
        if any(not message.content.strip() for message in messages[1:]):
            return None
        try:
            return Dialog(tuple(reversed(messages)), f"turn-{turn.id}", {"safety": False})
        except InputError:
            return None

    def before(self, answer: Turn) -> Dialog | None:
        """The dialogue that this answer is to; None if it is not one."""
        dialog = self.until(answer)
        if dialog is None or dialog.ends_with_user:
            return None
        return dialog.prompt()


def _role(name: str) -> Role:
    return "assistant" if name == "assistant" else "user"


def _variant(turn: Turn) -> dict[str, Any]:
    settings = {name: turn.settings[name] for name in _SAMPLING if name in turn.settings}
    return {"model": turn.model, "version": turn.version, **settings}


_SAMPLING = ("temperature", "top_p", "max_tokens", "seed")


def _thumbs(session: Session) -> Iterator[tuple[Thumb, Turn]]:
    """Thumbs of conversations that are there, in order of conversation and thumb."""
    query = (
        select(Thumb, Turn)
        .join(Turn, Turn.id == Thumb.turn_id)
        .join(Conversation, Conversation.id == Turn.conversation_id)
        .where(Conversation.deleted.is_(None), Conversation.purpose == "chat")
        .order_by(Turn.conversation_id, Thumb.id)
    )
    yield from ((row[0], row[1]) for row in session.execute(query))


def comparisons(session: Session, left_out: Counter[str]) -> Iterator[Preference]:
    """Comparisons by thumbs, by rewrites, by choices side by side."""
    talks = Talks(session)
    asked: dict[tuple[int, int | None], list[tuple[Thumb, Turn]]] = {}
    for thumb, turn in _thumbs(session):
        if thumb.rewrite.strip():
            made = _pair(talks, "rewrite", thumb.id, thumb.account_id, None, turn, left_out)
            yield from _rewritten(made, thumb, turn, left_out)
        asked.setdefault((thumb.account_id, turn.parent_id), []).append((thumb, turn))
    for (account_id, _), judged in asked.items():
        for up, chosen in judged:
            for down, rejected in judged:
                if up.up and not down.up:
                    dialog = _pair(talks, "thumb", up.id, account_id, chosen, rejected, left_out)
                    yield from _compared(dialog, chosen, rejected, "better", account_id, left_out)
    yield from _choices(session, talks, left_out)


def _choices(session: Session, talks: Talks, left_out: Counter[str]) -> Iterator[Preference]:
    for choice in session.scalars(select(Choice).order_by(Choice.id)):
        chosen = session.get(Turn, choice.chosen_id)
        rejected = session.get(Turn, choice.rejected_id)
        assert chosen is not None and rejected is not None  # by the database's references
        talk, _ = talks.of(rejected.conversation_id)
        if talk is None or talk.deleted is not None:
            left_out["conversation deleted"] += 1
            continue
        who = choice.account_id
        dialog = _pair(talks, "choice", choice.id, who, chosen, rejected, left_out)
        yield from _compared(dialog, chosen, rejected, choice.strength, who, left_out)


def _pair(
    talks: Talks,
    kind: str,
    number: int,
    account_id: int,
    chosen: Turn | None,
    rejected: Turn,
    left_out: Counter[str],
) -> Dialog | None:
    """The dialogue that two answers are to, under the pair's own id; None: counted as left out."""
    unfinished = rejected.state not in DONE or (chosen is not None and chosen.state not in DONE)
    dialog = None if unfinished else talks.before(rejected)
    if unfinished:
        left_out["answer not finished"] += 1
    elif dialog is None:
        left_out["conversation not in turns"] += 1
    elif chosen is not None and not _same_question(talks.before(chosen), dialog):
        left_out["answers to different messages"] += 1
    else:
        tags = {**dialog.tags, "source": "chat", "by": kind}
        return Dialog(dialog.messages, f"{kind}-{number}", tags)
    return None


def _same_question(one: Dialog | None, other: Dialog) -> bool:
    """Whether two answers, maybe of two conversations side by side, are to the same."""
    return one is not None and one.messages == other.messages


def _rewritten(
    dialog: Dialog | None, thumb: Thumb, turn: Turn, left_out: Counter[str]
) -> Iterator[Preference]:
    if dialog is None:
        return
    if thumb.rewrite.strip() == turn.content.strip():
        left_out["equal answers"] += 1
        return
    variants = {"chosen": {"model": "", "written_by": "person"}, "rejected": _variant(turn)}
    who = person(thumb.account_id)
    yield Preference(
        dialog, thumb.rewrite, turn.content, "better", None, who, "puna chat", variants
    )


def _compared(
    dialog: Dialog | None,
    chosen: Turn,
    rejected: Turn,
    strength: str,
    account_id: int,
    left_out: Counter[str],
) -> Iterator[Preference]:
    if dialog is None:
        return
    if chosen.content == rejected.content:
        left_out["equal answers"] += 1
        return
    if not chosen.content.strip() or not rejected.content.strip():
        left_out["empty answer"] += 1
        return
    variants = {"chosen": _variant(chosen), "rejected": _variant(rejected)}
    who = person(account_id)
    yield Preference(
        dialog, chosen.content, rejected.content, strength, None, who, "puna chat", variants
    )


def dialogs(session: Session, left_out: Counter[str]) -> Iterator[Dialog]:
    """The shown branch of each conversation up to its last answer that was rated up.

    A rewrite takes the place of its answer and ends the dialogue. A branch with an answer that
    was rated down and not rewritten is left out from there on.
    """
    talks = Talks(session)
    rated: dict[int, dict[int, Thumb]] = {}
    for thumb, turn in _thumbs(session):
        rated.setdefault(turn.conversation_id, {})[turn.id] = thumb
    for number in sorted(rated):
        end = _end(talks, number, rated[number])
        if end is None:
            left_out["no answer rated up in the branch that is shown"] += 1
            continue
        turn, rewrite = end
        dialog = talks.before(turn)
        if dialog is None:
            left_out["conversation not in turns"] += 1
            continue
        answers = [one for one in talks.branch(turn) if one.role == "assistant"]
        liked = [one for one in answers if one.id in rated[number] and rated[number][one.id].up]
        tags = {"kind": "dialog", "safety": False, "source": "chat"}
        if len(liked) < len(answers) - bool(rewrite):
            tags["last_only"] = True  # nobody has vouched for what was said before
        whole = Dialog(dialog.messages, f"conversation-{number}", tags)
        yield whole.with_answer(rewrite or turn.content)


def _end(talks: Talks, number: int, thumbs: dict[int, Thumb]) -> tuple[Turn, str] | None:
    """The answer that the dialogue ends with, and the rewrite that takes its place, if any."""
    talk, turns = talks.of(number)
    leaf = turns.get(talk.leaf_id or 0) if talk else None
    branch = talks.branch(leaf) if leaf else []
    found: tuple[Turn, str] | None = None
    for turn in reversed(branch):
        thumb = thumbs.get(turn.id)
        if thumb is None or turn.role != "assistant":
            continue
        if thumb.rewrite.strip():
            return turn, thumb.rewrite
        if not thumb.up:
            return found
        if turn.state in DONE and turn.content.strip():
            found = turn, ""
    return found


def thumbs(session: Session, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """Ratings of single answers, up or down."""
    talks = Talks(session)
    for thumb, turn in _thumbs(session):
        dialog = talks.before(turn)
        if dialog is None or not turn.content.strip():
            left_out["conversation not in turns"] += 1
            continue
        yield {
            "kind": "thumb",
            "id": f"turn-{turn.id}",
            "model": turn.model,
            "version": turn.version,
            "messages": dialog.to_json()["messages"],
            "answer": turn.content,
            "up": thumb.up,
            "reasons": thumb.reasons,
            "comment": thumb.comment,
            "annotator": person(thumb.account_id),
        }
