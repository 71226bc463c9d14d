"""The worker's socket: one web process at a time, read by one thread and written to by another.

What happens there reaches the loop of `puna.engine.service` through its inbox, in order: `Arrived`,
a `Received` for each request, `Room` when a crowded outbox has emptied again, `Gone`.
"""

import os
import socket
import stat
import struct
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from puna.errors import InputError
from puna.text import wire

OUTBOX_BYTES = 4 << 20  # replies that may wait for a slow web process before the engine pauses
UNREAD = 256  # requests that may wait for the loop before reading pauses


@dataclass(frozen=True, eq=False)
class Arrived:
    """A web process has connected."""

    connection: "Connection"


@dataclass(frozen=True, eq=False)
class Received:
    """It asks for something."""

    connection: "Connection"
    request: wire.Request


@dataclass(frozen=True, eq=False)
class Room:
    """Its outbox was crowded and is half empty now."""

    connection: "Connection"


@dataclass(frozen=True, eq=False)
class Gone:
    """It has closed the connection, or sent something that is no request (`why`)."""

    connection: "Connection"
    why: str


@dataclass(frozen=True)
class Stop:
    """The process was told to end (SIGTERM)."""


Event = Arrived | Received | Room | Gone | Stop
Inbox = SimpleQueue[Event]


class Connection:
    """A connected web process. `send` never waits; whoever sends looks at `crowded` first."""

    def __init__(self, link: socket.socket, inbox: Inbox, limit: int = OUTBOX_BYTES):
        self.link, self.inbox, self.limit = link, inbox, limit
        self.unread = threading.Semaphore(UNREAD)
        self.waiting: deque[bytes] = deque()
        self.pending = 0  # bytes in the outbox
        self.open = True
        self.moved = time.monotonic()  # when the other side last took something, or had it all
        self.wakes = threading.Condition()

    def start(self) -> None:
        """Read and write from now on."""
        for work, name in ((self._read, "read"), (self._write, "write")):
            threading.Thread(target=work, name=f"puna-{name}", daemon=True).start()

    @property
    def crowded(self) -> bool:
        """Whether so much waits to be sent that nothing more should be made."""
        return self.open and self.pending > self.limit

    def send(self, data: bytes) -> None:
        """Put whole frames into the outbox; nothing happens if the other side is gone."""
        with self.wakes:
            if self.open and data:
                if not self.pending:
                    self.moved = time.monotonic()
                self.waiting.append(data)
                self.pending += len(data)
                self.wakes.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until everything is sent; False if that takes longer, or the other side went."""
        with self.wakes:
            self.wakes.wait_for(lambda: not self.pending or not self.open, seconds)
            return not self.pending

    def close(self) -> None:
        """Hang up. What is in the outbox is dropped; both threads end."""
        with self.wakes:
            self.open = False
            self.waiting.clear()
            self.pending = 0
            self.wakes.notify_all()
        try:
            self.link.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has closed already
            pass

    def _read(self) -> None:
        """The reading thread: requests to the inbox until the end of the connection."""
        why = "the connection was closed"
        try:
            with self.link.makefile("rb") as stream:
                while (request := wire.REQUESTS.read(stream)) is not None:
                    self.unread.acquire()
                    self.inbox.put(Received(self, request))
        except (InputError, OSError) as error:
            why = str(error)
        self.close()
        self.inbox.put(Gone(self, why))

    def _write(self) -> None:
        """The writing thread: the outbox to the socket."""
        while True:
            with self.wakes:
                self.wakes.wait_for(lambda: self.waiting or not self.open)
                if not self.open:
                    break
                data = memoryview(b"".join(self.waiting))
                self.waiting.clear()
            try:
                while data:
                    sent = self.link.send(data)
                    data = data[sent:]
                    self._took(sent)
            except OSError:  # the reading thread sees the end too, and tells of it
                self.close()
                break
        self.link.close()

    def _took(self, sent: int) -> None:
        with self.wakes:
            before, self.moved = self.pending, time.monotonic()
            self.pending = max(0, before - sent)
            half = self.limit // 2
            if self.open and before > half >= self.pending:
                self.inbox.put(Room(self))
            self.wakes.notify_all()


class Door:
    """The listening socket: this user's processes only, and one of them at a time."""

    def __init__(self, path: Path, inbox: Inbox, limit: int = OUTBOX_BYTES):
        """Listen at `path`, with mode 0600. InputError: the place is not private, or in use."""
        self.path, self.inbox, self.limit = path, inbox, limit
        self.current: Connection | None = None
        _refuse_open_place(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        hidden = path.with_name(f".{os.getpid()}")  # there is no `path` before it can be used
        before = os.umask(0o177)
        try:
            self.socket.bind(str(hidden))
            self.socket.listen(8)
            hidden.rename(path)
        except OSError as error:
            self.socket.close()
            hidden.unlink(missing_ok=True)
            reason = error.strerror or str(error)  # a path over 107 bytes has no errno
            raise InputError(f"socket: {path} cannot be used: {reason}") from None
        finally:
            os.umask(before)

    def open(self) -> None:
        """Accept connections from now on, in a thread."""
        threading.Thread(target=self._accept, name="puna-accept", daemon=True).start()

    def close(self) -> None:
        """Accept no more; the socket's file goes."""
        self.path.unlink(missing_ok=True)
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # some systems refuse this on a socket that listens
            pass
        self.socket.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self.socket.accept()
            except OSError:  # closed
                return
            if (self.current and self.current.open) or not _is_ours(link):
                link.close()
                continue
            self.current = Connection(link, self.inbox, self.limit)
            self.inbox.put(Arrived(self.current))
            self.current.start()


def _refuse_open_place(path: Path) -> None:
    """Make the folder of the socket; InputError if others can look into it or a worker is there."""
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise InputError(f"socket: {folder} cannot be made: {error.strerror or error}") from None
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.getuid() or mode & 0o077:
        raise InputError(f"socket: {folder} has mode {mode:o}, expected a folder of ours with 700")
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:  # left behind by a worker that was killed
            path.unlink(missing_ok=True)
            return
    raise InputError(f"socket: {path} is in use by another worker")


def _is_ours(link: socket.socket) -> bool:
    """Whether the other side runs as this user; where the system cannot tell, the modes decide."""
    if not sys.platform.startswith("linux"):
        return True
    try:
        found = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:  # it has hung up already
        return False
    return bool(struct.unpack("3i", found)[1] == os.getuid())
