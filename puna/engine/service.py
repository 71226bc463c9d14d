"""An engine behind a connection: requests in, steps, replies out, and nothing that can stop it.

One thread runs this loop. Before every step it takes all that has arrived, so that a cancelled
answer is computed no further, and it makes no step while the web process is behind in taking
replies. A fault of one request ends that request, a fault of a whole step ends what was running.
"""

import time
import traceback
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty
from typing import Any, Protocol

from puna.engine.blocks import blocks_for
from puna.engine.connection import Arrived, Connection, Event, Gone, Inbox, Received, Stop
from puna.engine.figures import Figures
from puna.engine.replies import FINISHES, Ended, Running, done, failure, note, piece, prompt_record
from puna.engine.sequence import Request
from puna.errors import InputError
from puna.text import wire

QUEUE = 4096  # requests that may be unfinished at once; the web process is meant to refuse earlier
STALL_SECONDS = 60.0  # a web process that takes nothing for so long is given up
FLUSH_SECONDS = 1.0  # for the last replies, after the grace or after a fault
FAULTS = 3  # steps that fail one after the other until the process is given up
EMBED_TOKENS = 2048  # tokens of prompts that are embedded between two steps


class Answering(Protocol):
    """What the loop needs of `puna.engine.engine.Engine`."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute."""
        ...

    @property
    def counters(self) -> Mapping[str, float]:
        """Figures by name."""
        ...

    def add(self, request: Request) -> None:
        """Wait to be answered. InputError: it cannot be."""
        ...

    def cancel(self, id: str) -> Sequence[Any]:
        """Stop a request, free what it holds; its last `Output`s, none if there is no such one."""
        ...

    def step(self) -> Sequence[Any]:
        """Advance; the `Output`s that came of it."""
        ...

    def embed(self, prompts: Sequence[list[int]], adapter: str | None = None) -> Any:
        """The final hidden state after each prompt, [len(prompts), dim]."""
        ...


class Broken(Exception):
    """The engine fails at every step, or has lost blocks: only a new process helps."""


@dataclass(eq=False)
class Embedding:
    """An Embed and the vectors that are there so far."""

    request: wire.Embed
    vectors: list[bytes] = field(default_factory=list)

    def next(self) -> list[list[int]]:
        """The prompts to embed now: at least one, and not many tokens."""
        start, tokens = len(self.vectors), 0
        for stop, prompt in enumerate(self.request.prompts[start:], start):
            tokens += len(prompt)
            if tokens > EMBED_TOKENS and stop > start:
                return self.request.prompts[start:stop]
        return self.request.prompts[start:]


