"""Campaigns: the list, the form, one campaign with its batches, items and people, one item.

Reviewers read; an admin makes, changes, opens and closes. What can take long is uploaded as JSON.
"""

import random
import secrets
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store import batches, campaigns
from puna.store.batches import ITEM_STATES, PURPOSES, Upload
from puna.store.faults import Refused
from puna.store.rules import (
    AIMS,
    KINDS,
    MOST_GUIDELINES,
    MOST_VARIANTS,
    MOST_WORDS,
    Rules,
    Variant,
    defaults,
)
from puna.web.schemas import Strict
from puna.web.site.markdown import rendered
from puna.web.site.repeats import written_once
from puna.web.site.routes import Routes
from puna.web.site.site import page, reply, site_of
from puna.web.site.viewer import Viewer
from puna.web.validate import read

BODY = 1 << 18
UPLOAD = 8 << 20  # bytes of an upload; larger files are uploaded in parts
PAGE = 50  # items at a time

Line = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Lines = Annotated[list[Line], Field(max_length=MOST_WORDS)]
Name = Annotated[str, StringConstraints(max_length=200)]
Guidelines = Annotated[str, StringConstraints(max_length=MOST_GUIDELINES)]

routes = Routes()


class VariantBody(Strict):
    """A model, and how it is asked."""

    model: Name
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 512


class SettingsBody(Strict):
    """What only some kinds of campaigns have."""

    categories: Lines | None = None
    risks: Lines | None = None
    vectors: Lines | None = None
    review_share: float | None = None
    context_tokens: int | None = None
    round: int | None = None


class RulesBody(Strict):
    """A campaign's rules; their bounds are `puna.store.rules.check`'s."""

    name: Name
    kind: Name
    aim: Name
    guidelines: Guidelines
    overlap: int
    quota: int
    lease_seconds: float
    max_turns: int
    own_prompts: bool
    gold_share: float
    pass_mark: float
    variants: Annotated[list[VariantBody], Field(max_length=MOST_VARIANTS)]
    settings: SettingsBody

    def rules(self) -> Rules:
        """As the store has them."""
        row = {name: getattr(self, name) for name in type(self).model_fields}
        row["variants"] = [Variant(**vars(variant)) for variant in self.variants]
        row["settings"] = self.settings.model_dump(exclude_none=True)
        return Rules(**row)


class StateBody(Strict):
    """Open or close."""

    state: Literal["open", "closed"]


class UploadBody(Strict):
    """A batch: lines of prompts or of JSON (`puna.store.uploads`)."""

    text: Annotated[str, StringConstraints(max_length=UPLOAD)]
    purpose: Name = "normal"
    source: Name = ""
    system: Annotated[str, StringConstraints(max_length=20_000)] = ""
    category: Annotated[str, StringConstraints(max_length=64)] = ""
    batch: Annotated[int, Field(ge=1)] | None = None


class CopyBody(Strict):
    """An item becomes a gold or a test item."""

    purpose: Literal["gold", "qualification"]
    chosen: Annotated[int, Field(ge=0, le=1)]
    safety: Name | None = None


class RetryBody(Strict):
    """Failed items are prepared again: one, or all."""

    item: int | None = None


class TextBody(Strict):
    """Markdown that somebody writes."""

    text: Guidelines


@routes.get("/campaigns", role="reviewer")
async def campaigns_page(request: Request, viewer: Viewer) -> Response:
    """All campaigns."""
    return page(request, viewer, "campaigns", title="Campaigns")


@routes.get("/campaigns/new", role="admin")
async def new_page(request: Request, viewer: Viewer) -> Response:
    """The form of a new campaign."""
    return page(request, viewer, "campaign_form", title="New campaign", campaign=0)


@routes.get("/campaigns/{id:int}/edit", role="admin")
async def edit_page(request: Request, viewer: Viewer) -> Response:
    """The form of a campaign that there is."""
    found = await site_of(request).read(campaigns.find, request.path_params["id"])
    return page(request, viewer, "campaign_form", title=found.name, campaign=found.id)


