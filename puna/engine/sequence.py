"""One answer while it is generated: its tokens, its random numbers, and the reasons to stop."""

import hashlib
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from puna.engine.blocks import BLOCK, next_key, root_key
from puna.text.completion import SamplingParams
from puna.text.tokenizer import Tokenizer

Finish = Literal["stop", "length", "cancelled", "deadline", "error"]


def answer_seed(seed: int, prompt: int, sample: int) -> int:
    """A 64-bit seed for one answer: the same on every machine, unrelated to its neighbours'."""
    digest = hashlib.blake2b(f"{seed}/{prompt}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@dataclass(eq=False)
class Request:
    """A prompt and how it is to be answered.

    `n` answers share one reading of the prompt. deadline: a time of `time.monotonic`, in seconds,
    at which the answer is cut off. prompt_logprobs: also give the log-probability of every token of
    the prompt, with so many alternatives. tenant: whose prompt it is; tenants take turns, and never
    share a cached prefix. `number` is the prompt's place in a batch, and enters its random numbers.
    """

    id: str
    prompt_ids: list[int]
    params: SamplingParams
    n: int = 1
    adapter: str | None = None
    tenant: str = ""
    deadline: float | None = None
    prompt_logprobs: int | None = None
    speculate: bool = True
    number: int = 0
    whole: bool = False  # nobody looks at its text before the end


class Ends:
    """`puna.engine.stops.Stops` for an answer without stop strings, all of whose text comes last.

    It costs next to nothing a token.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams):
        self.finish: str | None = None
        self.reason: int | None = None
        self.decode, self.stop_ids = tokenizer.decode, params.stop_ids
        self.eos_id = None if params.ignore_eos else tokenizer.eos_id
        self.ids: list[int] = []

    def push(self, token: int) -> str:
        """Take one id; the text, if that ends the answer."""
        if token in self.stop_ids:
            self.finish, self.reason = "stop", token
        elif token == self.eos_id:
            self.finish = "stop"
        else:
            self.ids.append(token)
        return self.flush() if self.finish else ""

    def flush(self) -> str:
        """The text."""
        return self.decode(self.ids)


@dataclass(eq=False)
class Timings:
    """When what happened to an answer, in seconds of `time.monotonic`, and what was counted."""

    arrived: float = 0.0
    admitted: float = 0.0  # when its prompt began to be read
    first: float = 0.0  # when its first token was drawn
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    proposed: int = 0  # tokens guessed by speculation
    accepted: int = 0

    def summary(self, prompt: int, generated: int, now: float) -> dict[str, float]:
        """What a finished answer took; a part that it never came to took no time."""
        admitted = self.admitted or now
        first = self.first or now
        return {
            "prompt_tokens": prompt,
            "cached_tokens": self.cached_tokens,
            "generated": generated,
            "queue_seconds": admitted - self.arrived,
            "prompt_seconds": first - admitted,
            "first_token_seconds": first - self.arrived,
            "seconds": now - self.arrived,
            "proposed": self.proposed,
            "accepted": self.accepted,
        }


@dataclass(eq=False)
class Sequence:
    """Answer number `sample` to a request; at most `limit` tokens long.

    Its random numbers belong to it alone: they do not depend on what runs beside it. Keys and
    values of the first `computed` tokens (prompt and answer) are in its `blocks`.
    """

    request: Request
    sample: int
    limit: int
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    stop_reason: str | int | None = None
    error: Exception | None = None
    grammar: Any = None  # a GrammarState
    stops: Any = None  # a Stops or Ends: what may be shown, and what ends the answer
    output: Any = None  # the Output of one that is told at its end
    # where its keys and values are
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    named: int = 0  # tokens in blocks that later prompts can find
    keys: list[bytes] = field(default_factory=list)  # of its full blocks
    turn: int = 0  # when it was admitted, counted; a larger number is younger; 0: it waits
    followers: list["Sequence"] = field(default_factory=list)  # samples that share its prefill
    scored: list[Any] = field(default_factory=list)  # the prompt's log-probabilities so far
    guesser: Any = None  # a Guesser: what stood in its text, and how often guesses were right
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        """Seed the random numbers."""
        self.params: SamplingParams = self.request.params
        self.prompt_ids: list[int] = self.request.prompt_ids
        seed = answer_seed(self.request.params.seed, self.request.number, self.sample)
        self.source = random.Random(seed)
        self.ahead: deque[float] = deque()  # numbers that were looked at and not used yet

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.prompt_ids) + len(self.ids)

    @property
    def left(self) -> int:
        """Tokens whose keys and values are still to be computed; 1 while it is decoding."""
        return len(self.prompt_ids) + len(self.ids) - self.computed

    @property
    def scoring(self) -> bool:
        """Whether the log-probabilities of the prompt are asked for and not complete."""
        return self.request.prompt_logprobs is not None and self.sample == 0 and not self.ids

    def tokens(self, start: int, stop: int) -> list[int]:
        """Tokens start .. stop-1 of prompt and answer."""
        prompt = self.prompt_ids
        if start >= len(prompt):
            return self.ids[start - len(prompt) : stop - len(prompt)]
        return prompt[start:stop] + self.ids[: max(0, stop - len(prompt))]

    def peek(self, place: int) -> float:
        """The random number in [0, 1) that belongs to the token `place` places ahead.

        A multiple of 2**-24, which float32 holds exactly.
        """
        while len(self.ahead) <= place:
            self.ahead.append(self.source.getrandbits(24) * 2.0**-24)
        return self.ahead[place]

    def uniform(self) -> float:
        """The random number of the next token; the same until that token is pushed."""
        return self.peek(0)

    def push(self, token: int) -> None:
        """Append a drawn token, which uses up a random number."""
        if self.ahead:
            self.ahead.popleft()
        else:  # a token that was not drawn, but has its number all the same
            self.source.getrandbits(24)
        self.ids.append(token)

    def block_keys(self, tokens: int) -> list[bytes]:
        """The keys of the full blocks among the first `tokens` tokens."""
        count = tokens // BLOCK
        while len(self.keys) < count:
            before = self.keys[-1] if self.keys else self.root()
            start = len(self.keys) * BLOCK
            self.keys.append(next_key(before, self.tokens(start, start + BLOCK)))
        return self.keys[:count]

    def root(self) -> bytes:
        """The key before the first block."""
        return root_key(self.request.tenant, self.request.adapter)
