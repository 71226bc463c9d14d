"""Talking with a model: conversations, answers as they are written, what people think of them."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store import carrying, opinions, talk
from puna.store.faults import Conflict, Missing, Refused
from puna.store.tables import Conversation, Turn
from puna.text.dialog import STRENGTHS
from puna.web.failures import ApiError
from puna.web.site import chat_forms as forms
from puna.web.site.answers import Ask, Writing, begin
from puna.web.site.chat_view import (
    bounds,
    conversation_record,
    models_of,
    seen,
    thumb_record,
    turn_record,
)
from puna.web.site.routes import Routes
from puna.web.site.site import Site, page, reply, site_of
from puna.web.site.viewer import Viewer
from puna.web.site.writers import Told, Writer, Writers
from puna.web.validate import read

AT_ONCE = 6  # answers that are written for one person at the same time
PAGE = 40  # conversations of one page of the history

routes = Routes()
Json = dict[str, Any]


@routes.get("/chat", role="annotator")
async def chat(request: Request, viewer: Viewer) -> Response:
    """The page, with nothing said yet."""
    return _page(request, viewer, 0)


@routes.get("/chat/{number:int}", role="annotator")
async def one_chat(request: Request, viewer: Viewer) -> Response:
    """The page with a conversation."""
    number = _number(request)
    await site_of(request).read(talk.conversation, viewer.id, number)
    return _page(request, viewer, number)


def _page(request: Request, viewer: Viewer, number: int) -> Response:
    words = {"good": opinions.GOOD, "bad": opinions.BAD, "strengths": STRENGTHS}
    return page(request, viewer, "chat", number=number, **words)


@routes.get("/api/chat/options", role="annotator")
async def options(request: Request, viewer: Viewer) -> Response:
    """The models that can be asked, and the bounds of the settings."""
    return reply({"models": list(models_of(site_of(request).service)), "bounds": bounds()})


@routes.post("/api/chat/history", role="annotator")
async def history(request: Request, viewer: Viewer) -> Response:
    """A page of the person's conversations, or of those that hold some words."""
    asked = await read(request, forms.Search, forms.BODY)
    site = site_of(request)
    found = await site.read(talk.history, viewer.id, asked.words, asked.before, PAGE)
    more = found[-1].last if len(found) == PAGE else None
    return reply({"conversations": [vars(one) for one in found], "before": more})


@routes.get("/api/chat/conversations/{number:int}", role="annotator")
async def conversation(request: Request, viewer: Viewer) -> Response:
    """A conversation: the branch that is shown."""
    return reply(await site_of(request).read(seen, viewer.id, _number(request)))


@routes.put("/api/chat/conversations/{number:int}", role="annotator")
async def change(request: Request, viewer: Viewer) -> Response:
    """Give a conversation another title or system prompt."""
    asked = await read(request, forms.Change, forms.BODY)
    number = _number(request)
    found = await site_of(request).write(talk.change, viewer.id, number, asked.title, asked.system)
    return reply(conversation_record(found))


@routes.put("/api/chat/conversations/{number:int}/leaf", role="annotator")
async def leaf(request: Request, viewer: Viewer) -> Response:
    """Show another branch."""
    asked = await read(request, forms.Shown, forms.BODY)
    site, number = site_of(request), _number(request)
    await site.write(talk.show, viewer.id, number, asked.turn_id)
    return reply(await site.read(seen, viewer.id, number))


@routes.delete("/api/chat/conversations/{number:int}", role="annotator")
async def delete(request: Request, viewer: Viewer) -> Response:
    """Delete a conversation; what is being written in it stops."""
    site, number = site_of(request), _number(request)
    await site.write(talk.delete, viewer.id, number)
    for writer in writers_of(request).of(viewer.id):
        if writer.conversation_id == number:
            await writer.stop()
    return reply({"deleted": number})


