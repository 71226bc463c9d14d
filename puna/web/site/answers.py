"""Asking a model inside the server, by the way that the API takes: quota, queue, worker, figures.

Every page that lets a model write uses this; the tenant is whose cached prompts and whose turn in
the queue it is.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from puna.web import chat
from puna.web.answer import told
from puna.web.asking import Job
from puna.web.failures import unavailable
from puna.web.guard import Trace
from puna.web.keys import Key
from puna.web.schemas import ChatRequest
from puna.web.service import Service
from puna.web.site.site import Site
from puna.web.validate import check

LONG = 20_000  # characters of a conversation from which its tokens are made beside the event loop


@dataclass(frozen=True)
class Ask:
    """What a model is asked. Messages that end with the assistant's are to be gone on with."""

    model: str
    messages: list[dict[str, str]]  # role, content
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 512
    seed: int | None = None
    truncation: str = "drop_oldest_turns"  # or "error", as in `schemas.ChatRequest`
    top_k: int = 0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Written:
    """An answer that is over.

    Figures: prompt_tokens, cached_tokens, completion_tokens, seconds, first_token_seconds,
    tokens_per_second, context, context_used, max_tokens (what there was room for), dropped (places
    of the messages that the model did not see), why (they were dropped; empty if none was), ended
    (why it ended where that is not told by `finish`, such as "deadline").
    """

    text: str
    finish: str  # stop, length; of one that was closed: cancelled
    model: str
    version: str  # fingerprint
    figures: dict[str, Any] = field(default_factory=dict)


class Writing:
    """An answer while it is written: `pieces` of its text; `written` is what there is so far."""

    def __init__(self, service: Service, job: Job, reply: chat.ChatReply, ask: Ask) -> None:
        """Use `begin` instead."""
        self.service, self.job, self.reply, self.ask = service, job, reply, ask
        self.version = job.model.fingerprint
        self._context = job.ready.hello.context
        self._began = time.monotonic()

    @property
    def text(self) -> str:
        """What is written so far."""
        return self.reply.choices[0].text

    async def pieces(self, ping: float = math.inf) -> AsyncGenerator[str]:
        """The text as it comes; "" after `ping` silent seconds. Closing this ends the work.

        ApiError: refused, or the worker failed.
        """
        said = 0
        async with contextlib.aclosing(told(self.service, self.job, self.reply, ping)) as parts:
            async for _ in parts:
                text = self.text
                yield text[said:]
                said = len(text)

    @property
    def written(self) -> Written:
        """The answer as it stands."""
        choice = self.reply.choices[0]
        finish = choice.finish or "cancelled"
        return Written(choice.text, finish, self.ask.model, self.version, self._figures())

    def _figures(self) -> dict[str, Any]:
        reply, prompt = self.reply, self.reply.prompt
        times = reply.timings_record()
        first = 1 if self.ask.messages[0]["role"] == "system" else 0
        ended = reply.choices[0].stop_reason
        return {
            "prompt_tokens": reply.prompt_tokens,
            "cached_tokens": reply.cached_tokens,
            "completion_tokens": reply.drawn,
            "seconds": round(time.monotonic() - self._began, 3),
            "first_token_seconds": times["first_token_seconds"],
            "tokens_per_second": self._rate(times["completion_per_second"]),
            "context": self._context,
            "context_used": reply.prompt_tokens + reply.drawn,
            "max_tokens": prompt.max_tokens,
            "dropped": list(range(first, first + prompt.dropped)),
            "why": self._why(),
            "ended": ended if isinstance(ended, str) else "",
        }

    def _rate(self, told: float) -> float:
        """Tokens a second; by our own clock as long as the worker has not said it."""
        if told or self.reply.first_seconds is None or self.reply.drawn < 2:
            return told
        seconds = time.monotonic() - self._began - self.reply.first_seconds
        return round((self.reply.drawn - 1) / seconds, 3) if seconds > 0 else 0.0

    def _why(self) -> str:
        if not self.reply.prompt.dropped:
            return ""
        what = f"{self.reply.prompt.dropped} oldest messages were left out"
        room = f"{self.ask.max_tokens} tokens of answer"
        return f"{what}: with {room} they do not fit into {self._context} tokens"


async def begin(site: Site, tenant: str, ask: Ask) -> Writing:
    """An answer that can begin. ApiError: the model is away (503), or asked wrongly (400, 404)."""
    service = site.service
    if service.stopping:
        raise unavailable("the server is stopping", code="stopping")
    fields = {name: value for name, value in vars(ask).items() if value is not None}
    goes_on = bool(ask.messages) and ask.messages[-1].get("role") == "assistant"
    asked = check(ChatRequest, fields | {"continue_final_message": goes_on})
    trace = Trace(key=Key(name=tenant, sha256="0" * 64))
    size = sum(len(message["content"]) for message in ask.messages)
    if size < LONG:
        job, reply = chat.prepare(service, trace, asked)
    else:
        job, reply = await asyncio.to_thread(chat.prepare, service, trace, asked)
    return Writing(service, job, reply, ask)


async def write(site: Site, tenant: str, ask: Ask) -> AsyncGenerator[str | Written]:
    """Pieces of the answer's text, then the whole. Closing this ends the engine's work at once.

    ApiError: the model is away (503), the queue is full (429), or it is asked wrongly (400, 404).
    """
    writing = await begin(site, tenant, ask)
    async with contextlib.aclosing(writing.pieces()) as pieces:
        async for piece in pieces:
            if piece:
                yield piece
    yield writing.written


async def answer(site: Site, tenant: str, ask: Ask) -> Written:
    """The whole answer. ApiError as of `write`."""
    writing = await begin(site, tenant, ask)
    async with contextlib.aclosing(writing.pieces()) as pieces:
        async for _ in pieces:
            pass
    return writing.written