@routes.get("/campaigns/{id:int}", role="reviewer")
async def campaign_page(request: Request, viewer: Viewer) -> Response:
    """One campaign."""
    found = await site_of(request).read(campaigns.find, request.path_params["id"])
    return page(request, viewer, "campaign", title=found.name, campaign=found.id)


@routes.get("/campaigns/{id:int}/items/{item:int}", role="reviewer")
async def item_page(request: Request, viewer: Viewer) -> Response:
    """One item with what was judged about it."""
    number, item = request.path_params["id"], request.path_params["item"]
    found = await site_of(request).read(campaigns.find, number)
    await site_of(request).read(batches.item, number, item)
    return page(request, viewer, "item", title=found.name, campaign=number, item=item)


@routes.get("/api/campaigns", role="reviewer")
async def listed(request: Request, viewer: Viewer) -> Response:
    """All campaigns with how far they are."""
    return reply({"campaigns": await site_of(request).read(campaigns.listed)})


@routes.get("/api/campaigns/defaults", role="admin")
async def default_rules(request: Request, viewer: Viewer) -> Response:
    """The rules that a new campaign of a kind begins with."""
    asked = request.query_params
    models = list(site_of(request).service.models)
    first = models[0] if models else ""
    found = defaults(asked.get("kind", KINDS[0]), asked.get("aim", AIMS[0]), first)
    return reply({"rules": found.columns(), "models": _models(request)})


def _models(request: Request) -> list[str]:
    return [name for model in site_of(request).service.models.values() for name in model.names]


@routes.post("/api/campaigns", role="admin")
async def create(request: Request, viewer: Viewer) -> Response:
    """A new campaign."""
    body = await read(request, RulesBody, BODY)

    def make(session: Session) -> dict[str, Any]:
        return {"id": campaigns.create(session, viewer.id, body.rules()).id}

    return await written_once(request, viewer, body, make)


@routes.get("/api/campaigns/{id:int}", role="reviewer")
async def one(request: Request, viewer: Viewer) -> Response:
    """A campaign: rules, batches, people, and whether its items are prepared now."""
    number = request.path_params["id"]

    def look(session: Session) -> dict[str, Any]:
        found = campaigns.find(session, number)
        return campaigns.described(found) | {
            "batches": campaigns.progress(session, number),
            "people": campaigns.people(session, number),
            "counts": campaigns.counted(session).get(number, campaigns.empty()),
        }

    found = await site_of(request).read(look)
    preparer = site_of(request).preparer
    found["paused"] = preparer.why_paused(number) if preparer else ""
    found["guidelines_html"] = rendered(found["guidelines"])
    return reply({"campaign": found, "models": _models(request)})


@routes.put("/api/campaigns/{id:int}", role="admin")
async def change(request: Request, viewer: Viewer) -> Response:
    """New rules for a campaign."""
    body, number = await read(request, RulesBody, BODY), request.path_params["id"]
    await site_of(request).write(campaigns.edit, viewer.id, number, body.rules())
    return reply({"id": number})


@routes.post("/api/campaigns/{id:int}/state", role="admin")
async def change_state(request: Request, viewer: Viewer) -> Response:
    """Open or close a campaign."""
    body, number = await read(request, StateBody, BODY), request.path_params["id"]
    await site_of(request).write(campaigns.change_state, viewer.id, number, body.state)
    _wake(request)
    return reply({"state": body.state})


@routes.post("/api/campaigns/{id:int}/batches", role="admin")
async def add_batch(request: Request, viewer: Viewer) -> Response:
    """A new batch, or more of one; says what was left out, and why."""
    body, number = await read(request, UploadBody, UPLOAD), request.path_params["id"]
    upload, rng = Upload(**vars(body)), random.Random(secrets.randbits(64))

    def make(session: Session) -> dict[str, Any]:
        added = batches.add(session, viewer.id, number, upload, rng)
        left = {"left_out": dict(added.left_out), "examples": added.examples}
        return {"batch": added.batch, "items": added.items, **left}

    answer = await written_once(request, viewer, body, make)
    _wake(request)
    return answer


