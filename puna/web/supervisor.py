"""Engine workers as subprocesses: started, watched, started again when they die, and ended.

    supervisor = Supervisor("smollm2", worker_command("smollm2", ["--quant", "int8"]))
    supervisor.start()
    link = await supervisor.link()            # the first worker has loaded its model
    link = await supervisor.link(link.number) # after that connection broke: the next one
    await supervisor.stop()

What a worker writes to stderr is passed on line by line under its model's name. A worker lives no
longer than the process that started it: its stdin is a pipe from here, whose end it watches.
"""

import asyncio
import contextlib
import re
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from puna import __version__
from puna.errors import InputError
from puna.text import wire

HELLO_SECONDS = 10.0  # from connecting to `Hello`
HEALTHY_SECONDS = 60.0  # a worker that lives so long has not died of its start
BACK_OFF = 0.5  # seconds before the first new start; doubled each time
BACK_OFF_MOST = 30.0
LINE = 2000  # characters of a line of the log; the rest is cut off
WRONG_INPUT = 2  # exit status of a worker that was started with a setting it cannot follow

State = Literal["starting", "ready", "restarting", "stopping", "stopped", "failed"]
Log = Callable[[str], None]


class Unavailable(Exception):
    """There is no worker and there will be none: why, in one line."""


@dataclass(frozen=True)
class Link:
    """A connection to a worker that has said hello. Whoever holds it closes `writer`."""

    number: int  # counts the connections of this supervisor, from 1
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)
    hello: wire.Hello


def worker_command(model: str, options: Sequence[str] = ()) -> list[str]:
    """The command line of a worker for a model, without its socket."""
    return [sys.executable, "-m", "puna.engine.worker", "--model", model, *options]


