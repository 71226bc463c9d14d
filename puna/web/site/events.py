"""An answer that comes as events, and ends the work behind it when nobody listens any more."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from puna.web.answer import event, send_head, while_there
from puna.web.failures import ApiError


class Events(Response):
    """Server-sent events of a generator's records, then [DONE].

    A client that goes away closes the generator. An ApiError in it becomes an event of its own:
    {"error": {..., "status"}}.
    """

    def __init__(self, records: AsyncGenerator[Any]) -> None:
        """Nothing is asked of the generator before the answer is sent."""
        super().__init__()
        self.records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        await while_there(self._send(send), receive)

    async def _send(self, send: Send) -> None:
        await send_head(send)
        async with contextlib.aclosing(self.records) as records:
            try:
                async for record in records:
                    await send(_body(event(record)))
            except ApiError as error:
                told = error.record
                told["error"]["status"] = error.status
                await send(_body(event(told), more=False))
                return
        await send(_body(b"data: [DONE]\n\n", more=False))


def _body(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}
