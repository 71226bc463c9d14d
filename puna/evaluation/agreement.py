"""How far people agree: Gwet's AC1 and AC2, Krippendorff's alpha, percent agreement (Sec. 3.4.2).

An item may have any number of ratings. With the standard errors of Gwet's linearised variance
(Handbook of Inter-Rater Reliability, 4th edition, chapter 5), as the R package irrCAC gives them,
and intervals by the bootstrap over items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.errors import InputError

Floats = NDArray[np.float64]
Value = int | float | str
Weights = str | Floats  # a name of WEIGHTS, or a matrix [q, q]

WEIGHTS = ("identity", "linear", "quadratic", "ordinal", "radical", "ratio")
METRICS = {  # of Krippendorff's alpha; "ordinal" depends on how often each value was given
    "nominal": "identity",
    "ordinal": "",
    "interval": "quadratic",
    "ratio": "ratio",
}
ROUNDS = 1000  # resamples of a bootstrap


class CannotBeComputed(InputError):
    """The ratings leave a coefficient undefined; the text says why."""


@dataclass(frozen=True)
class Table:
    """How many raters put an item into each category; equal items stand in one row.

    Items without a rating are left out.
    """

    counts: Floats  # [rows, q]
    times: Floats  # [rows], items that have these counts
    categories: tuple[Value, ...]  # [q], in order

    @property
    def items(self) -> int:
        """Items with at least one rating."""
        return int(self.times.sum())

    @property
    def raters(self) -> Floats:
        """Ratings of an item, [rows]."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.float64)


@dataclass(frozen=True)
class Coefficient:
    """An agreement coefficient; 1 is perfect, 0 is chance (percent agreement: none)."""

    name: str
    value: float
    se: float | None  # none: of a single item
    low: float | None  # 95 % by the bootstrap; none: not asked for, or too few items
    high: float | None
    observed: float  # agreement, weighted
    expected: float  # by chance
    items: int  # with two ratings or more
    ratings: int  # of all items

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Sums:
    """Agreement of observed and expected, for each of B resamples [B]."""

    value: Floats
    observed: Floats
    expected: Floats


def tabulate(
    ratings: Sequence[Sequence[Value | None]], categories: Sequence[Value] | None = None
) -> Table:
    """Ratings [items][raters], None where there is none, as a table.

    `categories` are all that could be given, in their order if they are texts; without them, those
    that were given. InputError for a rating that is not among them.
    """
    rows = [[value for value in row if value is not None and value == value] for row in ratings]
    given = {value for row in rows for value in row}
    if categories is None:
        known = tuple(sorted(given, key=lambda value: (isinstance(value, str), value)))
    else:
        numeric = all(isinstance(value, int | float) for value in categories)
        known = tuple(sorted(categories) if numeric else categories)
    place = {value: index for index, value in enumerate(known)}
    if len(place) != len(known) or not given <= set(place):
        odd = sorted(map(str, given - set(place))) or ["one category twice"]
        raise InputError(f"ratings: {odd[0]}, expected one of {', '.join(map(str, known))}")
    counts = np.zeros((len(rows), len(known)))
    for index, row in enumerate(rows):
        for value in row:
            counts[index, place[value]] += 1
    return table_of(counts, known)


def table_of(counts: Floats, categories: Sequence[Value]) -> Table:
    """Counts [items, q] as a table."""
    distinct, times = np.unique(counts[counts.sum(axis=1) > 0], axis=0, return_counts=True)
    return Table(distinct, times.astype(np.float64), tuple(categories))


def weight_matrix(categories: Sequence[Value], weights: Weights) -> Floats:
    """How near two categories are, [q, q]: 1 on the diagonal, 0 for the farthest two.

    Numbers stand for themselves, texts for their place in the order. "ordinal" counts the pairs of
    categories between two, "ratio" compares their difference with their sum.
    """
    q = len(categories)
    if not isinstance(weights, str):
        return _checked(np.asarray(weights, dtype=np.float64), q)
    if weights not in WEIGHTS:
        raise InputError(f"weights: {weights!r}, expected one of {', '.join(WEIGHTS)}")
    if weights == "identity" or q < 2:
        return np.eye(q)
    numeric = all(isinstance(value, int | float) for value in categories)
    place = np.array(categories if numeric else range(1, q + 1), dtype=np.float64)
    far: Floats = np.abs(place[:, None] - place[None, :])
    if weights == "quadratic":
        far = far**2
    elif weights == "radical":
        far = np.sqrt(far)
    elif weights == "ordinal":
        steps = np.abs(np.arange(q)[:, None] - np.arange(q)[None, :])
        far = steps * (steps + 1) / 2.0
    elif weights == "ratio":
        if place.min() < 0:
            raise InputError(f"weights: ratio needs categories from 0 on, not {place.min():g}")
        total = place[:, None] + place[None, :]
        far = (far / np.where(total == 0, 1, total)) ** 2
    return np.asarray(1 - far / far.max(), dtype=np.float64)


