"""The routes around a model's text: tokenize, detokenize, render, embeddings."""

import base64
import struct
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from puna.errors import InputError
from puna.text import wire
from puna.text.shown import shown_text
from puna.web.answer import failure, send_json, while_there
from puna.web.client import Channel
from puna.web.completions import id_lists
from puna.web.failures import ApiError, refused, unavailable
from puna.web.guard import Trace
from puna.web.prompts import fit, fit_ids, to_dialog
from puna.web.schemas import (
    DetokenizeRequest,
    EmbeddingRequest,
    RenderRequest,
    TokenizeRequest,
)
from puna.web.service import Model, Service

Json = dict[str, Any]


def tokenized(service: Service, trace: Trace, asked: TokenizeRequest) -> Json:
    """The ids of a text, and the text of each."""
    tokenizer = service.find(asked.model, trace.key)[0].ready.tokenizer
    try:
        ids = tokenizer.encode(asked.text, bos=asked.begin)
    except InputError as error:
        raise refused("text", str(error)) from None
    pieces = [shown_text(tokenizer, [token], [False]) for token in ids]
    return {"ids": ids, "pieces": pieces, "count": len(ids)}


def detokenized(service: Service, trace: Trace, asked: DetokenizeRequest) -> Json:
    """The text of ids; control ids have none."""
    ready = service.find(asked.model, trace.key)[0].ready
    size = min(ready.hello.vocab_size, ready.tokenizer.vocab_size)
    if asked.ids and max(asked.ids) >= size:
        raise refused("ids", f"id {max(asked.ids)} is out of range, expected below {size}")
    return {"text": ready.tokenizer.decode(asked.ids)}


def rendered(service: Service, trace: Trace, asked: RenderRequest) -> Json:
    """A conversation as ids and as text, just as `/v1/chat/completions` would send it."""
    ready = service.find(asked.model, trace.key)[0].ready
    prompt = fit(
        to_dialog(asked.messages, asked.tools or ()),
        *(ready.tokenizer, ready.hello.context, asked.max_tokens),
        *(asked.truncation, service.limits.tags, asked.continue_final_message),
    )
    text = shown_text(ready.tokenizer, prompt.ids, [False] * len(prompt.ids))
    return {
        "ids": prompt.ids,
        "text": text,
        "format": ready.hello.format,
        "count": len(prompt.ids),
        "context": prompt.context,
    }


class Embeddings(Response):
    """The response to a request for vectors."""

    def __init__(self, service: Service, trace: Trace, asked: EmbeddingRequest) -> None:
        """Check what is asked. ApiError: what is wrong with it."""
        super().__init__()
        self.service, self.trace, self.asked = service, trace, asked
        self.model, adapter = service.find(asked.model, trace.key)
        ready = self.model.ready
        prompts = id_lists(asked.input, ready.tokenizer, "input")
        for ids in prompts:
            fit_ids(ids, ready.hello.context, ready.hello.vocab_size, 0, "input")
        self.record = wire.Embed(
            id=trace.id, prompts=prompts, adapter=adapter, tenant=trace.key.name
        )
        self.tokens = sum(map(len, prompts))
        trace.notes |= {"model": asked.model, "prompt": self.tokens}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the work, and stop it as soon as nobody waits for it."""
        await while_there(self._work(send), receive)

    async def _work(self, send: Send) -> None:
        service, trace = self.service, self.trace
        quota = service.quotas.of(trace.key)
        ticket = quota.admit(self.tokens)
        trace.headers.update(quota.headers())
        seconds, used = service.limits.request_seconds, 0
        try:
            async with service.admission.place(trace.key.name, 1, seconds):
                vectors = await self._vectors(self.model, seconds)
                used = self.tokens
                service.metrics.answer(self.model.name, trace.key.name, used, 0, 0, None)
        finally:
            ticket.settle(used)
        await send_json(send, self._reply(vectors))

    async def _vectors(self, model: Model, seconds: float) -> list[bytes]:
        channel = Channel()
        try:
            model.worker.start(self.record, channel)
            for _, reply in await channel.take(seconds):
                if isinstance(reply, wire.Failed):
                    raise failure(reply, self.trace.id)
                if isinstance(reply, wire.Embedded):
                    return reply.vectors
        except InputError as error:
            raise ApiError(400, str(error)) from None
        finally:
            model.worker.cancel(self.record.id)
        raise unavailable("the worker does not answer", code="deadline")

    def _reply(self, vectors: list[bytes]) -> Json:
        text = self.asked.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector).decode() if text else _numbers(vector),
            }
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": self.tokens, "total_tokens": self.tokens}
        return {"object": "list", "model": self.asked.model, "data": data, "usage": usage}


def _numbers(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def trace_of(request: Request) -> Trace:
    """What the door has written down of a request."""
    trace: Trace = request.scope["puna"]
    return trace
