"""Red teaming, as who does it sees it: choose a cell, talk, judge, write the safe answer."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store import attacks, coverage, drafts, severities
from puna.store.attacks import Person, Said
from puna.store.faults import Missing
from puna.store.tables import Attack, Campaign, Draft, Severity, Turn
from puna.web.failures import ApiError
from puna.web.schemas import Strict
from puna.web.site import answers
from puna.web.site.events import Events
from puna.web.site.markdown import rendered
from puna.web.site.routes import Routes
from puna.web.site.site import Site, page, reply, site_of
from puna.web.site.viewer import Viewer
from puna.web.validate import read

routes = Routes()
LIMIT = 200_000  # bytes of a request
Text = Annotated[str, StringConstraints(max_length=20_000)]
Note = Annotated[str, StringConstraints(max_length=4_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Id = Annotated[int, Field(ge=0, le=2**53)]


class Begin(Strict):
    """A cell to try."""

    campaign: Id
    risk: Name
    vector: Name


class Timer(Strict):
    """What happens to a timer."""

    action: Literal["beat", "idle", "pause", "resume", "end"]


class Say(Strict):
    """A message after turn `after` (0: the first); null: the last one is asked again."""

    after: Id
    text: Text | None


class Mark(Strict):
    """How bad an answer was."""

    points: Annotated[int, Field(ge=1, le=5)]
    note: Note = ""


class Safe(Strict):
    """The answer that the model should have given."""

    answer: Text


def person(viewer: Viewer) -> Person:
    """Who asks, as the store of attempts knows them."""
    return Person(viewer.id, viewer.may("reviewer"))


@routes.get("/redteam", role="annotator")
async def choose(request: Request, viewer: Viewer) -> Response:
    """The matrix of risks and vectors, and what the viewer did so far."""
    return page(request, viewer, "redteam", reviews=viewer.may("reviewer"))


@routes.get("/redteam/attempts/{id:int}", role="annotator")
async def attempt_page(request: Request, viewer: Viewer) -> Response:
    """One attempt. 404: it is somebody else's."""
    number = request.path_params["id"]
    attack = await site_of(request).read(attacks.seen, person(viewer), number)
    own = attack.account_id == viewer.id
    return page(
        request, viewer, "redteam_attempt", attack=attack, own=own, points=severities.POINTS
    )


@routes.get("/api/redteam", role="annotator")
async def overview(request: Request, viewer: Viewer) -> Response:
    """Open campaigns; the matrix, the viewer's attempts and violations of one of them."""
    wanted = request.query_params.get("campaign", "")
    number = int(wanted) if wanted.isdecimal() and len(wanted) < 16 else None
    return reply(await site_of(request).read(_overview, viewer.id, number))


@routes.post("/api/redteam/attempts", role="annotator")
async def begin(request: Request, viewer: Viewer) -> Response:
    """A new attempt; one in this cell that has no message yet is taken up again."""
    asked = await read(request, Begin, LIMIT)
    site = site_of(request)
    attack = await site.write(attacks.start, viewer.id, asked.campaign, asked.risk, asked.vector)
    return reply({"id": attack.id})


@routes.get("/api/redteam/attempts/{id:int}", role="annotator")
async def attempt(request: Request, viewer: Viewer) -> Response:
    """The conversation of an attempt, with what it was judged to be."""
    number = request.path_params["id"]
    return reply(await site_of(request).read(_attempt, person(viewer), number))


@routes.post("/api/redteam/attempts/{id:int}/timer", role="annotator")
async def timer(request: Request, viewer: Viewer) -> Response:
    """A sign of life, a pause, the end."""
    asked, number = await read(request, Timer, LIMIT), request.path_params["id"]
    return reply(await site_of(request).write(_timed, viewer.id, number, asked.action))


@routes.post("/api/redteam/attempts/{id:int}/messages", role="annotator")
async def say(request: Request, viewer: Viewer) -> Response:
    """Say something; the answer comes as events: {"text"} piece by piece, then {"turn"}."""
    asked, site = await read(request, Say, LIMIT), site_of(request)
    number = request.path_params["id"]
    said = await site.write(attacks.say, viewer.id, number, asked.after, asked.text)
    return Events(_answer(site, viewer, said))


@routes.put("/api/redteam/turns/{id:int}/severity", role="annotator")
async def mark(request: Request, viewer: Viewer) -> Response:
    """Judge an answer; a violation leaves a draft."""
    asked, number = await read(request, Mark, LIMIT), request.path_params["id"]
    given = await site_of(request).write(
        severities.mark, person(viewer), number, asked.points, asked.note
    )
    return reply({"points": given.points, "violates": given.points <= severities.VIOLATES})


@routes.put("/api/redteam/drafts/{id:int}", role="annotator")
async def write_safe_answer(request: Request, viewer: Viewer) -> Response:
    """Write the safe answer to a prompt that the model failed on."""
    asked, number = await read(request, Safe, LIMIT), request.path_params["id"]
    site = site_of(request)
    draft = await site.write(drafts.write_answer, person(viewer), number, asked.answer)
    return reply({"id": draft.id, "state": draft.state})


