"""Conversations as files: JSON with the whole tree, Markdown with the branch that is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.store.faults import Refused
from puna.store.store import now
from puna.store.tables import Conversation, Turn
from puna.store.talk import PURPOSE, branch, conversation, leaf_below, storable, title_of, turns_of

FIGURES = (
    "prompt_tokens",
    "completion_tokens",
    "seconds",
    "tokens_per_second",
    "context",
    "context_used",
)


def exported(session: Session, account_id: int, number: int | None = None) -> dict[str, Any]:
    """One of a person's conversations, or all, as a file of `puna.chat` holds them."""
    if number is not None:
        found = [conversation(session, account_id, number)]
    else:
        query = select(Conversation).where(
            Conversation.account_id == account_id,
            Conversation.purpose == PURPOSE,
            Conversation.deleted.is_(None),
        )
        found = list(session.scalars(query.order_by(Conversation.id)))
    records = [_record(one, turns_of(session, one.id)) for one in found]
    return {"format": "puna.chat", "version": 1, "conversations": records}


def _record(found: Conversation, turns: Sequence[Turn]) -> dict[str, Any]:
    places = {turn.id: place for place, turn in enumerate(turns, 1)}
    return {
        "title": found.title,
        "system": found.system,
        "model": found.model,
        "settings": found.settings,
        "leaf": places.get(found.leaf_id or 0),
        "turns": [_turn(turn, places) for turn in turns],
    }


def _turn(turn: Turn, places: Mapping[int, int]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": places[turn.id],
        "parent": places.get(turn.parent_id or 0),
        "role": turn.role,
        "content": turn.content,
        "state": "stopped" if turn.state == "writing" else turn.state,
        "created": turn.created,
    }
    if turn.role == "assistant":
        figures = {name: turn.figures[name] for name in FIGURES if name in turn.figures}
        record |= {"model": turn.model, "version": turn.version, "figures": figures}
        record["settings"] = turn.settings or None
    return record


def imported(session: Session, account_id: int, records: Sequence[Mapping[str, Any]]) -> list[int]:
    """Add the conversations of a file; returns their numbers.

    Refused: names the field, such as `conversations[0].turns[2].parent`; nothing is then added.
    """
    return [
        _bring(session, account_id, record, f"conversations[{place}]")
        for place, record in enumerate(records)
    ]


def _bring(session: Session, account_id: int, record: Mapping[str, Any], where: str) -> int:
    turns = record["turns"]
    _check_tree(turns, f"{where}.turns")
    found = Conversation(
        account_id=account_id,
        purpose=PURPOSE,
        title=" ".join(record["title"].split()) or title_of(turns[0]["content"]),
        system=record["system"],
        model=record["model"],
        settings=record["settings"],
        created=now(),
        changed=now(),
    )
    session.add(found)
    session.flush()
    numbers: dict[int, int] = {}
    for one in turns:
        row = Turn(
            conversation_id=found.id,
            parent_id=numbers.get(one["parent"] or 0),
            role=one["role"],
            content=storable(one["content"]),
            state=one["state"],
            model=one["model"],
            version=one["version"],
            settings=one["settings"] or {},
            figures=one["figures"] or {},
            created=one["created"] or now(),
        )
        session.add(row)
        session.flush()
        numbers[one["id"]] = row.id
    leaf = record["leaf"]
    if leaf is not None and leaf not in numbers:
        raise Refused(f"{where}.leaf", "expected the id of one of its turns")
    end = numbers[leaf] if leaf is not None else min(numbers.values())
    found.leaf_id = leaf_below(turns_of(session, found.id), end)
    return found.id


def _check_tree(turns: Sequence[Mapping[str, Any]], where: str) -> None:
    """Every message answers one that stands before it, of the other role; the first is a user's."""
    roles: dict[int | None, str] = {None: "assistant"}
    for place, turn in enumerate(turns):
        if turn["id"] in roles:
            raise Refused(f"{where}[{place}].id", "stands twice")
        if turn["parent"] not in roles:
            raise Refused(f"{where}[{place}].parent", "expected the id of a turn before it")
        if turn["role"] == roles[turn["parent"]]:
            what = f"{turn['role']!r} after {turn['role']!r}" if turn["parent"] else "is first"
            raise Refused(f"{where}[{place}].role", f"{what}, expected the other role")
        if turn["role"] == "user" and not turn["content"].strip():
            raise Refused(f"{where}[{place}].content", "is empty")
        roles[turn["id"]] = turn["role"]


def as_markdown(session: Session, account_id: int, number: int) -> str:
    """The branch that is shown, to be read or pasted elsewhere."""
    found: Conversation = conversation(session, account_id, number)
    parts = [f"# {_line(found.title)}"]
    if found.system:
        parts.append("**System prompt**\n\n" + _quoted(found.system))
    for turn in branch(turns_of(session, number), found.leaf_id):
        name = "You" if turn.role == "user" else f"{_line(turn.model) or 'Assistant'} (a machine)"
        text = _quoted(turn.content) if turn.role == "user" else turn.content
        parts.append(f"## {name}\n\n{text}")
        if turn.state in ("length", "stopped", "failed"):
            parts.append(f"*(the answer was cut: {turn.state})*")
    return "\n\n".join(parts) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))
