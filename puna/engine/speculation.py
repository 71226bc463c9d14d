"""Guessing the next tokens and checking the guesses in one pass; answers stay as they were.

A guess is compared with the token that is drawn from the model's own logits with the answer's own
next random number. It is kept exactly where it is that token, so an answer is the same bit for bit
with and without guesses, and with any guesses: only its speed depends on them. Guesses come from
what stood in the text before (`Lookup`) or from a small model that draws with the same random
numbers (`Shadow`), so the closer its distribution is to the model's, the more often they agree.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence

from torch import Tensor

from puna.engine.drawing import Drawable, Drawn, Undrawable, draw
from puna.text.completion import SamplingParams

LONGEST, SHORTEST = 4, 2  # tokens that must have occurred before


def lookup(ids: list[int], most: int) -> list[int]:
    """What may follow `ids`: what followed their last tokens when those occurred before.

    See `Lookup`, which finds the same step by step.
    """
    return Lookup(ids).propose(most)


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


class Uniforms:
    """An answer's random numbers, which can be looked at before they are used."""

    def __init__(self, generator: random.Random) -> None:
        """Draw from `generator`, which belongs to this answer alone."""
        self._random = generator
        self._ahead: deque[float] = deque()

    def take(self) -> float:
        """The next random number in [0, 1): a multiple of 2**-24, which float32 holds exactly."""
        return self._ahead.popleft() if self._ahead else self._fresh()

    def ahead(self, count: int) -> list[float]:
        """The next `count` numbers, which stay where they are."""
        while len(self._ahead) < count:
            self._ahead.append(self._fresh())
        return [self._ahead[place] for place in range(count)]

    def _fresh(self) -> float:
        return self._random.getrandbits(24) * 2.0**-24


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


def accept(
    logits: Tensor,
    rows: Sequence[Drawable],
    guesses: Sequence[Sequence[int]],
    push: Callable[[int, Drawn], bool],
    eos_id: int,
) -> list[int]:
    """Draw as many tokens of each row as its guesses allow; how many guesses were right.

    logits [sum(len(g) + 1 for g in guesses), V]: for each row those after its newest token and
    after each of its guesses. `push(index, drawn)` appends the token to rows[index] (its ids, its
    grammar) and says whether the row goes on. A row gets the tokens, and uses up the random
    numbers, of as many `draw` calls without guesses: all right guesses, and one token more.
    Undrawable, without `drawn`, if rows fail; the others have got their tokens.
    """
    starts = [0]
    for guess in guesses:
        starts.append(starts[-1] + len(guess) + 1)
    right, faults = [0] * len(rows), dict[int, Exception]()
    going = list(range(len(rows)))
    while going:
        places = [starts[index] + right[index] for index in going]
        drawn = _draw(logits[places], rows, going, eos_id, faults)
        following = []
        for index, token in drawn.items():
            more, guess = push(index, token), guesses[index][right[index] :]
            if guess and token.id == guess[0]:
                right[index] += 1
                if more:
                    following.append(index)
        going = following
    if faults:
        raise Undrawable(faults, [])
    return right


def _draw(
    logits: Tensor,
    rows: Sequence[Drawable],
    going: Sequence[int],
    eos_id: int,
    faults: dict[int, Exception],
) -> dict[int, Drawn]:
    """What is drawn for rows[index] of each index in `going`; what cannot be, in `faults`."""
    drawn: Sequence[Drawn | None]
    try:
        drawn = draw(logits, [rows[index] for index in going], eos_id)
    except Undrawable as error:
        drawn = error.drawn
        faults.update({going[place]: fault for place, fault in error.faults.items()})
    return {index: token for index, token in zip(going, drawn, strict=True) if token}
