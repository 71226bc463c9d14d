"""A measured number with its 95 % interval: Wilson's for rates, the bootstrap for means."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puna.errors import InputError

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Estimate:
    """A measured value, the ends of its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """The four fields as a JSON object, the form `results.json` keeps."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def same_length(where: str, **lists: Sequence[Any]) -> int:
    """The common length of the given lists; InputError when they differ or are empty."""
    sizes = {name: len(values) for name, values in lists.items()}
    if len(set(sizes.values())) != 1:
        raise InputError(f"{where}: lists of one length were expected, not {sizes}")
    n = next(iter(sizes.values()))
    if n == 0:
        raise InputError(f"{where}: no cases were given")
    return n


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927); a tie may count as half a success.

    Raises InputError unless 0 <= successes <= n and n > 0.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise InputError(f"wilson: 0 <= successes <= n with n > 0 was expected: {successes}, {n}")
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high


def proportion(outcomes: Sequence[float]) -> Estimate:
    """The mean of outcomes in [0, 1] (0, 1, a tie 0.5) with Wilson's interval."""
    n = same_length("proportion", outcomes=outcomes)
    total = math.fsum(outcomes)
    return Estimate(total / n, *wilson(total, n), n)


def bootstrap_mean(
    values: Sequence[float], rng: np.random.Generator, rounds: int = 1000
) -> Estimate:
    """The mean with the percentile bootstrap's 95 % interval from `rounds` resamples."""
    n = same_length("bootstrap_mean", values=values)
    data = np.asarray(values, dtype=np.float64)
    means = [float(data[rng.integers(n, size=n)].mean()) for _ in range(rounds)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(data.mean()), float(low), float(high), n)
