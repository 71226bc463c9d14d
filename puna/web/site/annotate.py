"""Annotation: a campaign is chosen, one task follows the other, a judgement is one request.

The answer to a judgement brings the task after the next, so the page always has one ahead.
"""

import asyncio
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store import judging, living, progress, work
from puna.store.faults import Conflict, Refused
from puna.store.judging import Judgement
from puna.store.work import Given, Nothing
from puna.text.dialog import BINS, STRENGTHS
from puna.web.schemas import Strict
from puna.web.site.markdown import rendered
from puna.web.site.repeats import Made, written, written_once
from puna.web.site.routes import Routes
from puna.web.site.site import page, reply, site_of
from puna.web.site.viewer import Viewer
from puna.web.validate import read

BODY = 1 << 18
Ids = Annotated[list[Annotated[int, Field(ge=1, lt=1 << 62)]], Field(max_length=8)]
Said = tuple[Given | Nothing, dict[str, Any] | None]

routes = Routes()
_html = lru_cache(maxsize=2048)(rendered)  # several people see each answer


class NextBody(Strict):
    """The tasks that the page has already."""

    beside: Ids = Field(default_factory=list)


class JudgementBody(Strict):
    """A judgement, in the order of the page."""

    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    chosen: Annotated[int, Field(ge=0, le=1)] | None = None
    strength: Literal[STRENGTHS] | None = None  # type: ignore[valid-type]
    safety: Literal[BINS] | None = None  # type: ignore[valid-type]
    rating: Annotated[int, Field(ge=-3, le=3)] | None = None
    comment: Annotated[str, StringConstraints(max_length=judging.MOST_COMMENT)] = ""
    seconds: Annotated[float, Field(ge=0, le=judging.MOST_SECONDS)] = 0.0
    beside: Ids = Field(default_factory=list)


class SkipBody(Strict):
    """Why a task is not judged."""

    reason: Annotated[str, StringConstraints(max_length=work.MOST_REASON)] = ""
    beside: Ids = Field(default_factory=list)


class RenewBody(Strict):
    """The tasks that the person has before them."""

    tasks: Ids


class EmptyBody(Strict):
    """A body that says nothing."""


class PromptBody(Strict):
    """A prompt of the person's own."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=living.MOST_TEXT)]
    category: Annotated[str, StringConstraints(max_length=200)] = ""


class MessageBody(Strict):
    """The next message of a conversation."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=living.MOST_TEXT)]


@routes.get("/annotate", role="annotator")
async def choose(request: Request, viewer: Viewer) -> Response:
    """The campaigns that are open."""
    found = await site_of(request).read(progress.campaigns_for, viewer.id)
    return page(request, viewer, "annotate", campaigns=found, campaign=None)


@routes.get("/annotate/{campaign:int}", role="annotator")
async def workplace(request: Request, viewer: Viewer) -> Response:
    """The tasks of one campaign."""
    found = await site_of(request).read(work.campaign_of, _number(request, "campaign"))
    guidelines = await asyncio.to_thread(_html, found.guidelines)
    values = {"campaign": found, "guidelines": guidelines}
    return page(request, viewer, "annotate", campaigns=[], **values)


@routes.get("/api/annotate", role="annotator")
async def campaigns(request: Request, viewer: Viewer) -> Response:
    """The campaigns that are open, with what the person did in each."""
    return reply({"campaigns": await site_of(request).read(progress.campaigns_for, viewer.id)})


@routes.get("/api/annotate/{campaign:int}", role="annotator")
async def standing(request: Request, viewer: Viewer) -> Response:
    """How far the person is; `west`: minutes that their clock is behind UTC."""
    number, west = _number(request, "campaign"), _west(request)

    def look(session: Session) -> dict[str, Any]:
        campaign = work.campaign_of(session, number)
        return {
            **progress.reached(session, viewer.id, campaign),
            **progress.diligence(session, viewer.id, west),
            "test": progress.test_of(session, viewer.id, campaign),
        }

    return reply(await site_of(request).read(look))


@routes.post("/api/annotate/{campaign:int}/next", role="annotator")
async def next_task(request: Request, viewer: Viewer) -> Response:
    """The task that comes next, beside those that the page has."""
    body, number = await read(request, NextBody, BODY), _number(request, "campaign")
    found = await site_of(request).write(_next, viewer.id, number, body.beside)
    return reply(await _told(found))


@routes.post("/api/annotate/tasks/{task:int}/judgement", role="annotator")
async def judge(request: Request, viewer: Viewer) -> Response:
    """Take in a judgement, and give out the next task."""
    body, task = await read(request, JudgementBody, BODY), _number(request, "task")
    said = Judgement(**body.model_dump(exclude={"beside"}))

    def make(session: Session) -> Made:
        taken = judging.submit(session, viewer.id, task, said)
        return {
            "annotation": taken.annotation,
            "campaign": taken.campaign,
            "excluded": taken.excluded,
            "may_go_on": taken.may_go_on,
            "passed": taken.passed,
        }

    def then(session: Session, made: Made) -> Said:
        return _next(session, viewer.id, made["campaign"], body.beside)

    made, found = await written(request, viewer, body, make, then)
    return reply(made | await _told(found))


@routes.post("/api/annotate/tasks/{task:int}/skip", role="annotator")
async def skip(request: Request, viewer: Viewer) -> Response:
    """Give a task back, and give out the next."""
    body, task = await read(request, SkipBody, BODY), _number(request, "task")

    def make(session: Session) -> Made:
        return {"campaign": work.skip(session, viewer.id, task, body.reason)}

    def then(session: Session, made: Made) -> Said:
        return _next(session, viewer.id, made["campaign"], body.beside)

    made, found = await written(request, viewer, body, make, then)
    return reply(made | await _told(found))


