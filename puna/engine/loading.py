"""How far a model is read, told now and then while it loads."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from puna.model.source import Stored

SECONDS = 2.0  # between two lines; what is read sooner needs none

Tell = Callable[[str], None]


class Progress:
    """Counts tensors, of which about `total` are read: "41 %, 4 s" to `tell` every two seconds."""

    def __init__(self, tell: Tell, total: int) -> None:
        """Begin now."""
        self.tell, self.total, self.done = tell, max(total, 1), 0
        self.begun = self.told = time.monotonic()

    def count(self) -> None:
        """One more is there."""
        self.done += 1
        now = time.monotonic()
        if now - self.told >= SECONDS:
            self.told = now
            share = min(99, 100 * self.done // self.total)
            self.tell(f"{share} %, {now - self.begun:.0f} s")


def watched(tensors: Mapping[str, Stored], tell: Tell, times: int = 1) -> dict[str, Stored]:
    """The same tensors, each of which is read so many times, and counted."""
    progress = Progress(tell, times * len(tensors))

    def counted(read: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def reading() -> Tensor:
            found = read()
            progress.count()
            return found

        return reading

    return {name: replace(stored, read=counted(stored.read)) for name, stored in tensors.items()}