@routes.get("/api/campaigns/{id:int}/items", role="reviewer")
async def items(request: Request, viewer: Viewer) -> Response:
    """Items, filtered by state, purpose and batch; `after` is the last id of the page before."""
    asked, number = request.query_params, request.path_params["id"]
    state, purpose = asked.get("state", ""), asked.get("purpose", "")
    for name, value, known in (("state", state, ITEM_STATES), ("purpose", purpose, PURPOSES)):
        if value and value not in known:
            raise Refused(name, f"{value!r} is unknown, expected one of {', '.join(known)}")
    after, batch = _number(asked.get("after"), "after"), _number(asked.get("batch"), "batch")

    def look(session: Session) -> list[dict[str, Any]]:
        campaigns.find(session, number)
        filters: dict[str, Any] = {"state": state, "purpose": purpose, "batch": batch}
        return batches.items(session, number, after=after or 0, limit=PAGE + 1, **filters)

    found = await site_of(request).read(look)
    return reply({"items": found[:PAGE], "more": len(found) > PAGE})


def _number(text: str | None, name: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Refused(name, f"{text[:20]!r} is no number")
    return int(text)


@routes.get("/api/campaigns/{id:int}/items/{item:int}", role="reviewer")
async def one_item(request: Request, viewer: Viewer) -> Response:
    """An item with its judgements and their reviews."""
    number, item = request.path_params["id"], request.path_params["item"]
    found = await site_of(request).read(batches.item, number, item)
    return reply({"item": with_html(found)})


def with_html(found: dict[str, Any]) -> dict[str, Any]:
    """The record of a dialogue and two answers, with each text as HTML beside it."""
    messages = [m | {"html": rendered(m["content"])} for m in found["dialog"]["messages"]]
    texts = [one if isinstance(one, dict) else {"text": one} for one in found["answers"]]
    answers = [one | {"html": rendered(one["text"])} for one in texts]
    return found | {"messages": messages, "answers": answers}


@routes.post("/api/campaigns/{id:int}/items/{item:int}/copy", role="admin")
async def copy_item(request: Request, viewer: Viewer) -> Response:
    """Make a gold or test item of an item."""
    body = await read(request, CopyBody, BODY)
    number, item = request.path_params["id"], request.path_params["item"]
    expected = {"chosen": body.chosen} | ({"safety": body.safety} if body.safety else {})
    rng = random.Random(secrets.randbits(64))
    copied = await site_of(request).write(
        batches.copy, viewer.id, number, item, body.purpose, expected, rng
    )
    return reply({"item": copied}, 201)


@routes.delete("/api/campaigns/{id:int}/items/{item:int}", role="admin")
async def withdraw(request: Request, viewer: Viewer) -> Response:
    """Give an item to nobody any more."""
    number, item = request.path_params["id"], request.path_params["item"]
    await site_of(request).write(batches.withdraw, viewer.id, number, item)
    return reply({"state": "closed"})


@routes.post("/api/campaigns/{id:int}/retry", role="admin")
async def retry(request: Request, viewer: Viewer) -> Response:
    """Prepare failed items again."""
    body, number = await read(request, RetryBody, BODY), request.path_params["id"]
    count = await site_of(request).write(batches.retry, viewer.id, number, body.item)
    _wake(request)
    return reply({"items": count})


@routes.post("/api/preview", role="admin")
async def preview(request: Request, viewer: Viewer) -> Response:
    """Guidelines as annotators will see them."""
    body = await read(request, TextBody, BODY)
    return reply({"html": rendered(body.text)})


def _wake(request: Request) -> None:
    preparer = site_of(request).preparer
    if preparer:
        preparer.wake()
