"""What a stage costs: wall-clock seconds, processor seconds, peak memory, energy; summed over
restarts.
"""

import contextlib
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WATTS_PER_CORE = (
    10.0  # a busy server core with its share of memory and losses; used where nothing measures
)
RAPL = Path("/sys/class/powercap")  # Linux: counters of the processor's energy, in microjoules
COUNTED = ("seconds", "cpu_seconds", "energy_wh")


class Costs:
    """Counts from its creation on, on top of `earlier` (the totals of the starts before)."""

    def __init__(self, earlier: Mapping[str, Any] | None = None) -> None:
        self._earlier = dict(earlier or {})
        self._wall = time.monotonic()
        self._cpu = cpu_seconds()
        self._joules = 0.0
        self._counters = rapl_counters()
        self.measured = bool(self._counters)
        reset_peak()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds, summed over restarts."""
        return float(self._earlier.get("seconds", 0.0)) + time.monotonic() - self._wall

    def totals(self) -> dict[str, Any]:
        """seconds, cpu_seconds, energy_wh, peak_memory_mb and how the energy is known."""
        cpu = cpu_seconds() - self._cpu
        joules = self._measure() if self.measured else cpu * WATTS_PER_CORE
        here = {
            "seconds": time.monotonic() - self._wall,
            "cpu_seconds": cpu,
            "energy_wh": joules / 3600,
        }
        totals: dict[str, Any] = {k: here[k] + float(self._earlier.get(k, 0.0)) for k in COUNTED}
        totals["peak_memory_mb"] = max(peak_mb(), float(self._earlier.get("peak_memory_mb", 0.0)))
        totals["energy_how"] = self._how()
        return totals

    def summary(self) -> dict[str, Any]:
        """`totals`, rounded for a report."""
        digits = {"seconds": 2, "cpu_seconds": 2, "energy_wh": 4, "peak_memory_mb": 1}
        return {k: round(v, digits[k]) if k in digits else v for k, v in self.totals().items()}

    def _how(self) -> str:
        estimate = f"estimated: processor seconds x {WATTS_PER_CORE:g} W a core"
        how = "measured: RAPL counters of the processor packages" if self.measured else estimate
        before = self._earlier.get("energy_how", how)
        return how if before == how else f"partly {estimate}"

    def _measure(self) -> float:
        """Joules since the start; the counters run over, so they are read at every call."""
        now = rapl_counters()
        for name, (value, limit) in now.items():
            before = self._counters.get(name, (value, limit))[0]
            self._joules += (value - before if value >= before else value + limit - before) / 1e6
        self._counters = now
        return self._joules


def cpu_seconds() -> float:
    """Processor seconds of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def reset_peak() -> None:
    """Starts the count of the peak memory anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float:
    """The most memory (MB of 10^6 bytes) this process held since `reset_peak`, or ever where that
    cannot be.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except (OSError, ValueError):
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def rapl_counters() -> dict[str, tuple[int, int]]:
    """Microjoules so far and the value at which the counter runs over, of each processor package;
    {} if unreadable.
    """
    counters = {}
    for package in RAPL.glob("intel-rapl:*"):
        if package.name.count(":") > 1:  # a part of a package, counted with it
            continue
        try:
            value = int((package / "energy_uj").read_text())
            counters[package.name] = (value, int((package / "max_energy_range_uj").read_text()))
        except (OSError, ValueError):
            return {}
    return counters
