"""What the chat page is told: conversations, messages, models, bounds."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from sqlalchemy.orm import Session

from puna.store import opinions, talk
from puna.store.tables import Conversation, Thumb, Turn
from puna.web.service import Model, Service
from puna.web.site.chat_forms import Settings
from puna.web.site.markdown import rendered

Json = dict[str, Any]
shown = lru_cache(maxsize=512)(rendered)  # what was said does not change


def seen(session: Session, account_id: int, number: int) -> Json:
    """A conversation: the branch that is shown, and how many others there are at each message."""
    found: Conversation = talk.conversation(session, account_id, number)
    turns = talk.turns_of(session, number)
    path = talk.branch(turns, found.leaf_id)
    thumbs = opinions.thumbs_of(session, account_id, number)
    choices = opinions.choices_of(session, account_id, number)
    record = {
        **conversation_record(found),
        "leaf": found.leaf_id,
        "turns": [
            turn_record(turn, talk.siblings(turns, turn), thumbs.get(turn.id)) for turn in path
        ],
        "beside": None,
    }
    other = _beside(turns, path[-1], choices) if path else None
    if other is not None:
        record["beside"] = turn_record(other, talk.siblings(turns, other), thumbs.get(other.id))
    return record


def _beside(turns: list[Turn], last: Turn, choices: list[Any]) -> Turn | None:
    """The answer that stands beside the last one until one of them is chosen."""
    number = last.figures.get("beside")
    pair = {last.id, number}
    if any({choice.chosen_id, choice.rejected_id} == pair for choice in choices):
        return None
    return next((turn for turn in turns if turn.id == number), None)


def conversation_record(found: Conversation) -> Json:
    """What is known of a conversation besides its messages."""
    return {
        "id": found.id,
        "title": found.title,
        "system": found.system,
        "model": found.model,
        "settings": found.settings,
    }


def turn_record(turn: Turn, siblings: list[int], thumb: Thumb | None = None) -> Json:
    """A message; an answer also as HTML."""
    record: Json = {
        "id": turn.id,
        "parent": turn.parent_id,
        "role": turn.role,
        "text": turn.content,
        "state": turn.state,
        "siblings": siblings,
    }
    if turn.role == "assistant":
        record |= {
            "html": shown(turn.content),
            "model": turn.model,
            "version": turn.version,
            "settings": turn.settings,
            "figures": turn.figures,
            "thumb": thumb_record(thumb) if thumb else None,
        }
    return record


def thumb_record(thumb: Thumb) -> Json:
    """What somebody thinks of an answer."""
    return {
        "up": thumb.up,
        "reasons": thumb.reasons,
        "comment": thumb.comment,
        "rewrite": thumb.rewrite,
    }


def models_of(service: Service) -> Iterator[Json]:
    """Every model and adapter, whether it can be asked, and how much it can read at once."""
    for model in service.models.values():
        yield from (_model_record(name, model) for name in model.names)


def _model_record(name: str, model: Model) -> Json:
    ready = model.worker.ready
    return {
        "name": name,
        "ready": ready is not None,
        "gone": model.worker.given_up,
        "context": ready.hello.context if ready else None,
        "version": model.fingerprint if ready else None,
        "weights": ready.hello.kind if ready else None,
    }


def bounds() -> Json:
    """What each setting may be, and what it is where nobody says: as the server checks it."""
    found = {}
    for name, field in Settings.model_json_schema()["properties"].items():
        allowed = field if "type" in field else field["anyOf"][0]
        least = allowed.get("minimum", allowed.get("exclusiveMinimum"))
        most = allowed.get("maximum", allowed.get("exclusiveMaximum"))
        found[name] = {"min": least, "max": most, "default": field.get("default")}
    return found
