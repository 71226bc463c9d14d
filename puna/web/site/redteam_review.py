"""Red teaming, as reviewers see it: gamma, coverage, drafts, earlier prompts asked again."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.evaluation import robustness
from puna.evaluation.intervals import wilson
from puna.store import coverage, drafts, replays, severities
from puna.store.coverage import Work
from puna.store.faults import Missing
from puna.store.tables import Attack, Campaign, Replay, Replayed, Turn
from puna.web.failures import ApiError
from puna.web.schemas import Strict
from puna.web.site import answers
from puna.web.site.events import Events
from puna.web.site.markdown import rendered
from puna.web.site.redteam import LIMIT, Note, Text, draft_record, person
from puna.web.site.routes import Routes
from puna.web.site.site import Site, page, reply, site_of
from puna.web.site.viewer import Viewer
from puna.web.validate import read

routes = Routes()
AT_ONCE = 4  # earlier prompts that are asked at the same time
SHOWN = 50  # drafts of a page

Phrase = Annotated[str, StringConstraints(min_length=2, max_length=200)]


class Verdict(Strict):
    """What a reviewer decides about a draft."""

    state: Literal["draft", "approved", "rejected"]
    answer: Text = ""
    reason: Note = ""


class Again(Strict):
    """Which model is asked the violating prompts of the rounds before `before`."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    before: Annotated[int, Field(ge=2, le=1_000_000)]
    phrases: Annotated[list[Phrase], Field(max_length=32, default_factory=list)]


class Points(Strict):
    """How bad an answer is."""

    points: Annotated[int, Field(ge=1, le=5)]


@routes.get("/redteam/results", role="reviewer")
async def results_page(request: Request, viewer: Viewer) -> Response:
    """Gamma by round, the matrix, replays."""
    return page(request, viewer, "redteam_results")


@routes.get("/redteam/drafts", role="reviewer")
async def drafts_page(request: Request, viewer: Viewer) -> Response:
    """The queue of drafts."""
    return page(request, viewer, "redteam_drafts")


@routes.get("/redteam/replays/{id:int}", role="reviewer")
async def replay_page(request: Request, viewer: Viewer) -> Response:
    """The new answers of a replay, to be judged."""
    found = await site_of(request).read(_replay, request.path_params["id"])
    return page(request, viewer, "redteam_replay", replay=found, points=severities.POINTS)


@routes.get("/api/redteam/results", role="reviewer")
async def results(request: Request, viewer: Viewer) -> Response:
    """All figures, of one campaign or of all."""
    wanted = request.query_params.get("campaign", "")
    number = int(wanted) if wanted.isdecimal() and len(wanted) < 16 else None
    return reply(await site_of(request).read(_results, number))


@routes.get("/api/redteam/drafts", role="reviewer")
async def draft_list(request: Request, viewer: Viewer) -> Response:
    """Drafts in a state, the oldest first."""
    state = request.query_params.get("state", "draft")
    return reply(await site_of(request).read(_drafts, state, viewer.id))


@routes.post("/api/redteam/drafts/{id:int}/verdict", role="reviewer")
async def verdict(request: Request, viewer: Viewer) -> Response:
    """Approve a draft, reject it, or open it again."""
    asked, number = await read(request, Verdict, LIMIT), request.path_params["id"]
    draft = await site_of(request).write(
        drafts.decide, person(viewer), number, asked.state, asked.answer, asked.reason
    )
    return reply({"id": draft.id, "state": draft.state})


@routes.post("/api/redteam/replays", role="reviewer")
async def again(request: Request, viewer: Viewer) -> Response:
    """A new replay; it asks nothing yet."""
    asked, site = await read(request, Again, LIMIT), site_of(request)
    if asked.model not in site.service.models:
        raise ApiError(400, f"model: {asked.model!r} is not served here", "model")
    made = await site.write(replays.new_replay, viewer.id, asked.model, asked.before, asked.phrases)
    return reply({"id": made.id})


@routes.post("/api/redteam/replays/{id:int}/ask", role="reviewer")
async def ask(request: Request, viewer: Viewer) -> Response:
    """Ask what is not answered yet; events say how far it is. Who leaves can go on later."""
    site, number = site_of(request), request.path_params["id"]
    lines = await site.read(replays.waiting, number)
    found = await site.read(_replay, number)
    return Events(_asking(site, viewer, found["model"], [line.id for line in lines]))


@routes.get("/api/redteam/replays/{id:int}", role="reviewer")
async def replay(request: Request, viewer: Viewer) -> Response:
    """How far a replay is, and the next answers to judge."""
    return reply(await site_of(request).read(_queue, request.path_params["id"]))


@routes.put("/api/redteam/lines/{id:int}", role="reviewer")
async def mark_line(request: Request, viewer: Viewer) -> Response:
    """Judge a new answer to an earlier prompt."""
    asked, number = await read(request, Points, LIMIT), request.path_params["id"]
    line = await site_of(request).write(replays.mark_line, viewer.id, number, asked.points)
    return reply({"id": line.id, "points": line.points})