@routes.post("/api/annotate/tasks/{task:int}/again", role="annotator")
async def again(request: Request, viewer: Viewer) -> Response:
    """Take a task again that was skipped, or whose lease ran out."""
    await read(request, EmptyBody, BODY)
    task = _number(request, "task")

    def back(session: Session) -> Said:
        work.renew(session, viewer.id, task)
        return _shown(session, viewer.id, task)

    return reply(await _told(await site_of(request).write(back)))


@routes.post("/api/annotate/{campaign:int}/renew", role="annotator")
async def renew(request: Request, viewer: Viewer) -> Response:
    """Hold tasks longer: the seconds of each lease, or why it is gone."""
    body = await read(request, RenewBody, BODY)

    def hold(session: Session) -> dict[str, Any]:
        left: dict[str, float] = {}
        gone: dict[str, str] = {}
        for task in body.tasks:
            try:
                left[str(task)] = work.renew(session, viewer.id, task)
            except Conflict as error:
                gone[str(task)] = str(error)
        return {"left": left, "gone": gone}

    return reply(await site_of(request).write(hold))


@routes.post("/api/annotate/{campaign:int}/undo", role="annotator")
async def undo(request: Request, viewer: Viewer) -> Response:
    """Take the last judgement back: its task, with what was said."""
    body, number = await read(request, EmptyBody, BODY), _number(request, "campaign")

    def make(session: Session) -> Made:
        return {"undone": judging.undo(session, viewer.id, number)}

    def then(session: Session, made: Made) -> Said:
        return _shown(session, viewer.id, made["undone"])

    made, found = await written(request, viewer, body, make, then)
    return reply(made | await _told(found))


@routes.post("/api/annotate/{campaign:int}/prompts", role="annotator")
async def prompt(request: Request, viewer: Viewer) -> Response:
    """Begin a conversation of one's own; its answers come later."""
    body, number = await read(request, PromptBody, BODY), _number(request, "campaign")

    def make(session: Session) -> Made:
        made = living.write_prompt(session, viewer.id, number, body.text, body.category)
        return {"item": made}

    answer = await written_once(request, viewer, body, make)
    _wake(request)
    return answer


@routes.post("/api/annotate/tasks/{task:int}/message", role="annotator")
async def message(request: Request, viewer: Viewer) -> Response:
    """Go on with the chosen answer; the two new answers come later."""
    body, task = await read(request, MessageBody, BODY), _number(request, "task")

    def make(session: Session) -> Made:
        return {"item": living.go_on(session, viewer.id, task, body.text)}

    answer = await written_once(request, viewer, body, make)
    _wake(request)
    return answer


@routes.get("/api/annotate/{campaign:int}/waiting", role="annotator")
async def waiting(request: Request, viewer: Viewer) -> Response:
    """One's own conversations that wait for answers, and why they still do."""
    number = _number(request, "campaign")
    found = await site_of(request).read(living.waiting_for, viewer.id, number)
    preparer = site_of(request).preparer
    return reply({"waiting": found, "away": preparer.why_paused(number) if preparer else ""})


@routes.delete("/api/annotate/waiting/{item:int}", role="annotator")
async def drop(request: Request, viewer: Viewer) -> Response:
    """Give up a conversation that waits; its last message comes back."""
    text = await site_of(request).write(living.drop, viewer.id, _number(request, "item"))
    return reply({"text": text})


def _number(request: Request, name: str) -> int:
    number: int = request.path_params[name]
    if number >= 1 << 62:
        raise Refused(name, "is too large")
    return number


def _west(request: Request) -> int:
    text = request.query_params.get("west", "0")
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 4 or int(digits) > 1440:
        raise Refused("west", f"{text[:20]!r}, expected -1440 to 1440")
    return int(text)


def _wake(request: Request) -> None:
    preparer = site_of(request).preparer
    if preparer:
        preparer.wake()


def _next(session: Session, account_id: int, campaign_id: int, beside: list[int]) -> Said:
    found = work.next_task(session, account_id, campaign_id, beside)
    if isinstance(found, Nothing):
        return found, None
    return found, judging.taken_back(session, found.task)


def _shown(session: Session, account_id: int, task_id: int) -> Said:
    """A task that the person holds; nothing if they do not any more."""
    try:
        task, item, _ = work.leased(session, account_id, task_id)
    except Conflict as error:
        return Nothing("gone", str(error)), None
    return work.shown(session, task, item), judging.taken_back(session, task.id)


async def _told(found: Said) -> dict[str, Any]:
    """A task as JSON, or why there is none."""
    given, before = found
    if isinstance(given, Nothing):
        return {"task": None, "nothing": {"code": given.code, "message": given.message}}
    texts = [*(said["content"] for said in given.messages), *given.answers]
    shown = await asyncio.to_thread(lambda: [_html(text) for text in texts])
    roles = [said["role"] for said in given.messages]
    said = [
        {"role": role, "text": text, "html": html}
        for role, text, html in zip(roles, texts, shown, strict=False)
    ]
    answers = [
        {"text": text, "html": html}
        for text, html in zip(given.answers, shown[len(roles) :], strict=True)
    ]
    return {
        "task": {
            "id": given.task,
            "digest": given.digest,
            "left": given.left,
            "test": given.test,
            "mine": given.mine,
            "turns": given.turns,
            "messages": said,
            "answers": answers,
            "before": before,
        },
        "nothing": None,
    }
