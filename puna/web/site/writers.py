"""Answers of the chat while they are written: streamed, stored every half second, stopped at once.

A writer runs by itself; who listens gets its events. It ends when the model ends, when it is
stopped, and when its last listener goes away. However it ends, what was written is stored.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from puna.store import talk
from puna.store.faults import Unavailable
from puna.web.answer import event, part, send_head, while_there
from puna.web.failures import ApiError
from puna.web.site.answers import Writing
from puna.web.site.markdown import Growing
from puna.web.site.site import Site

KEEP_SECONDS = 0.5  # between two times that what is written is stored
SHOW_SECONDS = 0.15  # between two times that it is formatted
SHARE = 20  # formatting takes at most one part in so many of a writer's time
PATIENCE = 30  # times that the end is stored again while the database is away, a second apart
STATES = {"stop": "complete", "length": "length"}

log = logging.getLogger("puna.web")
Event = dict[str, Any]


class Writer:
    """One answer on its way into the store and to whoever listens."""

    def __init__(
        self,
        site: Site,
        account_id: int,
        turn_id: int,
        conversation_id: int,
        writing: Writing,
        before: str = "",
    ) -> None:
        """Nothing runs before `start`. before: what the answer goes on with."""
        self.site, self.account_id = site, account_id
        self.turn_id, self.conversation_id = turn_id, conversation_id
        self.writing, self.before = writing, before
        self.notes: dict[str, Any] = {}  # that go into the figures of the answer
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._began = asyncio.Event()
        self.done: asyncio.Task[None] | None = None
        self._growing, self._state, self._failure = Growing(), "writing", ""
        self._growing.add(before)

    @property
    def text(self) -> str:
        """The answer so far."""
        return self.before + self.writing.text

    def start(self, over: Callable[["Writer"], None]) -> None:
        """Begin; `over` is called when all is stored."""
        self.done = asyncio.create_task(self._run())
        self.done.add_done_callback(lambda _: over(self))

    async def stop(self) -> None:
        """End the engine's work at once, and return when what is written is stored."""
        if self.done is not None:
            await self._began.wait()  # a task that is cancelled before would store nothing
            if self._state == "writing":
                self.done.cancel()
            await asyncio.wait({self.done})

    async def _run(self) -> None:
        self._began.set()
        keeping = asyncio.create_task(self._keep())
        try:
            await self._write()
            self._state = STATES.get(self.writing.written.finish, "stopped")
        except asyncio.CancelledError:
            self._state = "stopped"
        except ApiError as error:
            self._state = "stopped" if error.code == "stopping" else "failed"
            self._failure = error.message
        except Exception:
            self._state, self._failure = "failed", "an error inside the server"
            log.exception("an answer of the chat failed")
        finally:
            keeping.cancel()
            await asyncio.shield(asyncio.create_task(self._end()))

    async def _write(self) -> None:
        shown, pause = time.monotonic(), SHOW_SECONDS
        async with contextlib.aclosing(self.writing.pieces()) as pieces:
            async for piece in pieces:
                self._growing.add(piece)
                self._say(text=piece)
                if time.monotonic() - shown >= pause:
                    began = time.monotonic()
                    over, rest = self._growing.show()
                    shown = time.monotonic()
                    pause = max(SHOW_SECONDS, SHARE * (shown - began))
                    self._say(over=over, rest=rest)

    def _say(self, **what: Any) -> None:
        self.events.put_nowait({"turn": self.turn_id, **what})

    async def _keep(self) -> None:
        """Store what is written, again and again; what cannot be stored now is stored later."""
        kept = ""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            if self.text != kept:
                with contextlib.suppress(Unavailable):
                    text = self.text
                    await self.site.write(talk.keep, self.turn_id, text)
                    kept = text

    async def _end(self) -> None:
        figures = self.writing.written.figures | self.notes
        if self._failure:
            figures["failure"] = self._failure
        for _ in range(PATIENCE):
            try:
                await self.site.write(talk.end, self.turn_id, self.text, self._state, figures)
                break
            except Unavailable as error:
                log.warning("the end of an answer is not stored yet: %s", error)
                await asyncio.sleep(1)
        self._say(end=self._state)
        self.events.put_nowait(None)


class Writers:
    """All answers that are being written on a site."""

    def __init__(self) -> None:
        """None."""
        self._running: dict[int, Writer] = {}

    def add(self, writer: Writer) -> None:
        """Begin to write an answer."""
        self._running[writer.turn_id] = writer
        writer.start(self._over)

    def of(self, account_id: int) -> list[Writer]:
        """What is being written for a person."""
        return [one for one in self._running.values() if one.account_id == account_id]

    def find(self, account_id: int, turn_id: int) -> Writer | None:
        """The writer of a person's answer, if it is being written."""
        found = self._running.get(turn_id)
        return found if found and found.account_id == account_id else None

    def _over(self, writer: Writer) -> None:
        self._running.pop(writer.turn_id, None)

    async def stop(self) -> None:
        """Stop all, and return when what they wrote is stored."""
        await asyncio.gather(*(one.stop() for one in list(self._running.values())))


class Told(Response):
    """The events of some writers as a stream; they stop when nobody hears it any more.

    `head` is the first event; `ended` makes the last of each answer, when it is stored.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        head: Mapping[str, Any],
        ended: Callable[[Writer], Awaitable[Event]],
        ping: float,
    ) -> None:
        """The writers have begun."""
        super().__init__()
        self.writers, self.head, self.ended, self.ping = writers, head, ended, ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until all have ended or the listener is gone."""
        try:
            await while_there(self._send(send), receive)
        finally:
            stops = [asyncio.create_task(one.stop()) for one in self.writers]
            await asyncio.shield(asyncio.gather(*stops))

    async def _send(self, send: Send) -> None:
        await send_head(send)
        await send(part(event(self.head)))
        async with contextlib.aclosing(self._merged()) as merged:
            async for said in merged:
                await send(part(event(said) if said else b": ping\n\n"))
        await send(part(b"data: [DONE]\n\n", more=False))

    async def _merged(self) -> AsyncGenerator[Event | None]:
        """The events of all writers as they come; None after a silence."""
        waiting = {asyncio.create_task(one.events.get()): one for one in self.writers}
        try:
            while waiting:
                done, _ = await asyncio.wait(
                    waiting, timeout=self.ping, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    yield None
                for task in done:
                    writer, said = waiting.pop(task), task.result()
                    if said is None:
                        continue
                    waiting[asyncio.create_task(writer.events.get())] = writer
                    yield await self.ended(writer) if "end" in said else said
        finally:
            for task in waiting:
                task.cancel()
