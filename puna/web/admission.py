"""Which requests go to a worker and which wait: a bounded queue, taken in turn from each key."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from puna.web.failures import ApiError, unavailable

Waiting = tuple[int, "asyncio.Future[None]"]


class Admission:
    """At most `slots` answers at one time, at most `queue` requests waiting; the keys take turns.

    A key that sends a thousand requests thus delays another key's by one round, not by a thousand.
    """

    def __init__(self, slots: int, queue: int) -> None:
        """All slots free, nobody waiting."""
        self.slots, self.queue, self.used = slots, queue, 0
        self._lines: dict[str, deque[Waiting]] = {}  # in the order of their turns

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(map(len, self._lines.values()))

    @contextlib.asynccontextmanager
    async def place(self, key: str, answers: int, seconds: float) -> AsyncIterator[None]:
        """Wait for the slots of some answers, and hold them.

        ApiError: 429 if the queue is full, 503 if its turn does not come within `seconds`.
        """
        weight = min(answers, self.slots)
        await self._enter(key, weight, seconds)
        try:
            yield
        finally:
            self.used -= weight
            self._grant()

    def close(self, error: ApiError) -> None:
        """Refuse everybody who waits."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            for _, turn in line:
                if not turn.done():
                    turn.set_exception(error)

    async def _enter(self, key: str, weight: int, seconds: float) -> None:
        if not self._lines and self.used + weight <= self.slots:
            self.used += weight
            return
        if self.waiting >= self.queue:
            raise ApiError(
                429, "the queue is full", code="queue_full", headers={"retry-after": "1"}
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append((weight, turn))
        try:
            await asyncio.wait({turn}, timeout=seconds)
        except asyncio.CancelledError:
            self._leave(key, weight, turn)
            raise
        if not turn.done():
            self._leave(key, weight, turn)
            raise unavailable(f"not begun within {seconds:g} s", code="deadline")
        turn.result()

    def _leave(self, key: str, weight: int, turn: "asyncio.Future[None]") -> None:
        """Stand in line no more; a turn that came in this moment is given back."""
        line = self._lines.get(key)
        if line is not None and (weight, turn) in line:
            line.remove((weight, turn))
            if not line:
                del self._lines[key]
        elif turn.done() and not turn.exception():
            self.used -= weight
        self._grant()

    def _grant(self) -> None:
        """Give free slots to the lines in turn."""
        while self._lines:
            key, line = next(iter(self._lines.items()))
            weight, turn = line[0]
            if self.used + weight > self.slots:
                return
            line.popleft()
            del self._lines[key]
            if line:
                self._lines[key] = line  # behind the others
            self.used += weight
            turn.set_result(None)
