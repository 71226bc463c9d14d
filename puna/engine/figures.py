"""What a worker counts about itself: requests, faults, how long its steps take, its memory."""

import resource
import sys
import time
from bisect import bisect_left
from collections import Counter
from pathlib import Path

# Upper edges of the histogram of step times, in seconds.
EDGES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Figures:
    """Counts since the process started."""

    def __init__(self) -> None:
        """Start at zero."""
        self.counts: Counter[str] = Counter()
        self.steps = [0] * (len(EDGES) + 1)
        self.seconds = 0.0
        self.started = time.monotonic()

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[name] += number

    def step(self, seconds: float) -> None:
        """One step of the engine took so long."""
        self.steps[bisect_left(EDGES, seconds)] += 1
        self.seconds += seconds

    def values(self) -> dict[str, float]:
        """All counts by name; step_seconds_le_X counts the steps that took at most X seconds."""
        found: dict[str, float] = {name: float(number) for name, number in self.counts.items()}
        total = 0
        for edge, number in zip((*EDGES, "inf"), self.steps, strict=True):
            total += number
            found[f"step_seconds_le_{edge}"] = float(total)
        found["step_seconds_sum"] = self.seconds
        found["step_seconds_count"] = float(total)
        found["rss_bytes"] = float(resident_bytes())
        found["uptime_seconds"] = time.monotonic() - self.started
        return found


def resident_bytes(process: int | None = None) -> int:
    """Memory that a process holds now; where /proc is missing, the most that this one held."""
    try:
        pages = int(Path(f"/proc/{process or 'self'}/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def available_bytes() -> int:
    """Memory that could be taken now without swapping, of the machine and of this control group.

    0 where the system does not tell.
    """
    found = [_meminfo(), _group_room()]
    known = [value for value in found if value is not None]
    return min(known) if known else 0


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")), None)


def _group_room() -> int | None:
    """What a container's limit leaves (control groups v2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        return max(0, int(limit) - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        return None
