"""Which prompts start when: longest first, neighbours together, once enough rows are free."""

import random
from collections import deque
from collections.abc import Sequence as Seq

from puna.engine.sequence import Sequence, answer_seed

PREFILL_TOKENS = 4096  # the most tokens (padding included) of prompts read in one pass


class Scheduler:
    """The waiting answers: `n` for each prompt, at most `limits[i]` tokens each for prompt i.

    Prompts wait in the order of their length, longest first: neighbours then pad little and share
    the width of the cache, and the last answers to run are short ones.
    """

    def __init__(self, prompts: Seq[list[int]], limits: Seq[int], n: int, rows: int, seed: int):
        self.prompts, self.limits, self.rows, self.seed = prompts, limits, rows, seed
        self.patience = max(
            1, rows // 8
        )  # rows that must be free before running answers are held up
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        self.waiting = deque((prompt, range(n)) for prompt in order if n > 0)

    def admit(self, running: int) -> list[list[Sequence]]:
        """The groups to start beside `running` answers.

        A group is the samples that share one prompt's prefill. Empty when nothing waits, or when so
        few rows are free that it is better to let the others run on. A group is split only when it
        would otherwise be alone and still too large.
        """
        free = self.rows - running
        groups: list[list[Sequence]] = []
        if free < self.patience:
            return groups
        while self.waiting and free:
            prompt, samples = self.waiting[0]
            width = len(groups[0][0].prompt_ids) if groups else 0
            crowded = len(samples) > free or (len(groups) + 1) * width > PREFILL_TOKENS
            if groups and crowded:
                break
            self.waiting.popleft()
            if samples[free:]:
                self.waiting.appendleft((prompt, samples[free:]))
            groups.append([self.start(prompt, sample) for sample in samples[:free]])
            free -= len(groups[-1])
        return groups

    def start(self, prompt: int, sample: int) -> Sequence:
        """A fresh sequence with the random numbers that belong to (seed, prompt, sample)."""
        generator = random.Random(answer_seed(self.seed, prompt, sample))
        return Sequence(prompt, sample, self.prompts[prompt], self.limits[prompt], generator)


def moves(finished: Seq[int], running: int) -> list[tuple[int, int]]:
    """Rows to copy (from, to) so that those left of `running` rows fill the first places.

    >>> moves([0, 3], running=5)
    [(4, 0)]
    """
    kept = running - len(finished)
    gone = set(finished)
    sources = [row for row in range(kept, running) if row not in gone]
    return list(zip(sources, [row for row in finished if row < kept], strict=True))
