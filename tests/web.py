"""A whole server for tests: the real application on a real socket, before a worker that plays its
part in plain Python: it says what a test tells it to, token by token, and remembers what was asked.
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import openai

from puna import __version__
from puna.text import wire
from puna.text.tokenizer import StreamDecoder, Tokenizer
from puna.web.admission import Admission
from puna.web.app import build
from puna.web.keys import Keys
from puna.web.protocol import Bounds
from puna.web.server import Server, listen
from puna.web.service import Limits, Model, Service
from puna.web.site.site import Site
from puna.web.supervisor import Link, Supervisor, Unavailable

CONTEXT = 512
Script = Callable[[wire.Generate, int], str]


def by_default(asked: wire.Generate, sample: int) -> str:
    """What the fake says: a form where one is asked for, else a few words of its own."""
    grammar = asked.params.grammar
    if grammar is None:
        return f"tea {sample} for {len(asked.prompt)}"
    if grammar.kind == "regex":
        return "2023-07-18"
    schema = json.loads(grammar.text)
    if "anyOf" not in schema:
        return '{"drink": "tea"}'
    name = schema["anyOf"][0]["properties"]["name"]["const"]
    return json.dumps({"name": name, "arguments": {"size": "large"}})


class FakeWorker:
    """A worker's socket. Its answers are `script`; `pause` seconds lie between two tokens."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.path, self.tokenizer = path, tokenizer
        self.script: Script = by_default
        self.pause = 0.0
        self.failure: str = ""  # the kind of Failed that every request gets
        self.mute = False  # whether its requests get no answer
        self.hung = False  # whether it says nothing at all
        self.asked: list[wire.Generate] = []
        self.cancelled: list[str] = []
        self.running: dict[str, asyncio.Task[None]] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._open = threading.Event()
        self._thread.start()
        assert self._open.wait(5)

    def reset(self) -> None:
        """As it was at first."""
        self.script, self.pause, self.failure, self.mute = by_default, 0.0, "", False
        self.hung = False
        self.asked.clear()
        self.cancelled.clear()

    def break_off(self) -> None:
        """Die, as far as a connection shows it."""
        self.loop.call_soon_threadsafe(lambda: [w.transport.abort() for w in self._writers])

    def close(self) -> None:
        """End the thread."""
        self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_unix_server(self._converse, str(self.path))
        self._open.set()
        await self._stopped.wait()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        writer.write(wire.encode(self.hello))
        try:
            while (asked := await wire.REQUESTS.receive(reader)) is not None:
                self._take(asked, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            for task in self.running.values():
                task.cancel()
            self.running.clear()
            writer.close()

    @property
    def hello(self) -> wire.Hello:
        """What it says of itself."""
        return wire.Hello(
            model="fake",
            format="llama2",
            context=CONTEXT,
            vocab_size=self.tokenizer.vocab_size,
            kind="float32",
            adapters=["fr"],
            tokenizer=str(self.tokenizer.path),
            blocks=64,
            version=__version__,
        )

    def _take(self, asked: wire.Request, writer: asyncio.StreamWriter) -> None:
        if self.hung:
            return
        if isinstance(asked, wire.Cancel):
            self.cancelled.append(asked.id)
            if task := self.running.pop(asked.id, None):
                task.cancel()
        elif isinstance(asked, wire.Stats):
            writer.write(wire.encode(wire.Counters(values={"blocks_free": 64.0})))
        elif self.failure:
            failed = wire.Failed(id=asked.id, message="planted", kind=self.failure)
            writer.write(wire.encode(failed))
        elif isinstance(asked, wire.Embed):
            import struct

            vectors = [struct.pack("<2f", len(ids), 0.5) for ids in asked.prompts]
            writer.write(wire.encode(wire.Embedded(id=asked.id, vectors=vectors)))
        else:
            self.asked.append(asked)
            if not self.mute:
                self.running[asked.id] = self.loop.create_task(self._answer(asked, writer))

    async def _answer(self, asked: wire.Generate, writer: asyncio.StreamWriter) -> None:
        if asked.prompt_logprobs is not None:
            scores = [None, *(-1.0 for _ in asked.prompt[1:])]
            tops = [[(token, -1.0)] * bool(asked.prompt_logprobs) for token in asked.prompt]
            writer.write(wire.encode(wire.Prompt(id=asked.id, logprobs=scores, tops=tops)))
        await asyncio.gather(*(self._sample(asked, i, writer) for i in range(asked.n)))
        self.running.pop(asked.id, None)

    async def _sample(
        self, asked: wire.Generate, sample: int, writer: asyncio.StreamWriter
    ) -> None:
        params, tokenizer = asked.params, self.tokenizer
        ids = [*tokenizer.encode(self.script(asked, sample)), tokenizer.eos_id]
        told = ids[: params.max_tokens]
        decoder = StreamDecoder(tokenizer)
        began = time.monotonic()
        for place, token in enumerate(told):
            text = "" if token == tokenizer.eos_id else decoder.push(token)
            text += decoder.flush() if place == len(told) - 1 else ""
            tops = [[(token, -0.5), (7, -2.0)][: params.logprobs]] * (params.logprobs is not None)
            piece = wire.Piece(
                id=asked.id, sample=sample, ids=[token], text=text, logprobs=[-0.5], tops=tops
            )
            writer.write(wire.encode(piece))
            if self.pause:
                await asyncio.sleep(self.pause)
        done = wire.Done(
            id=asked.id,
            sample=sample,
            finish="stop" if told[-1] == tokenizer.eos_id else "length",
            prompt_tokens=len(asked.prompt),
            cached_tokens=16 if len(asked.prompt) > 16 else 0,
            completion_tokens=len(told),
            timings={
                "queue_seconds": 0.001,
                "prompt_seconds": 0.002,
                "first_token_seconds": 0.003,
                "seconds": 0.004 + time.monotonic() - began,
            },
        )
        writer.write(wire.encode(done))


class FakeSource:
    """Connections to a fake worker, as a supervisor makes them."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0
        self.gone = False  # whether there are no more connections for now
        self.failed = ""  # why there never will be
        self.killed: list[str] = []

    def start(self) -> None:
        """Nothing: the fake runs."""

    async def stop(self) -> None:
        """Nothing: the fake goes on."""

    def kill(self, why: str) -> None:
        """Only remembered: the fake goes on."""
        self.killed.append(why)

    async def link(self, after: int = 0) -> Link:
        """The next connection."""
        while self.gone or not self.path.exists():
            if self.failed:
                raise Unavailable(self.failed)
            await asyncio.sleep(0.01)
        if self.failed:
            raise Unavailable(self.failed)
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        hello = await wire.REPLIES.receive(reader)
        assert isinstance(hello, wire.Hello)
        self.number += 1
        return Link(self.number, reader, writer, hello)


@dataclass
class Running:
    """A server that answers, and what is behind it."""

    service: Service
    server: Server
    port: int
    fake: FakeWorker
    source: FakeSource
    thread: threading.Thread
    token: str = ""
    clients: list[object] = field(default_factory=list)
    plain: dict[str, httpx2.Client] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def http(self, token: str | None = None) -> httpx2.Client:
        """A plain client."""
        key = self.token if token is None else token
        if key not in self.plain:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            self.plain[key] = httpx2.Client(
                base_url=self.url, headers=headers, timeout=20, verify=False
            )
            self.clients.append(self.plain[key])
        return self.plain[key]

    def openai(self, token: str = "") -> openai.OpenAI:
        """OpenAI's own client."""
        key = token or self.token or "none"
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=20)
        self.clients.append(client)
        return client

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def say(self, data: bytes) -> bytes:
        """Everything that the server answers to these bytes before it closes."""
        with self.connect() as sock:
            with contextlib.suppress(OSError):
                sock.sendall(data)
            return drained(sock)

    def chat(self, **fields: object) -> httpx2.Response:
        """A chat request with a short conversation, and these fields."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "tea"}], **fields}
        return self.http().post("/v1/chat/completions", json=body)

    def alive(self) -> bool:
        """Whether it still answers."""
        return self.http().get("/health").status_code == 200


def drained(sock: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            found += data
    return found


def post(path: str, body: bytes, head: str = "") -> bytes:
    """The bytes of a request whose connection ends after the answer."""
    lines = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    lines += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{head}\r\n"
    return lines.encode() + body


def until(holds: Callable[[], object], seconds: float = 5.0) -> bool:
    """Whether something comes about within a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.005)
    return False


