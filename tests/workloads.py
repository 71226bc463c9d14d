"""Random work for an engine, and a runner whose logits depend on all of a sequence's tokens."""

import hashlib
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from puna.engine.engine import Engine, Output, Request
from puna.engine.runner import Row
from puna.text.completion import SamplingParams

VOCABULARY = 384  # that of tiny_tokenizer


class FakeRunner:
    """Logits that are a hash of all tokens before, as its pages hold them.

    A block that is missing, stale or somebody else's shows in the very next token. The token that
    follows from the last one alone is likely, so that texts repeat themselves now and then.
    """

    block_size = 16

    def __init__(self, n_blocks: int = 64, context: int = 256, broken: int | None = None):
        self.n_blocks, self.context, self.vocab_size = n_blocks, context, VOCABULARY
        self.adapters = {"other": None}
        self.pages: list[list[int | None]] = [[None] * 16 for _ in range(n_blocks)]
        self.broken = broken  # a token at which a pass fails
        self.rows: list[list[Row]] = []

    def copy_block(self, source: int, target: int) -> None:
        self.pages[target] = list(self.pages[source])

    def prefixes(self, rows: Sequence[Row]) -> list[tuple[str, list[int]]]:
        """Adapter and all tokens up to each wanted one; the new tokens are written."""
        self.rows.append(list(rows))
        if any(self.broken in row.tokens for row in rows if self.broken is not None):
            raise RuntimeError("the pass failed")
        written = [
            {row.blocks[p // 16] for p in range(row.start, row.start + len(row.tokens))}
            for row in rows
        ]
        assert sum(map(len, written)) == len(set().union(*written)), "two rows write to one block"
        found = []
        for row in rows:
            text = [self.pages[row.blocks[p // 16]][p % 16] for p in range(row.start)]
            assert None not in text, "a page was never written"
            for position, token in enumerate(row.tokens, start=row.start):
                assert position < self.context and 0 <= token < VOCABULARY
                self.pages[row.blocks[position // 16]][position % 16] = token
                text.append(token)
            ends = range(len(text) - row.wanted + 1, len(text) + 1)
            found += [(row.adapter or "", text[:end]) for end in ends]
        return found

    def forward(self, rows: Sequence[Row]) -> Tensor:
        found = [logits(adapter, text) for adapter, text in self.prefixes(rows)]
        return torch.from_numpy(np.array(found).reshape(-1, VOCABULARY))

    def embed(self, rows: Sequence[Row]) -> Tensor:
        return self.forward(rows)[:, :4]


def logits(adapter: str, text: list[int]) -> "np.ndarray":
    """What follows a text: noise that is its hash, and one likely token."""
    digest = hashlib.blake2b(adapter.encode() + array("q", text).tobytes(), digest_size=8).digest()
    noise = np.random.default_rng(int.from_bytes(digest, "big"))
    found = noise.standard_normal(VOCABULARY, dtype=np.float32)
    found[3 + (text[-1] * 7 + 5) % 60] += 6
    return found


@dataclass
class Arrival:
    """A request, the step at which it comes, and the one at which it is cancelled."""

    request: Request
    comes: int
    cancelled: int | None = None


@dataclass
class Workload:
    """An engine's sizes, and who comes when."""

    blocks: int
    rows: int
    chunk: int
    arrivals: list[Arrival] = field(default_factory=list)


def random_params(draw: random.Random, stops: Sequence[str]) -> SamplingParams:
    """Settings with few or many of the ways to change a draw."""
    some = draw.random() < 0.5
    return SamplingParams(
        temperature=draw.choice([0.0, 0.7, 1.0, 1.5]),
        top_p=draw.choice([1.0, 0.8]),
        top_k=draw.choice([0, 5]),
        max_tokens=draw.choice([1, 7, 20, 45]),
        seed=draw.randrange(1000),
        min_p=draw.choice([0.0, 0.05]),
        repetition_penalty=draw.choice([1.0, 1.3]) if some else 1.0,
        presence_penalty=draw.choice([0.0, 0.5]) if some else 0.0,
        frequency_penalty=draw.choice([0.0, -0.5]) if some else 0.0,
        logit_bias=((draw.randrange(VOCABULARY), 3.0),) if draw.random() < 0.2 else (),
        stop=(draw.choice(stops),) if draw.random() < 0.3 else (),
        stop_ids=(draw.randrange(3, VOCABULARY),) if draw.random() < 0.3 else (),
        ignore_eos=draw.random() < 0.2,
        logprobs=draw.choice([None, 0, 3]),
    )


def random_workload(seed: int, context: int, stops: Sequence[str] = ("e", "th", " a")) -> Workload:
    """Prompts with common beginnings, of two tenants, that come and go at any time."""
    draw = random.Random(seed)
    work = Workload(draw.randint(5, 18), draw.randint(1, 6), draw.choice([5, 16, 40, 512]))
    begins = [[draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 70))] for _ in range(2)]
    most = min(context, work.blocks * 16) - 1
    for number in range(draw.randint(2, 6)):
        tail = [draw.randrange(VOCABULARY) for _ in range(draw.randint(0, 30))]
        whole = [*draw.choice(begins), *tail]
        request = Request(
            f"r{number}",
            whole[:most],
            random_params(draw, stops),
            n=draw.choice([1, 1, 2, 3]),
            adapter=draw.choice([None, None, "other"]),
            tenant=draw.choice(["a", "b"]),
            prompt_logprobs=draw.choice([None, None, 2]),
            speculate=draw.random() < 0.7,
        )
        comes = draw.randint(0, 30)
        leaves = comes + draw.randint(0, 20) if draw.random() < 0.25 else None
        work.arrivals.append(Arrival(request, comes, leaves))
    return work


Answers = dict[tuple[str, int], list[Output]]


def drive(engine: Engine, arrivals: Sequence[Arrival]) -> Answers:
    """Let requests come and go, until all is answered; checks the blocks at every step."""
    found: Answers = {}
    step = 0
    while not engine.idle or any(a.comes >= step for a in arrivals):
        outputs = []
        for arrival in arrivals:
            if arrival.comes == step:
                engine.add(arrival.request)
            if arrival.cancelled == step:
                outputs += engine.cancel(arrival.request.id)
        outputs += engine.step()
        for output in outputs:
            found.setdefault((output.id, output.sample), []).append(output)
        engine.blocks.check([s.blocks for s in engine.scheduler.sequences()])
        step += 1
        assert step < 5000, "the engine does not come to an end"
    assert engine.blocks.used == 0
    return found


def joined(outputs: Sequence[Output]) -> tuple:
    """All that an answer said: ids, log-probabilities and alternatives, text, how it ended."""
    drawn = tuple(token for output in outputs for token in output.drawn)
    scored = [tuple(o.prompt_logprobs) for o in outputs if o.prompt_logprobs is not None]
    text = "".join(output.text for output in outputs)
    assert [o.finish is not None for o in outputs] == [False] * (len(outputs) - 1) + [True]
    assert [token.id for token in drawn] == [id for o in outputs for id in o.ids]
    return drawn, text, outputs[-1].finish, outputs[-1].stop_reason, scored