@routes.post("/api/chat/conversations/{number:int}/restore", role="annotator")
async def restore(request: Request, viewer: Viewer) -> Response:
    """Bring a deleted conversation back."""
    await read(request, forms.Empty, forms.BODY)
    site, number = site_of(request), _number(request)
    await site.write(talk.restore, viewer.id, number)
    return reply(await site.read(seen, viewer.id, number))


@routes.post("/api/chat/ask", role="annotator")
async def ask(request: Request, viewer: Viewer) -> Response:
    """Say something, or have a message answered again; the answers as a stream of events."""
    asked = await read(request, forms.Asked, forms.BODY)
    site, writers = site_of(request), writers_of(request)
    _check_room(writers, viewer, len(asked.variants))
    messages, path = await site.read(_messages, viewer.id, asked)
    begun = [
        await begin(site, f"account:{viewer.id}", _ask(variant.model, variant.settings, messages))
        for variant in asked.variants
    ]
    head, places = await site.write(_said, viewer.id, asked, begun)
    found = []
    for place, writing in zip(places, begun, strict=True):
        writer = Writer(site, viewer.id, place["id"], head["conversation"]["id"], writing)
        path_now = [*path, head["asked"]["id"]] if asked.text is not None else path
        writer.notes = _dropped(writing, messages, path_now) | place["figures"]
        found.append(writer)
    return _stream(request, viewer, found, head)


@routes.post("/api/chat/turns/{number:int}/continue", role="annotator")
async def go_on(request: Request, viewer: Viewer) -> Response:
    """An answer that was cut is gone on with, after what is there."""
    asked = await read(request, forms.GoOn, forms.BODY)
    site, number = site_of(request), _number(request)
    _check_room(writers_of(request), viewer, 1)
    turn, messages, path = await site.read(_until, viewer.id, number)
    # Blanks at its end would be other tokens than those that the model wrote.
    before = turn.content.rstrip()
    messages = [*messages, {"role": "assistant", "content": before}]
    writing = await begin(site, f"account:{viewer.id}", _ask(turn.model, asked.settings, messages))
    await site.write(talk.go_on, viewer.id, number)
    writer = Writer(site, viewer.id, number, turn.conversation_id, writing, before)
    writer.notes = _dropped(writing, messages, [*path, number])
    if "beside" in turn.figures:
        writer.notes["beside"] = turn.figures["beside"]
    record = await site.read(_turn_seen, viewer.id, number)
    return _stream(request, viewer, [writer], {"asked": None, "answers": [record]})


@routes.post("/api/chat/turns/{number:int}/stop", role="annotator")
async def stop(request: Request, viewer: Viewer) -> Response:
    """Stop an answer: the engine ends its work at once, what is written stays."""
    await read(request, forms.Empty, forms.BODY)
    number = _number(request)
    writer = writers_of(request).find(viewer.id, number)
    if writer is not None:
        await writer.stop()
    return reply(await site_of(request).read(_turn_seen, viewer.id, number))


@routes.put("/api/chat/turns/{number:int}/thumb", role="annotator")
async def thumb(request: Request, viewer: Viewer) -> Response:
    """Keep what the person thinks of an answer."""
    asked = await read(request, forms.Thumbed, forms.BODY)
    opinion = opinions.Opinion(asked.up, tuple(asked.reasons), asked.comment, asked.rewrite)
    number = _number(request)
    found = await site_of(request).write(opinions.thumb, viewer.id, number, opinion)
    return reply(thumb_record(found))


@routes.delete("/api/chat/turns/{number:int}/thumb", role="annotator")
async def no_thumb(request: Request, viewer: Viewer) -> Response:
    """Take it back."""
    number = _number(request)
    await site_of(request).write(opinions.take_back, viewer.id, number)
    return reply({})