def _checked(matrix: Floats, q: int) -> Floats:
    if matrix.shape != (q, q):
        raise InputError(f"weights: a matrix {matrix.shape}, expected {q} by {q}")
    if not np.isfinite(matrix).all() or matrix.min() < 0 or matrix.max() > 1:
        raise InputError("weights: expected values between 0 and 1")
    if not np.allclose(matrix, matrix.T) or not np.allclose(np.diag(matrix), 1):
        raise InputError("weights: expected a symmetric matrix with 1 on the diagonal")
    return matrix


def gwet(
    table: Table,
    weights: Weights = "identity",
    rng: np.random.Generator | None = None,
    rounds: int = ROUNDS,
) -> Coefficient:
    """Gwet's AC1 (identity weights) or AC2. CannotBeComputed: see `_check`.

    Chance is how often raters would meet on items that they cannot tell apart, so that it stays
    small where nearly all ratings fall into one category.
    """
    matrix = weight_matrix(table.categories, weights)
    _check(table)
    counts, raters, q = table.counts, table.raters, len(table.categories)
    two, agreed = raters >= 2, _agreed(table, matrix)
    scale = matrix.sum() / (q * (q - 1))
    shares = counts / raters[:, None]

    def sums(times: Floats) -> _Sums:
        share = times @ shares / times.sum(axis=1, keepdims=True)
        observed = _divide(times @ agreed, times @ two)
        expected = scale * (share * (1 - share)).sum(axis=1)
        return _Sums(_divide(observed - expected, 1 - expected), observed, expected)

    found = sums(table.times[None, :])
    value, expected = float(found.value[0]), float(found.expected[0])
    if not np.isfinite(value):
        raise CannotBeComputed("cannot be computed: chance alone would give full agreement")
    n, share = table.items, table.times @ shares / table.items
    pairs = n / float(table.times @ two)
    hard = scale * (shares @ (1 - share))
    each = pairs * (agreed - expected * two) - 2 * (1 - value) * (hard - expected)
    name = "AC1" if np.allclose(matrix, np.eye(q)) else "AC2"
    spread = _spread(each / (1 - expected) - value, table.times)
    return _coefficient(name, table, found, spread, sums, rng, rounds)


def percent_agreement(
    table: Table,
    weights: Weights = "identity",
    rng: np.random.Generator | None = None,
    rounds: int = ROUNDS,
) -> Coefficient:
    """The share of pairs of raters that agree, averaged over items; weighted: how nearly."""
    matrix = weight_matrix(table.categories, weights)
    _check(table, chance=False)
    two, agreed = table.raters >= 2, _agreed(table, matrix)

    def sums(times: Floats) -> _Sums:
        observed = _divide(times @ agreed, times @ two)
        return _Sums(observed, observed, np.zeros_like(observed))

    found = sums(table.times[None, :])
    pairs = table.items / float(table.times @ two)
    spread = _spread(pairs * agreed - found.value[0], table.times)
    return _coefficient("percent agreement", table, found, spread, sums, rng, rounds)


