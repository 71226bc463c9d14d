"""Answers against answers: win rates, and the best of N samples by temperature (Figures 7, 8)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.errors import InputError
from puna.evaluation.intervals import Estimate, same_length, wilson


@dataclass(frozen=True)
class WinRate:
    """How often A beats B; `rate` counts a tie as half a win, with Wilson's interval."""

    wins: int
    ties: int
    losses: int
    rate: Estimate

    def to_json(self) -> dict[str, Any]:
        """{"wins", "ties", "losses", "value", "low", "high", "n"}."""
        counts = {"wins": self.wins, "ties": self.ties, "losses": self.losses}
        return {**counts, **self.rate.to_json()}


def win_rate(scores_a: Sequence[float], scores_b: Sequence[float], tie: float = 0.0) -> WinRate:
    """Compare two scores a prompt; a difference of at most `tie` is a tie (Section 3.4)."""
    n = same_length("win_rate", scores_a=scores_a, scores_b=scores_b)
    gaps = [a - b for a, b in zip(scores_a, scores_b, strict=True)]
    if any(math.isnan(gap) for gap in gaps):
        raise InputError("win_rate: a score is not a number (NaN)")
    wins = sum(gap > tie for gap in gaps)
    losses = sum(gap < -tie for gap in gaps)
    ties = n - wins - losses
    total = wins + ties / 2
    return WinRate(wins, ties, losses, Estimate(total / n, *wilson(total, n), n))


def expected_rank(rewards: Sequence[float], n: int, rank: int) -> float:
    """E[the rank-th smallest of n samples drawn without replacement from the K given], unbiased.

    The i-th smallest of K takes that place in C(i-1, rank-1) C(K-i, n-rank) of the C(K, n) draws.
    The counts are exact integers and each quotient is rounded once, so no K overflows.
    """
    k = len(rewards)
    if not 1 <= rank <= n <= k:
        raise InputError(f"expected_rank: 1 <= rank <= n <= {k} was expected: rank {rank}, n {n}")
    draws = math.comb(k, n)
    return math.fsum(
        reward * (math.comb(below, rank - 1) * math.comb(k - 1 - below, n - rank) / draws)
        for below, reward in enumerate(sorted(rewards))
    )


def expected_max(rewards: Sequence[float], n: int) -> float:
    """The expected best reward of n samples, from K >= n samples of one prompt (Figure 7)."""
    return expected_rank(rewards, n, n)


def expected_median(rewards: Sequence[float], n: int) -> float:
    """The expected median reward of n samples; an even n takes the mean of the middle two."""
    low, high = (n + 1) // 2, n // 2 + 1
    return (expected_rank(rewards, n, low) + expected_rank(rewards, n, high)) / 2


@dataclass(frozen=True)
class TemperatureCurves:
    """Mean over prompts of the expected max and median reward, a value for each N."""

    n: tuple[int, ...]
    maximum: Mapping[float, tuple[float, ...]]
    median: Mapping[float, tuple[float, ...]]
    best: float
    best_n: int

    def to_json(self) -> dict[str, Any]:
        """The form of `results["temperatures"]`: see docs/results.md."""
        return {
            "n": list(self.n),
            "max": {str(t): list(values) for t, values in self.maximum.items()},
            "median": {str(t): list(values) for t, values in self.median.items()},
            "best": self.best,
            "best_n": self.best_n,
        }


Rewards = Mapping[float, Sequence[Sequence[float]]]  # temperature -> [prompts][K samples]


def mean_max(prompts: Sequence[Sequence[float]], n: int) -> float:
    """The expected best of n, averaged over prompts; InputError without prompts."""
    return math.fsum(expected_max(row, n) for row in prompts) / same_length("rewards", rows=prompts)


def mean_median(prompts: Sequence[Sequence[float]], n: int) -> float:
    """The expected median of n, averaged over prompts."""
    total = math.fsum(expected_median(row, n) for row in prompts)
    return total / same_length("rewards", rows=prompts)


def best_temperature(rewards: Rewards, n: int) -> float:
    """The temperature whose best of n is highest on average; the lowest one among equals."""
    same_length("best_temperature", temperatures=list(rewards))
    return max(sorted(rewards), key=lambda t: mean_max(rewards[t], n))


def temperature_curves(rewards: Rewards, n: Sequence[int], best_n: int) -> TemperatureCurves:
    """Figures 7 and 8: max and median reward against N for each temperature."""
    return TemperatureCurves(
        n=tuple(n),
        maximum={t: tuple(mean_max(rewards[t], k) for k in n) for t in sorted(rewards)},
        median={t: tuple(mean_median(rewards[t], k) for k in n) for t in sorted(rewards)},
        best=best_temperature(rewards, best_n),
        best_n=best_n,
    )
