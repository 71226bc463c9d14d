"""Guesses of the next tokens; one pass checks them (`puna.engine.step`), answers stay the same.

A guess is compared with the token that is drawn from the model's own logits with the answer's own
next random number. It is kept exactly where it is that token, so an answer is the same bit for bit
with and without guesses, and with any guesses: only its speed depends on them. Guesses come from
what stood in the text before (`Lookup`) or from a small model that draws with the same random
numbers (`Shadow`), so the closer its distribution is to the model's, the more often they agree.
"""

from collections.abc import Sequence

from puna.engine.drawing import Drawable
from puna.text.completion import SamplingParams

LONGEST, SHORTEST = 4, 2  # tokens that must have occurred before


class Lookup:
    """An index of what followed which tokens in one growing text.

    >>> Lookup([5, 6, 7, 8, 5, 6]).propose(3)
    [7, 8, 5]
    """

    def __init__(self, ids: Sequence[int] = ()) -> None:
        """Begin with a prompt."""
        self.ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where the newest occurrence ended
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        """Take the next tokens."""
        for id in ids:
            end = len(self.ids)  # the tokens before this one are followed by something now
            for size in range(SHORTEST, min(LONGEST, end) + 1):
                self._after[tuple(self.ids[end - size :])] = end
            self.ids.append(id)

    def propose(self, most: int) -> list[int]:
        """At most `most` guesses; none if the last two tokens did not stand together before.

        The longest of the last 4, 3 or 2 tokens that occurred before counts, in its newest place.
        A text that repeats itself is carried on in the same period.
        """
        ids, end = self.ids, len(self.ids)
        for size in range(min(LONGEST, end - 1), SHORTEST - 1, -1):
            start = self._after.get(tuple(ids[end - size :]))
            if start is not None:
                period = end - start
                return [ids[start + place % period] for place in range(most)]
        return []


class Pace:
    """How many guesses are worth checking, by how many were right lately.

    A guess in place k pays when all before it are right too, which happens at `rate` ** k, at
    least as often as its share of a pass, `cost`. While none pays, one is tried in every `patience`
    passes.
    """

    def __init__(self, most: int = 8, cost: float = 0.25, patience: int = 16) -> None:
        """Begin in good hope; `cost` is the time of one more token in a pass, as a share of it."""
        self.most, self.cost, self.patience = most, cost, patience
        self.rate = 0.8
        self._idle = 0

    def length(self) -> int:
        """How many guesses to make now."""
        count, chance = 0, self.rate
        while count < self.most and chance >= self.cost:
            count, chance = count + 1, chance * self.rate
        if count:
            return count
        self._idle = (self._idle + 1) % self.patience
        return 0 if self._idle else 1

    def learn(self, guessed: int, right: int) -> None:
        """Take in that the first `right` of `guessed` guesses were right."""
        decided = min(right + 1, guessed)  # what follows a wrong guess says nothing
        for place in range(decided):
            self.rate += 0.1 * ((place < right) - self.rate)


class Shadow:
    """An answer as a small model draws it on: with the answer's settings and random numbers."""

    def __init__(self, row: Drawable, uniforms: Sequence[float]) -> None:
        """Go on from `row`, which is left as it is; `uniforms` are its next random numbers."""
        self.params: SamplingParams = row.params
        self.prompt_ids, self.ids = row.prompt_ids, list(row.ids)
        self.grammar = row.grammar.copy() if row.grammar else None
        self._uniforms = iter(uniforms)

    def uniform(self) -> float:
        """The random number that the answer will draw this token with."""
        return next(self._uniforms)

    def push(self, id: int) -> None:
        """Append a guess."""
        self.ids.append(id)
        if self.grammar:
            self.grammar.advance(id)
