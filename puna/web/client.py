"""One engine worker as the web process sees it: records go out, answers come back, both die."""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from puna.errors import InputError
from puna.text import wire
from puna.text.tokenizer import Tokenizer, open_tokenizer
from puna.web.failures import unavailable
from puna.web.supervisor import Link, Unavailable

STATS_SECONDS = 2.0
HANG_SECONDS = 300.0  # without a sign of life, while requests run, until a worker is ended
BEATS = 5  # times that it is asked for one in that time

Piece = wire.Piece | wire.Done | wire.Prompt | wire.Embedded | wire.Failed


class Channel:
    """The replies to one or several requests, each with the request's index, in their order."""

    def __init__(self) -> None:
        """Nothing has come."""
        self._replies: deque[tuple[int, Piece]] = deque()
        self._there = asyncio.Event()

    def put(self, index: int, reply: Piece) -> None:
        """Add a reply."""
        self._replies.append((index, reply))
        self._there.set()

    async def take(self, seconds: float | None = None) -> list[tuple[int, Piece]]:
        """All replies that are there, at least one; none if `seconds` pass without one."""
        if not self._replies:
            try:
                async with asyncio.timeout(seconds):
                    await self._there.wait()
            except TimeoutError:
                return []
        found = list(self._replies)
        self._replies.clear()
        self._there.clear()
        return found


@dataclass
class _Open:
    """A request that is not over: where its replies go, how many ends are yet to come."""

    channel: Channel
    index: int
    ends: int


@dataclass
class Ready:
    """A worker that can be asked: what it said of itself, and its tokenizer."""

    hello: wire.Hello
    tokenizer: Tokenizer
    since: float = field(default_factory=time.time)


class Source(Protocol):
    """Where connections come from: a supervisor."""

    def start(self) -> None:
        """Begin, inside a running event loop."""
        ...

    async def stop(self) -> None:
        """End the worker."""
        ...

    def kill(self, why: str) -> None:
        """End the worker at once, for this reason; another one is started."""
        ...

    async def link(self, after: int = 0) -> Link:
        """A connection numbered above `after`. Unavailable: there will be none."""
        ...


class Worker:
    """The connection to one worker, made again whenever it is lost.

    `run` keeps it up. `ready` is None while there is none: the worker loads, or has died;
    `given_up` then says why there will be none any more. A worker that hangs, so that for `hang`
    seconds nothing comes of it while requests run, is ended, and its requests with it.
    """

    def __init__(self, source: Source, hang: float = HANG_SECONDS) -> None:
        """A worker whose connections `source` makes."""
        self.hang = hang
        self._heard = False  # whether a reply came since the last beat
        self.ready: Ready | None = None
        self.losses = 0  # connections that broke
        self.given_up = ""
        self._source = source
        self._open: dict[str, _Open] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._stats: list[asyncio.Future[dict[str, float]]] = []

    @property
    def running(self) -> int:
        """Requests that are not over."""
        return len(self._open)

    async def run(self) -> None:
        """Start the worker, take connections, read replies, until there are no more connections."""
        self._source.start()
        number = 0
        while True:
            try:
                link = await self._source.link(number)
            except Unavailable as error:
                self.given_up = str(error)
                return
            number = link.number
            watch = asyncio.create_task(self._watch(link))
            try:
                with contextlib.suppress(OSError, InputError):
                    await self._converse(link)
            finally:
                watch.cancel()
                self.losses += 1
                self.ready = self._writer = None
                link.writer.close()
                self._end_all("the worker of this model ended")

    def start(self, request: wire.Generate | wire.Embed, channel: Channel, index: int = 0) -> None:
        """Send a request; its replies come to `channel`. ApiError 503: there is no worker.

        InputError: the record is larger than a worker accepts.
        """
        frame = wire.encode(request)
        if self._writer is None or self.ready is None:
            raise unavailable("the model is not loaded", code="loading")
        ends = request.n if isinstance(request, wire.Generate) else 1
        self._open[request.id] = _Open(channel, index, ends)
        self._writer.write(frame)

    def cancel(self, request: str) -> None:
        """Stop a request, if it is not over; nothing of it comes any more."""
        if self._open.pop(request, None) is not None and self._writer is not None:
            self._writer.write(wire.encode(wire.Cancel(id=request)))

    async def close(self) -> None:
        """End the worker, after `run` was cancelled."""
        await self._source.stop()

    def stop(self) -> None:
        """End all requests: the server is going down."""
        for request in list(self._open):
            if self._writer is not None:
                self._writer.write(wire.encode(wire.Cancel(id=request)))
        self._end_all("the server is stopping")

    async def counters(self) -> dict[str, float]:
        """The worker's own figures; none if it does not answer soon."""
        if self._writer is None or self.ready is None:
            return {}
        asked = asyncio.get_running_loop().create_future()
        self._stats.append(asked)
        self._writer.write(wire.encode(wire.Stats()))
        try:
            return await asyncio.wait_for(asked, STATS_SECONDS)
        except TimeoutError:
            return {}

    async def _converse(self, link: Link) -> None:
        hello = link.hello
        tokenizer = await asyncio.to_thread(open_tokenizer, hello.tokenizer, hello.format)
        self._writer, self.ready = link.writer, Ready(hello, tokenizer)
        while (reply := await wire.REPLIES.receive(link.reader)) is not None:
            self._heard = True
            self._sort(reply)

    async def _watch(self, link: Link) -> None:
        """End a worker that hangs. Beats are counted, not seconds: this process may be held up."""
        silent = 0
        while silent <= BEATS:
            await asyncio.sleep(self.hang / BEATS)
            silent = 0 if self._heard or not self._open else silent + 1
            self._heard = False
            if self._open:
                link.writer.write(wire.encode(wire.Stats()))
        self._source.kill(f"it has said nothing for {self.hang:g} s while requests ran")
        link.writer.close()

    def _sort(self, reply: wire.Reply) -> None:
        if isinstance(reply, wire.Counters):
            for asked in self._stats:
                if not asked.done():
                    asked.set_result(reply.values)
            self._stats.clear()
        elif not isinstance(reply, wire.Hello):
            request = self._open.get(reply.id)
            if request is None:  # cancelled meanwhile
                return
            if isinstance(reply, wire.Done):
                request.ends -= 1
            elif isinstance(reply, wire.Embedded | wire.Failed):
                request.ends = 0
            if request.ends <= 0:
                del self._open[reply.id]
            request.channel.put(request.index, reply)

    def _end_all(self, why: str) -> None:
        requests, self._open = self._open, {}
        for name, request in requests.items():
            ended = wire.Failed(id=name, message=why, kind="stopping")
            request.channel.put(request.index, ended)
        for asked in self._stats:
            if not asked.done():
                asked.set_result({})
        self._stats.clear()
