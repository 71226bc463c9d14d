"""The process in which a model answers: `python -m puna.engine.worker --model PLACE --socket PATH`.

It loads the model, listens on a Unix socket for one web process at a time (`puna.text.wire`), and
ends on SIGTERM with status 0, after what runs is answered. With --lifeline it also ends when its
stdin does, that is when the process that started it is gone, however that came about.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

from puna import __version__
from puna.engine.connection import Door, Inbox, Stop
from puna.engine.replies import note
from puna.engine.service import Answering, Broken, Service
from puna.errors import InputError
from puna.text import wire

WRONG_INPUT = 2  # exit status: a setting or the model cannot be used; trying again would not help

Build = Callable[[], tuple[Answering, wire.Hello]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker from its command line; gives the exit status."""
    settings = parser().parse_args(argv)
    # Before torch is imported, which reads both once: how many threads compute, and how long they
    # spin while they wait for each other (as for every command, `puna.cli.prepare_process`).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)

    def build() -> tuple[Answering, wire.Hello]:
        return load(settings)

    return serve(settings.socket, build, grace=settings.grace, lifeline=settings.lifeline)


def load(settings: argparse.Namespace) -> tuple[Answering, wire.Hello]:
    """The engine that the settings ask for. InputError names the one that cannot be followed."""
    from puna.engine.engine import Engine
    from puna.engine.opening import GUESSED, Pool, find, open_runner

    named = named_paths(settings.adapter)
    note(f"loading {settings.model}")
    found = find(settings.model, settings.context, settings.format)
    pool = Pool(settings.rows, settings.kv_memory, settings.blocks)
    opened = open_runner(found, settings.quant, pool, threads=settings.threads, named=named)
    note(f"keys and values: {opened.runner.n_blocks} blocks, {opened.cache_bytes / 1e6:.0f} MB")
    draft = None
    if settings.draft:
        note(f"loading {settings.draft}, which guesses ahead")
        guesser = find(settings.draft, None)
        if guesser.tokenizer.sha256 != found.tokenizer.sha256:
            raise InputError(f"draft: {settings.draft} has another tokenizer than the model")
        draft = open_runner(guesser, settings.quant, Pool(GUESSED), threads=settings.threads).runner
    engine = Engine(opened.runner, found.tokenizer, settings.rows, draft=draft)
    context = min(opened.runner.context, engine.room)
    if context < opened.runner.context:
        note(
            f"the cache holds {context} tokens: fewer than the {opened.runner.context} of a context"
        )
    hello = wire.Hello(
        model=settings.model,
        format=found.tokenizer.format,
        context=context,
        vocab_size=opened.runner.vocab_size,
        kind=opened.kind,
        adapters=list(named),
        tokenizer=str(found.tokenizer.path),
        blocks=opened.runner.n_blocks,
        version=__version__,
    )
    return engine, hello


def named_paths(words: Sequence[str]) -> dict[str, Path]:
    """NAME=PATH words as a table. InputError: one of another form, a name given twice."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise InputError(f"adapter: {word!r} given, expected NAME=PATH")
        if name in found:
            raise InputError(f"adapter: the name {name!r} is given twice")
        found[name] = Path(path)
    return found


def parser() -> argparse.ArgumentParser:
    """The options of a worker."""
    found = argparse.ArgumentParser("python -m puna.engine.worker", description=__doc__)
    option = found.add_argument
    option("--model", required=True, help="a model in any format, by path or name")
    option("--socket", required=True, type=Path, help="where to listen; in a folder with mode 700")
    option("--quant", choices=QUANT, help="how weights are held; default: as the runner chooses")
    option("--format", help="prompt format; default: the model's own")
    option("--adapter", action="append", default=[], metavar="NAME=PATH", help="repeatable")
    option("--draft", help="a small model with the same tokenizer that guesses ahead")
    option("--threads", type=positive, help="of the computation; default: the free cores")
    option("--context", type=positive, help="tokens; default: the model's")
    option("--rows", type=positive, default=64, help="answers that grow at the same time")
    pool = found.add_mutually_exclusive_group()
    pool.add_argument("--kv-memory", type=amount, help="bytes of keys and values: 500M, 2G")
    pool.add_argument("--blocks", type=positive, help="blocks of keys and values, 16 tokens each")
    option("--grace", type=seconds, default=30.0, help="seconds to finish in after SIGTERM")
    option("--lifeline", action="store_true", help="end when stdin ends")
    return found


QUANT = ("int8", "int4", "bfloat16", "float32", "fp8", "none")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} given, expected 1 or more")
    return number


def seconds(text: str) -> float:
    """A time of 0 or more seconds, not without end."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} given, expected 0 or more seconds")
    return number


def amount(text: str) -> int:
    """A number of bytes: 1000000, 500M, 2G (powers of 1000)."""
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in units else (text, "")
    try:
        number = float(digits) * units.get(unit, 1)
        return positive(str(int(number)))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text} given, expected bytes, such as 500M") from None


def serve(path: Path, build: Build, *, grace: float = 30.0, lifeline: bool = False) -> int:
    """Load, listen at `path`, serve until told to stop; gives the exit status.

    0: stopped as told; 1: a fault that a new process may not have; 2: it cannot be started so.
    """
    if lifeline:
        threading.Thread(target=_watch_parent, args=(path,), daemon=True).start()
    try:
        engine, hello = build()
        inbox: Inbox = SimpleQueue()
        stop_on_signals(inbox)  # until here SIGTERM has ended the process at once
        door = Door(path, inbox)
    except InputError as error:
        note(str(error))
        return WRONG_INPUT
    door.open()
    note(f"ready: {hello.model}, {hello.kind}, context {hello.context}, {hello.blocks} blocks")
    try:
        Service(engine, hello, inbox, grace=grace).run()
    except Broken as error:
        note(f"giving up: {error}")
        return 1
    finally:
        door.close()
    note("stopped")
    return 0


def stop_on_signals(inbox: Inbox) -> None:
    """SIGTERM and SIGINT put `Stop` into the inbox.

    The system may hand a signal to any thread, while Python's handlers run only when the main
    thread does: so the handler itself only writes a byte, which a thread waits for.
    """
    told, waits = socket.socketpair()
    told.setblocking(False)

    def watch() -> None:
        while waits.recv(1):
            inbox.put(Stop())

    threading.Thread(target=watch, name="puna-signals", daemon=True).start()
    signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)


def _watch_parent(path: Path) -> None:
    """Wait for the end of stdin, then end this process, whatever it is doing."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    note("the process that started this worker is gone: ending")
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
