"""The server process: uvicorn with bounded connections, that ends in an orderly way.

At SIGTERM or SIGINT nothing new is accepted, what waits is sent away, what runs goes on for the
grace; what then still runs ends with an error its client can read. The exit status is 0.
"""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from puna.web.protocol import Bounds, bounded
from puna.web.service import Service

END_SECONDS = 5.0  # after the grace, for errors to be sent and read
BACKLOG = 2048


class Server(uvicorn.Server):
    """One server. `stop` asks it to end; `run` returns when it has."""

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        bounds: Bounds,
        grace: float,
        greet: Callable[[], None] | None = None,
        stay: bool = False,
    ) -> None:
        """A server of an application that holds `service`; `greet` is called once, when all models
        can be asked. stay: go on without any model, for the pages that need none.
        """
        self.service, self.grace, self.greet, self.stay = service, grace, greet, stay
        self.abandoned = False  # whether it ended because no model can be served any more
        config = uvicorn.Config(
            app,
            http=bounded(bounds),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=grace + END_SECONDS,  # type: ignore[arg-type]
        )
        super().__init__(config)

    def stop(self) -> None:
        """End, from any thread."""
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to end now; ten times a second."""
        if not self.stay and len(self.service.given_up) == len(self.service.models):
            self.abandoned = self.should_exit = True
        if self.greet and all(model.worker.ready for model in self.service.models.values()):
            self.greet()
            self.greet = None
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as the wish to end, which is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._signalled)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit and number == signal.SIGINT:  # the second Ctrl-C
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running answers end within the grace."""
        self.service.refuse_new()
        timer = asyncio.get_running_loop().call_later(self.grace, self.service.end_running)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. OSError: the address is taken, or no own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only where the protocol is named
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