class Service:
    """The loop around an engine."""

    def __init__(
        self,
        engine: Answering,
        hello: wire.Hello,
        inbox: Inbox,
        grace: float = 30.0,
        stall: float = STALL_SECONDS,
        queue: int = QUEUE,
    ):
        """grace: seconds that running answers have to end in after `Stop`; the rest: see above."""
        self.engine, self.hello, self.inbox = engine, hello, inbox
        self.grace, self.stall, self.queue = grace, stall, queue
        self.connection: Connection | None = None
        self.running: dict[str, Running] = {}
        self.embeds: deque[Embedding] = deque()
        self.figures = Figures()
        self.faults = 0
        self.ends: float | None = None  # when the grace after Stop is over

    def run(self) -> None:
        """Serve until `Stop`, and then until what runs is answered. Broken: see there."""
        try:
            self.loop()
        finally:
            if self.connection is not None:
                self.connection.flush(FLUSH_SECONDS)
                self.connection.close()

    def loop(self) -> None:
        """Events, a step, some prompts to embed, again."""
        while True:
            self.take()
            if self.ends is not None and self.drained():
                return
            if self.connection is not None and self.connection.crowded:
                continue
            if not self.engine.idle:
                self.step()
            if self.embeds and (self.engine.idle or self.roomy(self.embeds[0])):
                self.embed(self.embeds[0])

    def drained(self) -> bool:
        """Whether all is answered, or the grace is over; what is left then is told so."""
        assert self.ends is not None
        late = time.monotonic() >= self.ends
        if late:
            for id in [*self.running, *(job.request.id for job in self.embeds)]:
                self.fail(id, "the worker is stopping", "stopping")
        if self.running or self.embeds:
            return False
        if self.connection is not None and not late:
            self.connection.flush(self.ends - time.monotonic())
        return True

    def take(self) -> None:
        """Follow every event that is there; wait for one if there is nothing else to do."""
        wait = self.patience()
        try:
            self.follow(self.inbox.get(timeout=wait) if wait != 0 else self.inbox.get_nowait())
            while True:
                self.follow(self.inbox.get_nowait())
        except Empty:
            pass
        gone = self.connection
        if gone is not None and gone.crowded and time.monotonic() - gone.moved >= self.stall:
            note(f"the web process has taken nothing for {self.stall:g} s: hanging up")
            gone.close()
            self.leave(gone)

    def patience(self) -> float | None:
        """Seconds to wait for an event: 0 if there is work, None if only an event makes some."""
        now, waits = time.monotonic(), []
        crowded = self.connection is not None and self.connection.crowded
        if crowded and self.connection is not None:
            waits.append(self.connection.moved + self.stall - now)
        elif self.embeds or not self.engine.idle:
            return 0
        if self.ends is not None:
            if not self.running and not self.embeds:
                return 0
            waits.append(self.ends - now)
        return max(0.001, min(waits)) if waits else None

    def follow(self, event: Event) -> None:
        """Do what an event asks for."""
        match event:
            case Arrived(connection):
                self.connection = connection
                connection.send(wire.encode(self.hello))
            case Received(connection, request):
                connection.unread.release()
                if connection is self.connection:
                    self.answer(request)
            case Gone(connection, why):
                if connection is self.connection:
                    note(f"the web process is gone: {why}")
                    self.leave(connection)
            case Stop():
                if self.ends is not None:  # told twice: at once
                    self.ends = time.monotonic()
                else:
                    self.ends = time.monotonic() + self.grace
                    note(f"stopping: {len(self.running)} requests have {self.grace:g} s")

    def leave(self, connection: Connection) -> None:
        """Nobody waits for what this connection asked for any more."""
        for id in self.running:
            self.engine.cancel(id)
        self.figures.count("disconnected_requests", len(self.running) + len(self.embeds))
        self.running.clear()
        self.embeds.clear()
        self.connection = None

    def answer(self, request: wire.Request) -> None:
        """Begin what a request asks for; what cannot be is told at once."""
        match request:
            case wire.Stats():
                self.reply([wire.Counters(values=self.counters())])
            case wire.Cancel(id=id):
                self.cancel(id)
            case wire.Generate(id=id) | wire.Embed(id=id):
                self.figures.count("requests")
                if self.ends is not None:
                    self.fail(id, "the worker is stopping", "stopping")
                elif id in self.running or any(job.request.id == id for job in self.embeds):
                    self.fail(id, f"id {id!r} is in use", "input")
                elif len(self.running) + len(self.embeds) >= self.queue:
                    self.fail(id, f"{self.queue} requests are waiting already", "busy")
                elif isinstance(request, wire.Embed):
                    self.embeds.append(Embedding(request))
                else:
                    self.begin(request)

    def begin(self, asked: wire.Generate) -> None:
        """Give a prompt to the engine, or tell why it refuses it."""
        deadline = None if asked.seconds is None else time.monotonic() + asked.seconds
        request = Request(
            asked.id,
            asked.prompt,
            asked.params,
            asked.n,
            adapter=asked.adapter,
            tenant=asked.tenant,
            deadline=deadline,
            prompt_logprobs=asked.prompt_logprobs,
            speculate=asked.speculate,
        )
        self.running[asked.id] = Running(len(asked.prompt), dict.fromkeys(range(asked.n), 0))
        try:
            self.engine.add(request)
        except InputError as error:
            self.fail(asked.id, str(error), "input")
        except Exception:
            self.fault(f"request {asked.id}")
            self.fail(asked.id, "the request could not be started", "internal")

    def cancel(self, id: str) -> None:
        """End a request now; its unfinished samples are told so."""
        self.embeds = deque(job for job in self.embeds if job.request.id != id)
        if id not in self.running:
            return
        self.figures.count("cancelled_requests")
        self.tell(self.engine.cancel(id))
        for sample in list(self.left(id)):  # of which the engine knows nothing
            self.tell([Ended(id, sample, "cancelled")])

    def left(self, id: str) -> dict[int, int]:
        """The samples of a request that are not finished, and how long they are."""
        return self.running[id].samples if id in self.running else {}

    def step(self) -> None:
        """One step of the engine, and the replies that come of it."""
        started = time.monotonic()
        try:
            outputs = self.engine.step()
            self.faults = 0
        except Exception:
            self.fault("a step")
            self.faults += 1
            for id in list(self.running):
                self.fail(id, "the model failed while it was answering", "internal")
            if self.faults >= FAULTS or not self.engine.idle:
                raise Broken(f"{self.faults} steps have failed") from None
            return
        self.figures.step(time.monotonic() - started)
        self.tell(outputs)

    def tell(self, outputs: Iterable[Any]) -> None:
        """Send what `Output`s of the engine say."""
        self.reply(record for output in outputs for record in self.records(output))

    def records(self, output: Any) -> Iterable[wire.Reply]:
        """What an `Output` of the engine is on the wire."""
        found = self.running.get(output.id)
        if found is None or output.sample not in found.samples:
            return  # cancelled, or failed, before this
        if output.prompt_logprobs is not None:
            yield prompt_record(output.id, output.prompt_logprobs)
        if output.ids or output.text:
            found.samples[output.sample] += len(output.ids)
            self.figures.count("sent_tokens", len(output.ids))
            yield piece(output)
        if output.finish is None:
            return
        if output.finish not in FINISHES:
            self.figures.count("failed_requests")
            del self.running[output.id]
            self.engine.cancel(output.id)  # the other samples
            yield failure(output)
            return
        tokens = found.samples.pop(output.sample)
        if not found.samples:
            del self.running[output.id]
        yield done(output, found.prompt_tokens, tokens)

    def roomy(self, job: Embedding) -> bool:
        """Whether the cache has room for the next prompts beside what runs."""
        counters = self.engine.counters
        room = counters.get("blocks_free", 0) + counters.get("blocks_cached", 0)
        return all(blocks_for(len(prompt)) <= room for prompt in job.next())

    def embed(self, job: Embedding) -> None:
        """Embed the next prompts of a request; the loop goes on before the others."""
        request = job.request
        try:
            vectors = self.engine.embed(job.next(), request.adapter)
            job.vectors += [vector.cpu().numpy().astype("<f4").tobytes() for vector in vectors]
        except InputError as error:
            self.fail(request.id, str(error), "input")
        except Exception:
            self.fault(f"request {request.id}")
            self.fail(request.id, "the model failed while it was embedding", "internal")
        if len(job.vectors) == len(request.prompts):
            self.embeds.remove(job)
            count = sum(map(len, request.prompts))
            self.reply([wire.Embedded(id=request.id, vectors=job.vectors, prompt_tokens=count)])

    def fail(self, id: str, message: str, kind: Any) -> None:
        """A request is over without an answer: free what it holds and tell why."""
        self.embeds = deque(job for job in self.embeds if job.request.id != id)
        if self.running.pop(id, None) is not None:
            try:
                self.engine.cancel(id)
            except Exception:
                self.fault(f"cancelling {id}")
                raise Broken("a request cannot be cancelled") from None
        self.figures.count("failed_requests")
        self.reply([wire.Failed(id=id, message=message, kind=kind)])

    def fault(self, where: str) -> None:
        """Count a fault of Puna and show it in the log."""
        self.figures.count("faults")
        note(f"{where}: {traceback.format_exc()}")

    def reply(self, records: Iterable[wire.Reply]) -> None:
        """Send records; one that is too large becomes a failure of its request."""
        frames = []
        for record in records:
            try:
                frames.append(wire.encode(record))
            except InputError as error:
                id = getattr(record, "id", "-")
                frames.append(wire.encode(wire.Failed(id=id, message=str(error), kind="input")))
        if self.connection is not None:
            self.connection.send(b"".join(frames))

    def counters(self) -> dict[str, float]:
        """The engine's figures and those of this process."""
        pending = self.connection.pending if self.connection else 0
        own = {"unfinished_requests": len(self.running), "outbox_bytes": pending}
        return {**self.engine.counters, **own, **self.figures.values()}
