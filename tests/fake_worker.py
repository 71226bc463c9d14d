"""A worker process whose engine is plain Python: what the real one promises, in a few lines.

`python -m tests.fake_worker --socket PATH [--crash | --refuse | --slow]`; used by the tests of the
supervisor and of the web rooms, which need a process to talk to and no model.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from puna import __version__
from puna.engine import worker
from puna.engine.sequence import Request
from puna.errors import InputError
from puna.text import wire

CONTEXT, BLOCKS, BLOCK = 4096, 64, 16
LONG = 100_000  # a token that asks for pieces of 100,000 letters
SAMPLER, STEP, CRASH = 100_001, 100_002, 100_003  # tokens at which something fails


class FakeDrawn(NamedTuple):
    """A token as it was drawn."""

    id: int
    logprob: float
    tops: tuple[tuple[int, float], ...]


@dataclass
class FakeOutput:
    """What one step did for one sample."""

    id: str
    sample: int
    ids: list[int]
    text: str
    drawn: list[FakeDrawn]
    finish: str | None = None
    stop_reason: str | int | None = None
    timings: dict[str, float] | None = None
    prompt_logprobs: list[FakeDrawn | None] | None = None
    error: Exception | None = None


@dataclass
class Growing:
    """A request that is being answered."""

    request: Request
    blocks: int
    ids: dict[int, list[int]] = field(default_factory=dict)


class Vector:
    """A row as a tensor would give it."""

    def __init__(self, numbers: list[float]):
        self.numbers = numbers

    def cpu(self) -> "Vector":
        return self

    def numpy(self) -> "Vector":
        return self

    def astype(self, kind: str) -> "Vector":
        assert kind == "<f4"
        return self

    def tobytes(self) -> bytes:
        import struct

        return struct.pack(f"<{len(self.numbers)}f", *self.numbers)


class FakeEngine:
    """Says every sample's tokens one a step: the prompt's last token plus 1, 2, 3 ..."""

    def __init__(self, pause: float = 0.0):
        self.pause = pause
        self.waiting: list[Request] = []
        self.growing: dict[str, Growing] = {}
        self.steps = 0

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.growing

    @property
    def used(self) -> int:
        return sum(growing.blocks for growing in self.growing.values())

    @property
    def counters(self) -> Mapping[str, float]:
        return {
            "running": len(self.growing),
            "waiting": len(self.waiting),
            "blocks_free": BLOCKS - self.used,
            "steps": self.steps,
        }

    def add(self, request: Request) -> None:
        if len(request.prompt_ids) >= CONTEXT:
            raise InputError(f"prompt: {len(request.prompt_ids)} tokens, expected fewer")
        if request.adapter not in (None, "fr"):
            raise InputError(f"adapter: {request.adapter!r} is unknown")
        self.waiting.append(request)

    def cancel(self, id: str) -> Sequence[FakeOutput]:
        self.waiting = [request for request in self.waiting if request.id != id]
        found = self.growing.pop(id, None)
        if found is None:
            return []
        return [FakeOutput(id, sample, [], "", [], "cancelled") for sample in found.ids]

    def step(self) -> Sequence[FakeOutput]:
        time.sleep(self.pause)
        self.steps += 1
        while self.waiting:
            need = -(-len(self.waiting[0].prompt_ids) // BLOCK) + 1
            if self.used + need > BLOCKS:
                break
            request = self.waiting.pop(0)
            self.growing[request.id] = Growing(request, need, {i: [] for i in range(request.n)})
        outputs = []
        for growing in list(self.growing.values()):
            outputs += self.grow(growing)
        return outputs

    def grow(self, growing: Growing) -> list[FakeOutput]:
        request, found = growing.request, []
        last = request.prompt_ids[-1]
        if last == STEP:
            raise RuntimeError("planted in the step")
        if last == CRASH:
            os._exit(9)
        late = request.deadline is not None and time.monotonic() >= request.deadline
        for sample, ids in list(growing.ids.items()):
            token = last + len(ids) + 1
            ids.append(token)
            text = "x" * 100_000 if last == LONG else f"{token} "
            drawn = FakeDrawn(token, -0.5, ((token, -0.5),) * (request.params.top_k > 1))
            output = FakeOutput(request.id, sample, [token], text, [drawn])
            if request.prompt_logprobs is not None and len(ids) == 1:
                scored = [FakeDrawn(id, -1.0, ()) for id in request.prompt_ids[1:]]
                output.prompt_logprobs = [None, *scored]
            if last == SAMPLER:
                output.finish, output.error = "error", RuntimeError("planted in the sampler")
            elif late or len(ids) >= request.params.max_tokens:
                output.finish = "deadline" if late else "length"
                output.timings = {"cached_tokens": 2, "seconds": 0.5}
                del growing.ids[sample]
            found.append(output)
        if not growing.ids or last == SAMPLER:
            self.growing.pop(request.id, None)
        return found

    def embed(self, prompts: Sequence[list[int]], adapter: str | None = None) -> list[Vector]:
        if any(prompt[-1] == SAMPLER for prompt in prompts):
            raise RuntimeError("planted in embed")
        return [Vector([float(len(prompt)), float(sum(prompt))]) for prompt in prompts]


def hello(tokenizer: str = "") -> wire.Hello:
    """What the fake says of itself."""
    return wire.Hello(
        model="fake",
        format="llama2",
        context=CONTEXT,
        vocab_size=32000,
        kind="float32",
        adapters=["fr"],
        tokenizer=tokenizer,
        blocks=BLOCKS,
        version=__version__,
    )


def main() -> int:
    """Serve, or fail as told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--grace", type=float, default=30.0)
    parser.add_argument("--lifeline", action="store_true")
    parser.add_argument("--pause", type=float, default=0.001)
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--crash", action="store_true")
    parser.add_argument("--refuse", action="store_true")
    parser.add_argument("--slow", action="store_true")
    settings = parser.parse_args()

    def build() -> tuple[FakeEngine, wire.Hello]:
        if settings.crash:
            print("planted at the start", file=sys.stderr, flush=True)
            os._exit(7)
        if settings.refuse:
            raise InputError("model: nowhere, expected a model")
        if settings.slow:
            time.sleep(60)
        return FakeEngine(settings.pause), hello(settings.tokenizer)

    return worker.serve(settings.socket, build, grace=settings.grace, lifeline=settings.lifeline)


if __name__ == "__main__":
    sys.exit(main())
