"""One answer while it is generated: its tokens, its random numbers, and the reasons to stop."""

import hashlib
import random
from dataclasses import dataclass, field
from typing import Literal

Finish = Literal["stop", "length"]


def answer_seed(seed: int, prompt: int, sample: int) -> int:
    """A 64-bit seed for one answer: the same on every machine, unrelated to its neighbours'."""
    digest = hashlib.blake2b(f"{seed}/{prompt}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@dataclass(eq=False, slots=True)
class Sequence:
    """Answer number `sample` to prompt number `prompt`; at most `limit` tokens long.

    `random` belongs to this answer alone: its draws do not depend on what runs beside it.
    """

    prompt: int
    sample: int
    prompt_ids: list[int]
    limit: int
    random: random.Random
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def position(self) -> int:
        """The place of the newest token, counted from the start of the prompt."""
        return len(self.prompt_ids) + len(self.ids) - 1

    def uniform(self) -> float:
        """The next random number in [0, 1): a multiple of 2**-24, which float32 holds exactly."""
        return self.random.getrandbits(24) * 2.0**-24

    def push(self, token: int, logprob: float, eos: int) -> None:
        """Append a drawn token; `eos` (which stays in `ids`) or the limit ends the answer."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token == eos:
            self.finish = "stop"
        elif len(self.ids) >= self.limit:
            self.finish = "length"
