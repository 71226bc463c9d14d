"""HTTP/1.1 on a connection, with a bound on everything a client can hold on to.

Beyond uvicorn's protocol: a head must be there within a time, and so must a body; a head is at most
32 KB and 100 lines; a length that is said twice, or beside chunks, ends the connection; above a
number of connections new ones are told to come later; who does not read what it asked for is cut.
"""

import asyncio
import http
import socket
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from puna.web.failures import ApiError, unavailable

HEAD_BYTES, HEAD_LINES = 32 << 10, 100
KERNEL_BYTES = 128 << 10  # of an answer that the kernel may keep for a client that does not read
OPEN_SECONDS = 5.0  # a closed connection's client may take so long to read its last answer


@dataclass(frozen=True)
class Bounds:
    """How many connections there may be, and how long each step of a client may take (s)."""

    connections: int = 1024
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 20.0


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    bounds = Bounds()  # of a server; `bounded` makes the class that has others

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing has been received."""
        super().__init__(*args, **kwargs)
        self._receiving: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, or refuse it: there are too many."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        if len(self.connections) > self.bounds.connections:
            self._refuse(unavailable("too many connections"))
        else:
            self._expect(self.bounds.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection's timers with it."""
        self._expect(None)
        self._stop_writing_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests. Whoever was refused is not listened to."""
        if self._refused:
            return
        if self._in_head:
            if self._head_bytes == 0 and self._receiving is None:
                self._expect(self.bounds.head_seconds)
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(ApiError(400, "upgrade: not supported"))
        except httptools.HttpParserError as error:
            fault = error.__context__ if isinstance(error.__context__, ApiError) else None
            self._refuse(fault or ApiError(400, "not an HTTP request"))
        else:
            if self._in_head and self._head_bytes > HEAD_BYTES:
                self._refuse(ApiError(431, f"the head has more than {HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target."""
        if len(self.url) + len(url) > HEAD_BYTES:
            raise ApiError(431, f"the head has more than {HEAD_BYTES} bytes")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one line of a head."""
        super().on_header(name, value)
        if len(self.headers) > HEAD_LINES:
            raise ApiError(431, f"the head has more than {HEAD_LINES} lines")

    def on_headers_complete(self) -> None:
        """The head is there: check it, and give the body its time."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEAD_BYTES:
            raise ApiError(431, f"the head has more than {HEAD_BYTES} bytes")
        lengths = [value for name, value in self.headers if name == b"content-length"]
        chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        if len(lengths) + chunked > 1 or not all(value.isdigit() for value in lengths):
            raise ApiError(400, "content-length: expected one number, or chunks")
        self._in_head, self._head_bytes = False, 0
        self._expect(self.bounds.body_seconds)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there."""
        self._expect(None)
        self._in_head = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read fast enough: give it a time to catch up."""
        super().pause_writing()
        self._stop_writing_timer()
        self._writing = self.loop.call_later(self.bounds.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._stop_writing_timer()
        super().resume_writing()

    def _stop_writing_timer(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _expect(self, seconds: float | None) -> None:
        """From now on the client has so long for what it is sending; None: it sends nothing."""
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None
        if seconds is not None:
            self._receiving = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._receiving = None
        part = "head" if self._in_head else "body"
        if self.cycle is not None and self.cycle.response_started:
            self.transport.abort()
        elif self._in_head and self._head_bytes == 0:  # it has not even begun
            self.transport.close()
        else:
            self._refuse(ApiError(408, f"the {part} did not come in time"))

    def _refuse(self, error: ApiError) -> None:
        """Answer with an error and end the connection, whatever else is on its way."""
        self._refused = True
        self._expect(None)
        if self.transport.is_closing():
            return
        running = self.cycle is not None and not self.cycle.response_complete
        if not (running and self.cycle.response_started):
            self.transport.write(_plain_answer(error))
        if running:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(OPEN_SECONDS, self.transport.abort)


def bounded(bounds: Bounds) -> type[BoundedProtocol]:
    """The protocol's class with these bounds."""
    return type("Protocol", (BoundedProtocol,), {"bounds": bounds})


def _plain_answer(error: ApiError) -> bytes:
    """An error as the bytes of a response after which the connection ends."""
    phrase = http.HTTPStatus(error.status).phrase
    lines = {
        "content-type": "application/json",
        "content-length": str(len(error.body)),
        **error.headers,
        "connection": "close",
    }
    head = f"HTTP/1.1 {error.status} {phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + error.body