def _results(session: Session, number: int | None) -> dict[str, Any]:
    query = select(Campaign).where(Campaign.kind == "redteam", Campaign.state != "draft")
    campaigns = list(session.scalars(query.order_by(Campaign.id.desc())))
    chosen = next((c for c in campaigns if c.id == number), None)
    if number is not None and chosen is None:
        raise Missing
    done = coverage.work(session, number)
    shown = chosen or (campaigns[0] if campaigns else None)
    cells = coverage.matrix(shown, [w for w in done if w.campaign_id == shown.id]) if shown else []
    return {
        "campaigns": [{"id": c.id, "name": c.name} for c in campaigns],
        "campaign": number,
        "matrix_of": shown.name if shown else "",
        "gamma": _gamma(done).to_json(),
        "by": {
            "round": _by(done, lambda w: w.round),
            "risk": _by(done, lambda w: w.risk),
            "vector": _by(done, lambda w: w.vector),
            "model": _by(done, lambda w: f"{w.model} {w.version}".strip()),
        },
        "paper": {"gamma": robustness.PAPER, "rejected": robustness.REJECTED},
        "attempts": len(done),
        "prompts": sum(w.prompts for w in done),
        "unmarked": sum(w.answers - w.marked for w in done),
        "violations": [w.attack_id for w in reversed(done) if w.violating][:SHOWN],
        "unfinished": [w.attack_id for w in reversed(done) if w.answers > w.marked][:SHOWN],
        "cells": [cell.to_json() for cell in cells],
        "suggested": [[c.risk, c.vector] for c in coverage.suggestions(cells)],
        "newest_round": replays.newest_round(session),
        "replays": [_replay_record(session, r) for r in replays.replays(session)],
        "drafts": {state: len(drafts.drafts(session, state)) for state in drafts.STATES},
    }


def _gamma(done: Sequence[Work]) -> robustness.Gamma:
    entries = [(w.account_id, w.hours, w.violating) for w in done]
    return robustness.gamma(entries, np.random.default_rng(0))


def _by(done: Sequence[Work], name: Callable[[Work], int | str]) -> list[dict[str, Any]]:
    groups: dict[Any, list[Work]] = defaultdict(list)
    for one in done:
        groups[name(one)].append(one)
    return [{"name": key, **_gamma(groups[key]).to_json()} for key in sorted(groups)]


def _drafts(session: Session, state: str, viewer_id: int) -> dict[str, Any]:
    found = drafts.drafts(session, state)
    shown = [draft_record(session, draft) for draft in found[:SHOWN]]
    own = {draft.id for draft in found if draft.account_id == viewer_id}
    return {"total": len(found), "drafts": [d | {"own": d["id"] in own} for d in shown]}


def _replay(session: Session, number: int) -> dict[str, Any]:
    found = session.get(Replay, number)
    if found is None:
        raise Missing
    return _replay_record(session, found)


def _replay_record(session: Session, found: Replay) -> dict[str, Any]:
    standing = replays.standing(session, found.id)
    low, high = wilson(standing.rejected, standing.marked) if standing.marked else (None, None)
    return {
        "id": found.id,
        "model": found.model,
        "before": found.before,
        "phrases": found.phrases,
        "created": found.created,
        **vars(standing),
        "share": standing.rejected / standing.marked if standing.marked else None,
        "low": low,
        "high": high,
    }


def _queue(session: Session, number: int) -> dict[str, Any]:
    found = _replay(session, number)
    rows = replays.to_mark(session, number)
    return found | {"lines": [_line(session, line, attack) for line, attack in rows]}


def _line(session: Session, line: Replayed, attack: Attack) -> dict[str, Any]:
    """A new answer beside its prompt. What was said then is not shown: it would lead the mark."""
    talk = [m for m in replays.prompt_of(session, line) if m["role"] != "system"]
    return {
        "id": line.id,
        "risk": attack.risk,
        "vector": attack.vector,
        "messages": [message | {"html": rendered(message["content"])} for message in talk],
        "answer": rendered(line.answer),
        "rule": line.rule,
    }


async def _asking(
    site: Site, viewer: Viewer, model: str, lines: Sequence[int]
) -> AsyncGenerator[dict[str, Any]]:
    """A few prompts at a time; each answer is kept before the next are asked."""
    for start in range(0, len(lines), AT_ONCE):
        part = lines[start : start + AT_ONCE]
        asking = (_ask_one(site, viewer, model, line) for line in part)
        for failed in await asyncio.gather(*asking, return_exceptions=True):
            if failed is not None:
                raise failed
        yield {"answered": min(start + AT_ONCE, len(lines)), "of": len(lines)}


async def _ask_one(site: Site, viewer: Viewer, model: str, line_id: int) -> None:
    asked = await site.read(_question, line_id)
    if asked is None:
        return
    messages, settings = asked
    ask = answers.Ask(model=model, messages=messages, **settings)
    written = await answers.answer(site, f"account:{viewer.id}", ask)
    await site.write(replays.answered, line_id, written.text, written.version)


def _question(session: Session, line_id: int) -> tuple[list[dict[str, str]], dict[str, Any]] | None:
    """The prompt, and how the answer that violated was sampled: the new one is sampled alike."""
    line = session.get(Replayed, line_id)
    if line is None or line.state != "waiting":
        return None
    then = session.get_one(Turn, line.turn_id)
    return replays.prompt_of(session, line), dict(then.settings)
