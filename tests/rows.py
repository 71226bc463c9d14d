"""Answers for tests of drawing: settings, tokens, and random numbers of their own."""

import random

from puna.engine.grammar import GrammarState
from puna.text.completion import SamplingParams


class FakeRow:
    """What `draw` needs of an answer, and nothing else."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: list[int] | None = None,
        ids: list[int] | None = None,
        grammar: GrammarState | None = None,
        seed: int = 0,
    ) -> None:
        self.params, self.grammar = params, grammar
        self.prompt_ids, self.ids = prompt_ids or [1], ids or []
        self.random, self.used = random.Random(seed), 0

    def uniform(self) -> float:
        self.used += 1
        return self.random.getrandbits(24) * 2.0**-24