class Supervisor:
    """One model's worker. `start` it inside a running event loop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        tries: int = 5,
        start_seconds: float = 1800.0,
        grace: float = 30.0,
        ending: float | None = None,
        back_off: float = BACK_OFF,
        healthy: float = HEALTHY_SECONDS,
        log: Log | None = None,
    ):
        """tries: deaths in a row until it is given up; a worker that lived `healthy` seconds after
        its hello starts the count again. start_seconds: for loading the model. grace: seconds that
        running answers have to end in when the worker is told to stop, by `stop` or by somebody
        else. ending: seconds that `stop` waits until it kills; none: a little more than the grace.
        """
        self.name, self.command, self.tries = name, list(command), tries
        self.start_seconds, self.grace, self.ending = start_seconds, grace, ending
        self.back_off, self.healthy = back_off, healthy
        self.log = log or (lambda line: print(line, file=sys.stderr, flush=True))
        self.state: State = "starting"
        self.reason = ""  # why it failed
        self.restarts = 0
        self.process: Process | None = None
        self.current: Link | None = None
        self._last = ""  # the last line of the log
        self._count = 0  # links so far
        self._taken = 0  # number of the newest link that somebody holds or held
        self._changed = asyncio.Condition()
        self._broken = asyncio.Event()  # the present link is of no use any more
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; `link` waits until the worker is ready."""
        self._task = asyncio.create_task(self._run(), name=f"supervise {self.name}")

    async def link(self, after: int = 0) -> Link:
        """A connection whose number is above `after`; each is given to one caller.

        Asking with the number of a link says that this link is broken. Unavailable: the worker was
        given up or stopped.
        """
        async with self._changed:
            if self.current is not None and self.current.number <= after:
                self._broken.set()
            await self._changed.wait_for(lambda: self._over or self._fresh(after))
            if self.current is None or self._over:
                raise Unavailable(self.reason or f"{self.name}: the worker has stopped")
            self._taken = self.current.number
            return self.current

    async def stop(self) -> None:
        """End the worker: SIGTERM, which lets it finish what runs, and SIGKILL after the grace."""
        self._stopping.set()
        if self.state not in ("failed", "stopped"):
            self.state = "stopping"
        if self._task is not None:
            await self._task

    def kill(self, why: str = "") -> None:
        """End the worker at once; it is started again unless `stop` was called."""
        if self.process is not None and self.process.returncode is None:
            if why:
                self.log(f"{self.name}: the worker is killed: {why}")
                self._last = why
            self.process.kill()

    @property
    def health(self) -> dict[str, str | int | None]:
        """What /health says of this worker."""
        pid = None if self.process is None else self.process.pid
        return {"state": self.state, "restarts": self.restarts, "pid": pid, "reason": self.reason}

    @property
    def _over(self) -> bool:
        return self.state in ("failed", "stopped")

    def _fresh(self, after: int) -> bool:
        return self.current is not None and self.current.number > max(after, self._taken)

    async def _run(self) -> None:
        """The life of all workers, one after the other."""
        deaths = 0
        try:
            while not self._stopping.is_set():
                lived, status = await self._one()
                if self._stopping.is_set():
                    break
                deaths = 1 if lived >= self.healthy else deaths + 1
                said = f": {self._last}" if self._last else ""
                what = f"{self.name}: the worker ended ({_status(status)}){said}"
                if status == WRONG_INPUT or deaths >= self.tries:
                    again = f", {deaths} times in a row" if deaths > 1 else ""
                    await self._become("failed", f"{what}; given up{again}")
                    self.log(self.reason)
                    return
                pause = min(self.back_off * 2 ** (deaths - 1), BACK_OFF_MOST)
                self.log(f"{what}; starting again in {pause:g} s")
                await self._become("restarting", what)
                self.restarts += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
        except Exception as error:  # the system refuses a process, a folder
            await self._become("failed", f"{self.name}: the worker cannot be started: {error}")
            self.log(self.reason)
            return
        await self._become("stopped")

    async def _become(self, state: State, reason: str = "") -> None:
        async with self._changed:
            if not (self._stopping.is_set() and state in ("ready", "restarting")):
                self.state, self.reason = state, reason
            if state != "ready":
                if self.current is not None and self.current.number > self._taken:
                    self.current.writer.close()  # nobody else will
                self.current = None
            self._changed.notify_all()

    async def _one(self) -> tuple[float, int]:
        """One worker from its start to its end: seconds after its hello, and its exit status."""
        folder = Path(tempfile.mkdtemp(prefix="puna-"))  # mode 0700
        command = [*self.command, "--socket", str(folder / "worker"), "--lifeline"]
        command += ["--grace", f"{self.grace:g}"]
        self._last = ""
        try:
            self.process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True
            )
            forward = asyncio.create_task(self._forward(self.process))
            lived = 0.0
            try:
                if await self._connect(folder / "worker", self.start_seconds):
                    ready = time.monotonic()
                    await self._watch(folder / "worker")
                    lived = time.monotonic() - ready
            finally:
                status = await self._end(self.process)
                await forward
            return lived, status
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _connect(self, path: Path, seconds: float) -> bool:
        """Connect as soon as the worker listens, and take its hello; False: it will not."""
        assert self.process is not None
        ended = asyncio.create_task(self.process.wait())
        stopped = asyncio.create_task(self._stopping.wait())
        hello = asyncio.create_task(_greet(path))
        try:
            await asyncio.wait(
                {ended, stopped, hello}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not hello.done():
                late = not ended.done() and not stopped.done()
                if late:
                    self._last = f"it was not ready after {seconds:g} s"
                return False
            reader, writer, said = hello.result()
        except InputError as error:
            self._last = str(error)
            return False
        finally:
            for task in (ended, stopped, hello):
                task.cancel()
        self._broken.clear()
        self._count += 1
        self.current = Link(self._count, reader, writer, said)
        await self._become("ready")
        return True

    async def _watch(self, path: Path) -> None:
        """Until the worker dies or is to stop; a broken connection is made again."""
        assert self.process is not None
        while True:
            ended = asyncio.create_task(self.process.wait())
            stopped = asyncio.create_task(self._stopping.wait())
            broken = asyncio.create_task(self._broken.wait())
            tasks = {ended, stopped, broken}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            if ended.done() or stopped.done():
                return
            # A dying worker closes its connection a moment before it is gone.
            if not await self._connect(path, HELLO_SECONDS):
                return

    async def _end(self, process: Process) -> int:
        """The exit status of a worker; one that still runs is asked to end, then made to."""
        if process.returncode is None and self._stopping.is_set():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                patience = self.grace + 5 if self.ending is None else self.ending
                await asyncio.wait_for(process.wait(), patience)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        return await process.wait()

    async def _forward(self, process: Process) -> None:
        """The worker's output to the log, line by line."""
        assert process.stdout is not None
        rest = b""
        while data := await process.stdout.read(1 << 16):
            *lines, rest = re.split(rb"[\r\n]+", rest + data)
            for line in lines:
                self._tell(line)
            if len(rest) > 4 * LINE:
                self._tell(rest)
                rest = b""
        self._tell(rest)

    def _tell(self, line: bytes) -> None:
        text = "".join(c for c in line.decode("utf-8", "replace") if c.isprintable())[:LINE]
        if text.strip():
            self._last = text.strip()
            self.log(f"[{self.name}] {text}")


async def _greet(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, wire.Hello]:
    """Connect to a worker's socket, as soon as it is there. InputError: it is no worker of ours."""
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.sleep(0.02)
            continue
        try:
            said = await asyncio.wait_for(wire.REPLIES.receive(reader), HELLO_SECONDS)
        except (OSError, TimeoutError):
            said = None
        if said is None:  # another connection is not over yet
            writer.close()
            await asyncio.sleep(0.02)
            continue
        if not isinstance(said, wire.Hello) or said.version != __version__:
            writer.close()
            theirs = said.version if isinstance(said, wire.Hello) else type(said).__name__
            raise InputError(f"the worker is of version {theirs}, expected {__version__}")
        return reader, writer, said


def _status(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
