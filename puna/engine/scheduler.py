"""Which tokens are computed next, for whom, and in which blocks.

A step holds one more token for every answer that is decoding, and pieces of the prompts that are
being read, so that a long prompt holds nobody up. When the blocks run out, the youngest answer
gives its own back and is computed again later; its tokens stay, and so do its random numbers.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from puna.engine.blocks import BLOCK, Blocks, blocks_for
from puna.engine.sequence import Sequence

CHUNK = 512  # tokens of prompts that are read in one step

Propose = Callable[[Sequence], list[int]]


@dataclass(eq=False)
class Work:
    """Tokens start .. start+count-1 of a sequence, and guesses of those behind them.

    wanted: of so many of the last tokens, guesses included, the logits are needed.
    """

    sequence: Sequence
    start: int
    count: int
    wanted: int
    proposed: list[int] = field(default_factory=list)

    def tokens(self) -> list[int]:
        """What the runner computes."""
        return self.sequence.tokens(self.start, self.start + self.count) + self.proposed


@dataclass(eq=False)
class Plan:
    """One step: blocks to copy first (from, to), and the work."""

    copies: list[tuple[int, int]]
    works: list[Work]


class Scheduler:
    """The waiting and the running answers; at most `rows` run, and hold blocks.

    Tenants take turns, and within one the first to come is the first to start. patience: so many
    rows must be free before a waiting prompt holds the running answers up (more than one pays only
    where nobody looks at the single answer).
    """

    def __init__(self, blocks: Blocks, rows: int, chunk: int = CHUNK, patience: int = 1):
        self.blocks, self.rows, self.chunk, self.patience = blocks, rows, chunk, patience
        self.waiting: dict[str, deque[Sequence]] = {}  # by tenant, the one whose turn it is first
        self.running: list[Sequence] = []  # oldest first
        self.copies: list[tuple[int, int]] = []
        self.fresh = False  # whether somebody came since the engine last looked
        self.turns = 0
        self.preemptions = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not self.waiting

    @property
    def occupied(self) -> int:
        """Rows that are taken, those of samples that wait for their prompt included."""
        return len(self.running) + sum(len(s.followers) for s in self.running)

    def sequences(self) -> Iterator[Sequence]:
        """Every unfinished answer."""
        for queue in (self.running, *self.waiting.values()):
            for sequence in queue:
                yield sequence
                yield from sequence.followers

    def add(self, sequence: Sequence) -> None:
        """Let an answer, and the samples that follow it, wait for its turn."""
        self.waiting.setdefault(sequence.request.tenant, deque()).append(sequence)
        self.fresh = True

    def plan(self, propose: Propose | None = None) -> Plan:
        """The next step; no work if nothing can run."""
        self.copies = []
        works = self.decoding(propose)
        budget = self.chunk
        for sequence in self.running:
            reading = sequence.left > 1 or not sequence.ids
            if reading and (work := self.piece(sequence, budget)):
                works.append(work)
                budget -= work.count
        works += self.admit(budget)
        return Plan(self.copies, works)

    def decoding(self, propose: Propose | None) -> list[Work]:
        """One token, and the guesses behind it, for each answer that has begun; oldest first."""
        works = []
        for sequence in list(self.running):
            if sequence.turn == 0 or sequence.left != 1 or not sequence.ids:
                continue  # was preempted in this step, or is still reading its prompt
            if propose is None and self.ready(sequence):
                works.append(Work(sequence, sequence.computed, 1, 1))
                continue
            proposed = propose(sequence) if propose else []
            if proposed and not self.cover(sequence, sequence.length + len(proposed)):
                proposed = []
            if self.hold(sequence):
                start, count = sequence.computed, 1 + len(proposed)
                works.append(Work(sequence, start, 1, count, proposed))
        return works

    def piece(self, sequence: Sequence, budget: int) -> Work | None:
        """The next piece of a prompt; None if too little of the budget is left.

        A prompt is cut only where it is longer than a whole budget.
        """
        count = min(sequence.left, self.chunk)
        if count > budget:
            return None
        last = count == sequence.left
        return Work(sequence, sequence.computed, count, count if sequence.scoring else int(last))

    def admit(self, budget: int) -> list[Work]:
        """Start waiting answers while there are rows, blocks and tokens in the budget."""
        works: list[Work] = []
        free = self.rows - self.occupied
        if free < min(self.patience, self.rows):
            return works
        while self.waiting and free > 0 and budget > 0:
            tenant = next(iter(self.waiting))
            queue = self.waiting[tenant]
            sequence = self.split(queue, free)
            if not self.start(sequence):
                break
            work = self.piece(sequence, budget)
            if work is None:
                self.stop(sequence)
                break
            queue.popleft()
            del self.waiting[tenant]  # to the end of the round
            if queue:
                self.waiting[tenant] = queue
            works.append(work)
            budget -= work.count
            free -= 1 + len(sequence.followers)
        return works

    def split(self, queue: deque[Sequence], free: int) -> Sequence:
        """The first of a queue, with no more followers than fit beside it; the others wait on."""
        sequence = queue[0]
        if len(sequence.followers) >= free:
            first, *others = sequence.followers[free - 1 :]
            del sequence.followers[free - 1 :]
            first.followers = others
            queue.insert(1, first)
        return sequence

    def start(self, sequence: Sequence) -> bool:
        """Give a sequence the blocks of all its tokens, some of them found; False if there are too
        few.

        The last token is always computed, since its logits are needed.
        """
        known = 0 if sequence.scoring else sequence.length - 1
        found = self.blocks.find(sequence.block_keys(known))
        self.blocks.share(found)
        need = blocks_for(sequence.length) - len(found)
        spare = 1 + len(sequence.followers) if self.running else 0  # so that it soon goes on
        if need + spare > self.blocks.available:
            self.blocks.release(found)
            return False
        sequence.blocks = found + [self.blocks.take() for _ in range(need)]
        sequence.computed = sequence.named = len(found) * BLOCK
        if not sequence.ids:
            sequence.timings.cached_tokens = sequence.computed
        sequence.scored = [] if sequence.scoring else sequence.scored
        self.run(sequence)
        return True

    def run(self, sequence: Sequence) -> None:
        """Put it among the running, as the youngest."""
        self.turns += 1
        sequence.turn = self.turns
        self.running.append(sequence)

    def fork(self, sequence: Sequence) -> list[Sequence]:
        """Start the samples that waited for a prompt, which is in `sequence`'s blocks; all share
        them until one writes.
        """
        started, sequence.followers = sequence.followers, []
        for follower in started:
            self.blocks.share(sequence.blocks)
            follower.blocks = list(sequence.blocks)
            follower.computed, follower.named = sequence.computed, sequence.named
            follower.keys = list(sequence.keys)
            follower.timings.cached_tokens = sequence.computed
            self.run(follower)
        return started

    def ready(self, sequence: Sequence) -> bool:
        """Whether the block of the newest token is there, and nobody else's."""
        place = sequence.computed // BLOCK
        blocks = sequence.blocks
        return place < len(blocks) and self.blocks.references[blocks[place]] == 1

    def cover(self, sequence: Sequence, tokens: int) -> bool:
        """Blocks of its own for what a sequence writes up to `tokens`; False if there are too few.

        A block that others see is copied before it is written to.
        """
        place = sequence.computed // BLOCK
        owned = sequence.blocks
        copied = place < len(owned) and self.blocks.shared(owned[place])
        need = max(0, blocks_for(tokens) - len(owned))
        if need + copied > self.blocks.available:
            return False
        if copied:
            fresh = self.blocks.take()
            self.copies.append((owned[place], fresh))
            self.blocks.release([owned[place]])
            owned[place] = fresh
        owned += [self.blocks.take() for _ in range(need)]
        return True

    def hold(self, sequence: Sequence) -> bool:
        """Blocks for a sequence's newest token, at the cost of the youngest; False if that is
        itself.
        """
        while not self.cover(sequence, sequence.length):
            youngest = self.running[-1]
            self.stop(youngest)
            self.preemptions += 1
            self.waiting.setdefault(youngest.request.tenant, deque()).appendleft(youngest)
            if youngest is sequence:
                return False
        return True

    def stop(self, sequence: Sequence) -> None:
        """Take a sequence out of the running ones, and its blocks from it."""
        self.running.remove(sequence)
        self.blocks.release(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.named, sequence.turn = [], 0, 0, 0

    def keep(self, sequence: Sequence) -> None:
        """Let later prompts find the blocks that a sequence has filled."""
        full = sequence.computed // BLOCK
        if full > sequence.named // BLOCK:
            keys = sequence.block_keys(sequence.computed)
            for place in range(sequence.named // BLOCK, full):
                self.blocks.name(sequence.blocks[place], keys[place])
            sequence.named = full * BLOCK

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is finished or given up; its followers are forgotten with it."""
        if sequence.turn:
            self.stop(sequence)
            return
        tenant = sequence.request.tenant
        queue = self.waiting.get(tenant, deque())
        if sequence in queue:
            queue.remove(sequence)
            if not queue:
                del self.waiting[tenant]