@contextlib.contextmanager
def serving(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    keys: Keys | None = None,
    token: str = "",
    limits: Limits | None = None,
    bounds: Bounds | None = None,
    admission: tuple[int, int] = (64, 256),
    grace: float = 1.0,
    origins: tuple[str, ...] = (),
    ready: bool = True,
    real: Supervisor | None = None,
    hang: float = 300.0,
    seconds: float = 5.0,
    pages: Callable[[Service], Site] | None = None,
) -> Iterator[Running]:
    """A server in a thread. real: what leads to its worker, which may take `seconds` to start;
    pages: makes the site of the service."""
    fake = FakeWorker(folder / "worker", tokenizer)
    source = FakeSource(folder / "worker")
    source.gone = not ready
    service = Service(
        models={"tiny": Model("tiny", real or source, hang)},
        keys=keys or Keys(),
        limits=limits or Limits(),
        admission=Admission(*admission),
        hosts=frozenset({"localhost", "127.0.0.1", "[::1]"}),
    )
    app = build(service, origins, pages(service) if pages else None)
    server = Server(app, service, bounds or Bounds(), grace)
    sock = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    running = Running(service, server, sock.getsockname()[1], fake, source, thread, token)
    try:
        assert until(lambda: server.started)
        assert not ready or until(lambda: service.models["tiny"].worker.ready, seconds)
        yield running
    finally:
        for client in running.clients:
            client.close()  # type: ignore[attr-defined]
        server.stop()
        thread.join(15)
        fake.close()
        assert not thread.is_alive()