@routes.post("/api/chat/choice", role="annotator")
async def choice(request: Request, viewer: Viewer) -> Response:
    """Keep which of two answers is better, and go on with it."""
    asked = await read(request, forms.Chosen, forms.BODY)
    site, pair = site_of(request), (asked.chosen_id, asked.rejected_id)
    await site.write(opinions.choose, viewer.id, *pair, asked.strength)
    turn = await site.read(talk.turn_of, viewer.id, asked.chosen_id)
    return reply(await site.read(seen, viewer.id, turn.conversation_id))


@routes.get("/api/chat/export", role="annotator")
async def export_all(request: Request, viewer: Viewer) -> Response:
    """All of the person's conversations as a file."""
    return _file(reply(await site_of(request).read(carrying.exported, viewer.id)), "chats.json")


@routes.get("/api/chat/conversations/{number:int}/export", role="annotator")
async def export(request: Request, viewer: Viewer) -> Response:
    """A conversation with all its branches as a file."""
    number = _number(request)
    found = await site_of(request).read(carrying.exported, viewer.id, number)
    return _file(reply(found), f"chat-{number}.json")


@routes.get("/api/chat/conversations/{number:int}/markdown", role="annotator")
async def markdown(request: Request, viewer: Viewer) -> Response:
    """The branch that is shown as a file to be read."""
    number = _number(request)
    text = await site_of(request).read(carrying.as_markdown, viewer.id, number)
    kind = "text/markdown; charset=utf-8"
    return _file(Response(text, media_type=kind), f"chat-{number}.md")


@routes.post("/api/chat/import", role="annotator")
async def bring_in(request: Request, viewer: Viewer) -> Response:
    """Add the conversations of a file that was exported."""
    asked = await read(request, forms.File, forms.IMPORT)
    records = [one.model_dump() for one in asked.conversations]
    found = await site_of(request).write(carrying.imported, viewer.id, records)
    return reply({"conversations": found})


def writers_of(request: Request) -> Writers:
    """The answers that are being written on this site."""
    found: Writers = request.app.state.writers
    return found


@contextlib.asynccontextmanager
async def talking(site: Site, writers: Writers) -> AsyncIterator[None]:
    """As long as the site is there: answers that a crash cut are stopped, at the end all others."""
    await site.write(talk.stop_all)
    try:
        yield
    finally:
        await writers.stop()


def _number(request: Request) -> int:
    found: int = request.path_params["number"]
    if found >= 1 << 53:
        raise Missing
    return found


def _file(response: Response, name: str) -> Response:
    response.headers["content-disposition"] = f'attachment; filename="puna-{name}"'
    return response


def _check_room(writers: Writers, viewer: Viewer, more: int) -> None:
    if len(writers.of(viewer.id)) + more > AT_ONCE:
        what = f"at most {AT_ONCE} answers are written for you at the same time"
        raise ApiError(429, what, headers={"retry-after": "2"})


def _stream(request: Request, viewer: Viewer, found: Sequence[Writer], head: Json) -> Response:
    site, writers = site_of(request), writers_of(request)
    for writer in found:
        writers.add(writer)

    async def ended(writer: Writer) -> Json:
        try:
            record = await site.read(_turn_seen, viewer.id, writer.turn_id)
        except Missing:  # the conversation was deleted meanwhile
            record = None
        return {"turn": writer.turn_id, "end": record}

    return Told(found, {"begun": head}, ended, site.service.limits.ping_seconds)


def _ask(model: str, settings: forms.Settings, messages: list[dict[str, str]]) -> Ask:
    return Ask(model=model, messages=messages, **settings.model_dump())