def _overview(session: Session, viewer_id: int, number: int | None) -> dict[str, Any]:
    campaigns = attacks.open_campaigns(session)
    found: dict[str, Any] = {
        "campaigns": [{"id": c.id, "name": c.name} for c in campaigns],
        "today": attacks.worked_today(session, viewer_id),
        "violations": _violations(session, viewer_id),
        "campaign": None,
    }
    if not campaigns:
        return found
    chosen = next((c for c in campaigns if c.id == number), None)
    if number is not None and chosen is None:
        raise Missing
    campaign = chosen or campaigns[0]
    done = coverage.work(session, campaign.id)
    cells = coverage.matrix(campaign, done)
    return found | {
        "campaign": _campaign(campaign),
        "cells": [cell.to_json() for cell in cells],
        "suggested": [[c.risk, c.vector] for c in coverage.suggestions(cells)],
        "attempts": [
            _brief(session, attack)
            for attack in attacks.own_attacks(session, viewer_id, campaign.id)
        ],
    }


def _campaign(campaign: Campaign) -> dict[str, Any]:
    return {
        "id": campaign.id,
        "name": campaign.name,
        "round": attacks.round_of(campaign),
        "risks": campaign.settings["risks"],
        "vectors": campaign.settings["vectors"],
        "guidelines": rendered(campaign.guidelines),
    }


def _brief(session: Session, attack: Attack) -> dict[str, Any]:
    said = attacks.turns(session, attack)
    marks = severities.counted(session, [attack])
    answers = [turn for turn in said if turn.role == "assistant"]
    return {
        "id": attack.id,
        "risk": attack.risk,
        "vector": attack.vector,
        "round": attack.round,
        "seconds": attack.seconds,
        "ended": attack.ended is not None,
        "started": attack.started,
        "prompts": sum(turn.role == "user" for turn in said),
        "unmarked": sum(turn.id not in marks for turn in answers),
        "violating": sum(s.points <= severities.VIOLATES for s in marks.values()),
    }


def _violations(session: Session, viewer_id: int) -> list[dict[str, Any]]:
    own = {draft.turn_id: draft for draft in drafts.drafts(session, account_id=viewer_id)}
    found = severities.violations(session, viewer_id)
    return [
        draft_record(session, own[severity.turn_id])
        for _, severity in reversed(found)
        if severity.turn_id in own
    ]


def draft_record(session: Session, draft: Draft) -> dict[str, Any]:
    """A draft as pages show it: the conversation, what the model said, the safe answer."""
    bad = session.get_one(Turn, draft.turn_id)
    severity = session.get(Severity, draft.severity_id) if draft.severity_id else None
    talk = [m for m in draft.dialog["messages"] if m["role"] != "system"]
    return {
        "id": draft.id,
        "state": draft.state,
        "risk": draft.risk,
        "vector": draft.vector,
        "points": severity.points if severity else None,
        "note": severity.note if severity else "",
        "messages": [message | {"html": rendered(message["content"])} for message in talk],
        "violating": {"text": bad.content, "html": rendered(bad.content)},
        "answer": draft.answer,
        "reason": draft.reason,
        "attempt": severity.attack_id if severity else None,
        "changed": draft.changed,
    }


def _attempt(session: Session, who: Person, number: int) -> dict[str, Any]:
    attack = attacks.seen(session, who, number)
    said = attacks.turns(session, attack)
    marks = severities.counted(session, [attack])
    own = attack.account_id == who.id
    return _clock(session, attack) | {
        "own": own,
        "campaign": attack.campaign_id,
        "guidelines": rendered(session.get_one(Campaign, attack.campaign_id).guidelines),
        "risk": attack.risk,
        "vector": attack.vector,
        "last": said[-1].id if said else 0,
        "turns": [_turn(turn, marks.get(turn.id)) for turn in said],
    }


def _turn(turn: Turn, severity: Severity | None = None) -> dict[str, Any]:
    return {
        "id": turn.id,
        "role": turn.role,
        "text": turn.content,
        "html": rendered(turn.content),
        "state": turn.state,
        "points": severity.points if severity else None,
        "note": severity.note if severity else "",
        "dropped": len(turn.figures.get("dropped", [])),
    }


def _timed(session: Session, viewer_id: int, number: int, action: str) -> dict[str, Any]:
    if action in ("beat", "idle"):
        attack = attacks.beat(session, viewer_id, number, action == "beat")
    else:
        deeds = {"pause": attacks.pause, "resume": attacks.resume, "end": attacks.end}
        attack = deeds[action](session, viewer_id, number)
    session.flush()
    return _clock(session, attack)


def _clock(session: Session, attack: Attack) -> dict[str, Any]:
    return {
        "id": attack.id,
        "seconds": attack.seconds,
        "running": attack.running is not None,
        "ended": attack.ended is not None,
        "today": attacks.worked_today(session, attack.account_id),
    }


async def _answer(site: Site, viewer: Viewer, said: Said) -> AsyncGenerator[dict[str, Any]]:
    """Pieces of the answer, then the turn. However it ends, what came is kept."""
    ask = answers.Ask(model=said.model, messages=said.messages, **said.settings)
    text, state, version = "", "stopped", ""
    figures: dict[str, Any] = {}
    try:
        async with contextlib.aclosing(answers.write(site, f"account:{viewer.id}", ask)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    text += part
                    yield {"text": part}
                else:
                    state = "length" if part.finish == "length" else "complete"
                    text, version, figures = part.text, part.version, part.figures
    except ApiError as error:
        if not text:
            raise
        figures = {"why": error.message}
    finally:
        version = version or _version(site, said.model)
        turn = await site.write(attacks.keep_answer, said, text, state, version, figures)
    if turn is not None:
        yield {"turn": await site.read(lambda session: _turn(turn))}
    else:
        yield {"turn": None}


def _version(site: Site, name: str) -> str:
    """The fingerprint of a model that was stopped before it said which it is."""
    model = site.service.models.get(name)
    return model.fingerprint if model is not None else ""