def alpha(
    table: Table,
    metric: str | Floats = "nominal",
    rng: np.random.Generator | None = None,
    rounds: int = ROUNDS,
) -> Coefficient:
    """Krippendorff's alpha of one of METRICS, or with a matrix of weights [q, q].

    "ordinal" is Krippendorff's own: how far two values are apart depends on how many ratings lie
    between them; its standard error takes these distances as given, its bootstrap does not.
    CannotBeComputed where all ratings that can be compared are equal, too.
    """
    if isinstance(metric, str) and metric not in METRICS:
        raise InputError(f"metric: {metric!r}, expected one of {', '.join(METRICS)}")
    ranked = isinstance(metric, str) and metric == "ordinal"
    name = METRICS.get(metric) or "identity" if isinstance(metric, str) else metric
    fixed = weight_matrix(table.categories, name)
    _check(table)
    raters = table.raters
    two = raters >= 2
    counts, raters, times = table.counts[two], raters[two], table.times[two]
    q = len(table.categories)
    met = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(q)
    met = (met / (raters - 1)[:, None, None]).reshape(len(counts), q * q)  # [rows, q * q]

    def sums(times: Floats) -> _Sums:
        total = (times @ raters)[:, None]
        share = times @ counts / total
        near = _ranked(share) if ranked else np.broadcast_to(fixed, (len(times), q, q))
        expected = np.einsum("bi,bij,bj->b", share, near, share)
        plain = np.einsum("bi,bi->b", times @ met, near.reshape(len(times), q * q)) / total[:, 0]
        observed = plain + (1 - plain) / total[:, 0]
        return _Sums(_divide(observed - expected, 1 - expected), observed, expected)

    found = sums(times[None, :])
    value, observed, expected = (float(x[0]) for x in (found.value, found.observed, found.expected))
    if not np.isfinite(value):
        raise CannotBeComputed("cannot be computed: all ratings that can be compared are equal")
    items, mean = times.sum(), float(times @ raters / times.sum())
    share = times @ counts / (items * mean)
    matrix = _ranked(share[None, :])[0] if ranked else fixed
    agreed = (met @ matrix.ravel()) / mean
    plain = float(times @ agreed / items)
    more = (raters - mean) / mean
    each = agreed - observed * more - expected
    by_chance = counts @ (matrix @ share) / mean - expected * more
    straight = (plain - expected) / (1 - expected)
    each = (each - 2 * (1 - straight) * (by_chance - expected)) / (1 - expected)
    pairable = Table(counts, times, table.categories)
    spread = _spread(each - straight, times)
    return _coefficient("alpha", pairable, found, spread, sums, rng, rounds)


def _ranked(share: Floats) -> Floats:
    """Krippendorff's ordinal distances as weights [B, q, q]; categories' middle ranks [B, q]."""
    middle = np.cumsum(share, axis=1) - share / 2
    far = (middle[:, :, None] - middle[:, None, :]) ** 2
    most = far.max(axis=(1, 2), keepdims=True)
    return np.asarray(1 - far / np.where(most == 0, 1, most), dtype=np.float64)


def _agreed(table: Table, matrix: Floats) -> Floats:
    """The share of an item's pairs of ratings that agree, weighted, [rows]; 0 without a pair."""
    raters = table.raters
    near = (table.counts * (table.counts @ matrix - 1)).sum(axis=1)
    return np.asarray(np.where(raters >= 2, near / np.maximum(raters * (raters - 1), 1), 0.0))


def _check(table: Table, chance: bool = True) -> None:
    if not (table.raters >= 2).any():
        raise CannotBeComputed("cannot be computed: no item has two ratings")
    if chance and len(table.categories) < 2:
        raise CannotBeComputed("cannot be computed: there is one category only")


def _divide(above: Floats, below: Floats) -> Floats:
    """Quotients; not a number where the divisor is 0 but for rounding."""
    ok = np.abs(below) > 1e-12
    return np.asarray(np.where(ok, above / np.where(ok, below, 1), np.nan), dtype=np.float64)


def _spread(each: Floats, times: Floats) -> float | None:
    """The standard error of a mean of n values, each less the mean; none of a single one."""
    n = float(times.sum())
    return float(np.sqrt(times @ each**2 / (n * (n - 1)))) if n > 1 else None


def _coefficient(
    name: str,
    table: Table,
    found: _Sums,
    se: float | None,
    sums: Any,
    rng: np.random.Generator | None,
    rounds: int,
) -> Coefficient:
    low, high = _interval(table, sums, rng, rounds) if rng is not None else (None, None)
    return Coefficient(
        name,
        float(found.value[0]),
        se,
        low,
        high,
        float(found.observed[0]),
        float(found.expected[0]),
        items=int(table.times[table.raters >= 2].sum()),
        ratings=int(table.times @ table.raters),
    )


def _interval(
    table: Table, sums: Any, rng: np.random.Generator, rounds: int
) -> tuple[float | None, float | None]:
    """The percentile interval over resampled items.

    Items drawn with replacement are a multinomial draw of the distinct rows. Resamples without a
    value are left out; none is said if there are more of these than one in ten, or one item.
    """
    if table.items < 2:
        return None, None
    times = rng.multinomial(table.items, table.times / table.times.sum(), size=rounds)
    values = sums(times.astype(np.float64)).value
    values = values[np.isfinite(values)]
    if len(values) < 0.9 * rounds:
        return None, None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
