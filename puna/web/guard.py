"""The door of the application: who may come in, what is written down, what happens to a fault.

Everything is closed: without a key only `PUBLIC` is answered, whatever routes there are. The check
reads what the router reads, not an address that is built from headers.
"""

import logging
import re
import time
import traceback
import uuid
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.web.failures import ApiError, unavailable
from puna.web.keys import NOBODY, STRANGER, Key, bearer
from puna.web.service import Service

PUBLIC = frozenset({("GET", "/health")})
HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
CLOSED_BY_CLIENT = 499  # in the log only: who asked was gone before the answer

log = logging.getLogger("puna.web")


@dataclass
class Trace:
    """What is known of one request, for the log, the figures and the headers of its answer."""

    id: str = field(default_factory=lambda: f"req-{uuid.uuid4().hex}")
    begun: float = field(default_factory=time.monotonic)
    key: Key = STRANGER
    status: int = 0
    failed: str = ""  # what went wrong after the answer had begun
    headers: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str | int] = field(default_factory=dict)


class Guard:
    """The application behind its door."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        """Stand before `app`."""
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let the application answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trace = scope["puna"] = Trace()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                message["headers"] = [*message.get("headers", []), *_headers(trace)]
            await send(message)

        try:
            self._check(scope, trace)
            await self.app(scope, receive, sending)
        except ApiError as error:
            await _answer(error, trace, sending)
        except Exception as fault:
            _report(fault, trace)
            await _answer(inside(trace), trace, sending)
        finally:
            self._write(scope, trace)

    def _check(self, scope: Scope, trace: Trace) -> None:
        """Who asks, and whether at the right address. ApiError says what is wrong."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._check_host([value for name, value in headers if name == b"host"])
        if not self.service.keys:
            trace.key = NOBODY
        else:
            text = bearer(value for name, value in headers if name == b"authorization")
            key = self.service.keys.find(text) if text is not None else None
            if key is not None:
                trace.key = key
            elif (scope["method"], scope["path"]) not in PUBLIC:
                what = "a key is missing" if text is None else "the key is not known"
                raise ApiError(401, f"authorization: {what}, expected Bearer KEY", close=True)
        if self.service.stopping and (scope["method"], scope["path"]) not in PUBLIC:
            raise unavailable("the server is stopping", code="stopping")

    def _check_host(self, values: list[bytes]) -> None:
        text = values[0].decode("latin-1") if len(values) == 1 else ""
        if not HOST.fullmatch(text):
            raise ApiError(400, "host: expected one host name", close=True)
        name = text if text.endswith("]") else re.sub(r":[0-9]+$", "", text)
        if self.service.hosts and name.lower() not in self.service.hosts:
            raise ApiError(403, "host: this server does not answer to that name", close=True)

    def _write(self, scope: Scope, trace: Trace) -> None:
        """One line in the log, and the figures."""
        route = getattr(scope.get("route"), "path", "none")
        status = trace.status or CLOSED_BY_CLIENT
        seconds = time.monotonic() - trace.begun
        self.service.metrics.request(route, status, seconds)
        notes = "".join(f" {name}={value}" for name, value in trace.notes.items())
        failed = f" failed={trace.failed}" if trace.failed else ""
        log.info(
            "%s %s %s %d %.3fs key=%s%s%s",
            *(trace.id, scope["method"][:16], route, status, seconds, trace.key.name),
            *(notes, failed),
        )


def inside(trace: Trace) -> ApiError:
    """What a client is told of a fault of the server."""
    return ApiError(500, f"an error inside the server; it is logged as {trace.id}")


def _headers(trace: Trace) -> list[tuple[bytes, bytes]]:
    lines = {
        "x-request-id": trace.id,
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        **trace.headers,
    }
    return [(name.encode(), value.encode("latin-1")) for name, value in lines.items()]


async def _answer(error: ApiError, trace: Trace, send: Send) -> None:
    """Send an error, unless an answer has begun."""
    if trace.status:
        trace.failed = error.code
        return
    lines = {
        "content-type": "application/json",
        "content-length": str(len(error.body)),
        **error.headers,
    }
    headers = [(name.encode(), value.encode("latin-1")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body})


def _report(fault: Exception, trace: Trace) -> None:
    """Where a fault is from. Not what it says: that could hold a prompt."""
    frames = [
        f"\n  {frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(fault.__traceback__)
    ]
    log.error("%s: %s%s", trace.id, type(fault).__name__, "".join(frames))
