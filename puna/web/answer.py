"""From a job to its answer: quota, queue, worker, and the reply as a whole or as a stream.

Whoever goes away, in a stream or before a whole answer, takes the job along: the worker is told at
once. So does whoever does not read: the connection ends (`puna.web.protocol`), which is the same.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from puna.errors import InputError
from puna.text import wire
from puna.web.asking import Job
from puna.web.client import Channel
from puna.web.failures import ApiError, unavailable
from puna.web.reply import Reply
from puna.web.service import Service

OVERDUE_SECONDS = 10.0  # beyond a job's time, until the worker is not waited for any more
EVENT_STREAM = b"text/event-stream; charset=utf-8"


async def told(
    service: Service, job: Job, reply: Reply, ping: float = math.inf
) -> AsyncGenerator[list[Any]]:
    """What a stream says of the replies, as they come; nothing after `ping` silent seconds.

    The job goes through quota and queue to its worker. Whoever closes this, or is cancelled in it,
    takes the job along at once. ApiError: refused, or the worker failed.
    """
    end = time.monotonic() + job.seconds
    async with _begun(service, job, reply, end) as channel:
        while not reply.complete:
            left = end + OVERDUE_SECONDS - time.monotonic()
            found = await channel.take(max(min(left, ping), 0))
            if not found and left <= ping:
                raise unavailable("the worker does not answer", code="deadline")
            said: list[Any] = []
            for index, piece in found:
                if isinstance(piece, wire.Failed):
                    raise failure(piece, job.trace.id)
                if not isinstance(piece, wire.Embedded):
                    said += reply.take(index, piece)
            yield said


@contextlib.asynccontextmanager
async def _begun(service: Service, job: Job, reply: Reply, end: float) -> AsyncIterator[Channel]:
    """The job with its worker; whatever happens, nothing of it stays behind."""
    quota = service.quotas.of(job.key)
    ticket = quota.admit(job.tokens)
    job.trace.headers.update(quota.headers())
    try:
        async with service.admission.place(job.key.name, job.answers, job.seconds):
            reply.begin(time.monotonic())
            channel = Channel()
            try:
                _start(job, channel, end)
                yield channel
            finally:
                for record in job.records:
                    job.model.worker.cancel(record.id)
    finally:
        ticket.settle(reply.prompt_tokens * reply.begun + reply.drawn)
        if reply.begun:
            service.metrics.answer(
                *(job.model.name, job.key.name, reply.prompt_tokens, reply.cached_tokens),
                *(reply.drawn, reply.first_seconds),
            )


def _start(job: Job, channel: Channel, end: float) -> None:
    left = max(end - time.monotonic(), 0.001)
    for index, record in enumerate(job.records):
        record.seconds = left
        try:
            job.model.worker.start(record, channel, index)
        except InputError as error:
            raise ApiError(400, str(error)) from None


class Answer(Response):
    """The response to a request that a worker answers."""

    def __init__(self, service: Service, job: Job, reply: Reply, stream: bool) -> None:
        """Nothing happens before it is sent."""
        super().__init__()
        self.service, self.job, self.reply, self.stream = service, job, reply, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the work, and stop it as soon as nobody waits for it."""
        await while_there(self._work(send), receive)

    async def _work(self, send: Send) -> None:
        ping = self.service.limits.ping_seconds if self.stream else math.inf
        async with contextlib.aclosing(told(self.service, self.job, self.reply, ping)) as parts:
            if self.stream:
                await self._send_stream(parts, send)
                return
            async for _ in parts:
                pass
        await send_json(send, self.reply.whole())

    async def _send_stream(self, parts: AsyncGenerator[list[Any]], send: Send) -> None:
        """Server-sent events. What fails before the first is an answer with a status."""
        begun = False
        try:
            async for said in parts:
                if not begun:
                    await send_head(send)
                    begun = True
                if said or not self.reply.moved:
                    events = b"".join(map(event, said))
                    await send(part(events or b": ping\n\n"))
        except ApiError as error:
            if not begun:
                raise
            self.job.trace.failed = error.code
            await send(part(event(error.record), more=False))
            return
        last = b"".join(map(event, self.reply.last()))
        await send(part(last + b"data: [DONE]\n\n", more=False))


async def while_there(work: Any, receive: Receive) -> None:
    """Run a coroutine until it ends, or until the client has gone."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_json(send: Send, value: Any) -> None:
    """A whole answer."""
    body = msgspec.json.encode(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_head(send: Send) -> None:
    """The head of a stream."""
    headers = [(b"content-type", EVENT_STREAM), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def event(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    """Some bytes of a stream's body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def failure(failed: wire.Failed, request: str) -> ApiError:
    """A worker's failure as the client is told it."""
    if failed.kind == "input":
        return ApiError(400, failed.message)
    if failed.kind == "busy":
        return ApiError(429, "the engine's queue is full", headers={"retry-after": "1"})
    if failed.kind == "stopping":
        return unavailable(f"{failed.message}; request {request}", code="stopping")
    return ApiError(500, f"the engine failed on this request; it is logged as {request}")
