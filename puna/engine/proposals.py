"""Guesses of the next tokens, for each running answer, and how many of them pay."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from puna.engine.blocks import Blocks, OutOfBlocks, blocks_for
from puna.engine.drawing import draw
from puna.engine.runner import Row, Runner, elastic
from puna.engine.scheduler import CHUNK
from puna.engine.sequence import Sequence as Answer
from puna.engine.speculation import Lookup, Pace, Shadow

ROWS = 4  # a larger batch uses the processor fully: a wrong guess costs as much as a token


@dataclass(eq=False)
class Guesser:
    """What an answer's guesses are made from."""

    lookup: Lookup
    pace: Pace = field(default_factory=Pace)


class Guesses:
    """Guesses for a step: by a draft model if there is one, else by what stood in the text."""

    def __init__(self, eos_id: int, draft: "Draft | None" = None):
        self.eos_id, self.draft = eos_id, draft
        self.drafted: dict[Answer, list[int]] = {}

    def prepare(self, running: Sequence[Answer]) -> bool:
        """Whether guesses pay in this step; the draft model makes its own here, for all at once."""
        self.drafted = {}
        if len(running) > ROWS:
            return False
        if self.draft:
            able = [a for a in running if a.ids and a.left == 1 and a.request.speculate]
            wanted = {answer: count for answer in able if (count := self.room(answer)) > 0}
            self.drafted = self.draft.guess(wanted, self.eos_id)
        return True

    def propose(self, answer: Answer) -> list[int]:
        """Tokens that may follow an answer's newest; none if it is not worth it."""
        if not answer.request.speculate:
            return []
        if self.draft:
            return self.drafted.get(answer, [])
        count = self.room(answer)
        if count <= 0:
            return []
        lookup: Lookup = answer.guesser.lookup
        lookup.extend(answer.ids[len(lookup.ids) - len(answer.prompt_ids) :])
        return lookup.propose(count)

    def room(self, answer: Answer) -> int:
        """How many guesses to make: as its pace says, and not beyond the answer's end."""
        if answer.guesser is None:
            answer.guesser = Guesser(Lookup(answer.prompt_ids if not self.draft else ()))
        pace: Pace = answer.guesser.pace
        return min(pace.length(), answer.limit - len(answer.ids) - 1)

    def learn(self, answer: Answer, proposed: int, right: int) -> None:
        """Take in how many of an answer's guesses were right."""
        answer.guesser.pace.learn(proposed, right)
        if self.draft:
            self.draft.keep(answer, right)

    def drop(self, answer: Answer) -> None:
        """An answer is over."""
        if self.draft:
            self.draft.drop(answer)


@dataclass(eq=False)
class Drafted:
    """Where an answer's keys and values are in the draft model's cache."""

    blocks: list[int] = field(default_factory=list)
    computed: int = 0  # tokens whose keys and values are there and right


class Draft:
    """A small model that draws an answer on with the answer's own random numbers.

    Its cache is its own; an answer that finds no room in it gets no guesses.
    """

    def __init__(self, runner: Runner):
        self.runner, self.blocks = runner, Blocks(runner.n_blocks)
        self.states: dict[Answer, Drafted] = {}
        self.failures = 0

    def guess(self, wanted: dict[Answer, int], eos_id: int) -> dict[Answer, list[int]]:
        """So many guesses for each answer; fewer or none where there is no room.

        A fault of the draft model costs the guesses, and no answer.
        """
        try:
            return self.drawn(wanted, eos_id)
        except Exception as error:
            self.failures += 1
            print(f"the draft model failed, going on without it: {error!r}", file=sys.stderr)
            for answer in list(self.states):
                self.drop(answer)
            return {}

    def drawn(self, wanted: dict[Answer, int], eos_id: int) -> dict[Answer, list[int]]:
        """The guesses, token by token, for all answers at once."""
        going = [answer for answer, count in wanted.items() if self.cover(answer, count)]
        going = [answer for answer in going if self.read(answer)]
        shadows = {a: Shadow(a, [a.peek(place) for place in range(wanted[a])]) for a in going}
        for place in range(max((wanted[answer] for answer in going), default=0)):
            going = [answer for answer in going if wanted[answer] > place]
            rows = [self.row(answer, shadows[answer].ids) for answer in going]
            logits = self.runner.forward(rows)
            found = draw(logits, [shadows[answer] for answer in going], eos_id)
            for answer, token in zip(going, found, strict=True):
                self.states[answer].computed = answer.length + place
                shadows[answer].push(token.id)
        return {answer: shadow.ids[len(answer.ids) :] for answer, shadow in shadows.items()}

    def row(self, answer: Answer, ids: list[int]) -> Row:
        """What the draft model has not seen of prompt and `ids`."""
        state, prompt = self.states[answer], len(answer.prompt_ids)
        tokens = ids[state.computed - prompt :] if state.computed >= prompt else None
        if tokens is None:
            tokens = answer.prompt_ids[state.computed :] + ids
        return Row(tokens, state.computed, state.blocks, 1, owner=answer.turn)

    def read(self, answer: Answer) -> bool:
        """Read a long prompt piece by piece, one in each step; whether it is read."""
        state = self.states[answer]
        if answer.length - state.computed <= CHUNK:
            return True
        tokens = answer.tokens(state.computed, state.computed + CHUNK)
        self.runner.forward([Row(tokens, state.computed, state.blocks, 0, owner=answer.turn)])
        state.computed += CHUNK
        return False

    def cover(self, answer: Answer, count: int) -> bool:
        """Blocks for an answer and so many guesses; False if there is no room."""
        tokens = answer.length + count
        if tokens > self.runner.context:
            return False
        state = self.states.setdefault(answer, Drafted())
        need = blocks_for(tokens) - len(state.blocks)
        runner = self.runner
        if elastic(runner) and need > self.blocks.available:
            runner.reserve(2 * self.blocks.count + need)
            self.blocks.grow(runner.n_blocks)
        try:
            state.blocks += [self.blocks.take() for _ in range(need)]
        except OutOfBlocks:
            return False
        return True

    def keep(self, answer: Answer, right: int) -> None:
        """Of what was guessed for an answer, so many were right: what follows is overwritten."""
        state = self.states.get(answer)
        if state is not None:  # it ends before the newest token, which nobody has computed
            state.computed = min(state.computed, answer.length - 1)

    def drop(self, answer: Answer) -> None:
        """Give an answer's blocks back."""
        state = self.states.pop(answer, None)
        if state is not None:
            self.blocks.release(state.blocks)