def _messages(
    session: Session, account_id: int, asked: forms.Asked
) -> tuple[list[dict[str, str]], list[int]]:
    """What the model is to read, and the turns that this is made of."""
    if asked.conversation_id is None:
        if asked.parent_id is not None:
            raise Refused("conversation_id", "is missing")
        if asked.text is None:
            raise Refused("text", "is missing")
        turns: list[Turn] = []
        system = asked.system
    else:
        found = talk.conversation(session, account_id, asked.conversation_id)
        system, every = found.system, talk.turns_of(session, found.id)
        if asked.parent_id is not None and asked.parent_id not in {turn.id for turn in every}:
            raise Refused("parent_id", "is no message of this conversation")
        turns = talk.branch(every, asked.parent_id)
        if asked.text is None and (not turns or turns[-1].role != "user"):
            raise Refused("parent_id", "expected the person's message that is to be answered")
        if asked.text is not None and turns and turns[-1].state == "writing":
            raise Conflict("the answer before it is still being written")
    said = [(turn.role, turn.content) for turn in turns]
    if asked.text is not None:
        said.append(("user", asked.text))
    return _prompt(system, said), [turn.id for turn in turns]


def _prompt(system: str, said: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Messages in turns. Where an answer is empty, what stands around it is one message."""
    messages = [{"role": "system", "content": system}] if system.strip() else []
    for role, content in said:
        if role == "assistant" and not content.strip():
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{content}"
        else:
            messages.append({"role": role, "content": content})
    return messages


def _dropped(writing: Writing, messages: Sequence[Any], path: Sequence[int]) -> Json:
    """The turns that the model did not see: as many of the oldest as there are messages."""
    count = len(writing.written.figures["dropped"])
    last = len(path) - (len(messages) - bool(messages[0]["role"] == "system")) + count
    return {"dropped": list(path[: max(last, 0)]) if count else []}


def _said(
    session: Session, account_id: int, asked: forms.Asked, begun: Sequence[Writing]
) -> tuple[Json, list[Json]]:
    """Store what was said and the answers that are about to be written: the first event."""
    first = asked.variants[0]
    if asked.conversation_id is None:
        settings = first.settings.model_dump()
        found = talk.start(session, account_id, first.model, asked.system, settings)
    else:
        found = talk.conversation(session, account_id, asked.conversation_id)
    user, parent = None, asked.parent_id
    if asked.text is not None:
        user = talk.say(session, found, parent, talk.storable(asked.text))
        parent = user.id
    assert parent is not None
    answers = [
        talk.begin(session, found, parent, v.model, writing.version, v.settings.model_dump())
        for v, writing in zip(asked.variants, begun, strict=True)
    ]
    if len(answers) == 2:
        answers[0].figures = {"beside": answers[1].id}
        answers[1].figures = {"beside": answers[0].id}
        found.leaf_id = answers[0].id
        found.model, found.settings = answers[0].model, answers[0].settings
    session.flush()
    turns = talk.turns_of(session, found.id)
    head = {
        "conversation": conversation_record(found),
        "asked": turn_record(user, talk.siblings(turns, user)) if user else None,
        "answers": [turn_record(one, talk.siblings(turns, one)) for one in answers],
    }
    return head, [{"id": one.id, "figures": one.figures} for one in answers]


def _until(
    session: Session, account_id: int, number: int
) -> tuple[Turn, list[dict[str, str]], list[int]]:
    """An answer, and what the model read before it."""
    turn = talk.turn_of(session, account_id, number)
    if turn.role != "assistant" or turn.state not in talk.CUT or not turn.content.strip():
        raise Conflict("there is no answer here that was cut")
    found: Conversation = talk.conversation(session, account_id, turn.conversation_id)
    path = talk.branch(talk.turns_of(session, found.id), turn.parent_id)
    said = [(one.role, one.content) for one in path]
    return turn, _prompt(found.system, said), [one.id for one in path]


def _turn_seen(session: Session, account_id: int, number: int) -> Json:
    turn = talk.turn_of(session, account_id, number)
    turns = talk.turns_of(session, turn.conversation_id)
    thumbs = opinions.thumbs_of(session, account_id, turn.conversation_id)
    return turn_record(turn, talk.siblings(turns, turn), thumbs.get(number))
