"""Reviewing: one judgement after the other, a key for each verdict; what annotators read of it."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store import reviews
from puna.store.faults import Refused
from puna.store.reviews import MOST_NOTE, Verdict
from puna.web.schemas import Strict
from puna.web.site.campaigns import with_html
from puna.web.site.markdown import rendered
from puna.web.site.routes import Routes
from puna.web.site.site import page, reply, site_of
from puna.web.site.viewer import Viewer
from puna.web.validate import read

BODY = 1 << 16

routes = Routes()


class Changes(Strict):
    """Corrections to a judgement; those that are there."""

    chosen: Annotated[int, Field(ge=0, le=1)] | None = None
    strength: Annotated[str, StringConstraints(max_length=32)] | None = None
    safety: Annotated[str, StringConstraints(max_length=32)] | None = None
    rating: Annotated[int, Field(ge=-3, le=3)] | None = None


class VerdictBody(Strict):
    """What a reviewer decides."""

    verdict: Literal["approved", "edited", "rejected"]
    note: Annotated[str, StringConstraints(max_length=MOST_NOTE)] = ""
    changes: Changes = Changes()


class QueueBody(Strict):
    """Of which campaign the next judgement is to be; none: of any."""

    campaign: Annotated[int, Field(ge=1)] | None = None


class ReadBody(Strict):
    """The last note that the person has read."""

    upto: Annotated[int, Field(ge=1)]


class Nothing(Strict):
    """A body that says nothing."""


@routes.get("/review", role="reviewer")
async def review_page(request: Request, viewer: Viewer) -> Response:
    """Where judgements are reviewed."""
    return page(request, viewer, "review", title="Review")


@routes.post("/api/review/next", role="reviewer")
async def next_one(request: Request, viewer: Viewer) -> Response:
    """The next judgement, laid before this reviewer; how many wait."""
    body = await read(request, QueueBody, BODY)

    def look(session: Session) -> dict[str, Any]:
        found = reviews.next_review(session, viewer.id, body.campaign)
        waiting = reviews.in_queue(session, viewer.id, body.campaign)
        return {"next": found, "waiting": waiting, "done": reviews.done_by(session, viewer.id)}

    told = await site_of(request).write(look)
    if told["next"]:
        told["next"] = with_html(told["next"])
    return reply(told)


@routes.post("/api/review/undo", role="reviewer")
async def undo(request: Request, viewer: Viewer) -> Response:
    """Take the last verdict back."""
    await read(request, Nothing, BODY)
    return reply({"annotation": await site_of(request).write(reviews.undo, viewer.id)})


@routes.post("/api/review/{id:int}", role="reviewer")
async def decide(request: Request, viewer: Viewer) -> Response:
    """A verdict about a judgement."""
    body, number = await read(request, VerdictBody, BODY), request.path_params["id"]
    changes = body.changes.model_dump(exclude_none=True)
    given = Verdict(body.verdict, body.note, changes)
    return reply({"review": await site_of(request).write(reviews.decide, viewer.id, number, given)})


@routes.get("/feedback", role="annotator")
async def feedback_page(request: Request, viewer: Viewer) -> Response:
    """What reviewers said about one's own work."""
    return page(request, viewer, "feedback", title="Feedback")


@routes.get("/api/feedback", role="annotator")
async def feedback(request: Request, viewer: Viewer) -> Response:
    """The notes of reviewers, the newest first; `before` is the last id of the page before."""
    text = request.query_params.get("before", "")
    if text and (not text.isascii() or not text.isdigit() or len(text) > 18):
        raise Refused("before", f"{text[:20]!r} is no number")

    def look(session: Session) -> dict[str, Any]:
        found = reviews.feedback(session, viewer.id, int(text) if text else None)
        return {"feedback": found, "unread": reviews.unread(session, viewer.id)}

    told = await site_of(request).read(look)
    for one in told["feedback"]:
        one["note_html"] = rendered(one["note"])
    told["feedback"] = [with_html(one) for one in told["feedback"]]
    return reply(told)


@routes.post("/api/feedback/read", role="annotator")
async def mark_read(request: Request, viewer: Viewer) -> Response:
    """The person has read everything up to a note."""
    body = await read(request, ReadBody, BODY)
    await site_of(request).write(reviews.mark_read, viewer.id, body.upto)
    return reply({"upto": body.upto})
