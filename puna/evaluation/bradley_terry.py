"""Versions on one scale, from games between two of them: Bradley and Terry's model with ties.

Davidson's form (1970): a version of strength s wins, ties and loses against t in the proportion
s : nu sqrt(s t) : t. Strengths are shown on Elo's scale, 400 points for odds of ten to one, with
a mean of 1000.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.errors import InputError
from puna.evaluation.agreement import CannotBeComputed

Floats = NDArray[np.float64]
ELO = 400 / math.log(10)
CENTRE = 1000.0
ROUNDS = 500
STEPS = 60  # of Newton's method, at most


def fit(games: Sequence[tuple[str, str, int]], rng: np.random.Generator) -> dict[str, Any]:
    """Versions by Elo score, best first, with bootstrap intervals (games drawn within each pair).

    {"versions": [{"name", "elo", "low", "high", "games"}], "tie": nu, "adjusted": bool}.
    Where the likelihood has no maximum, as when somebody won everything, half a win is
    added to each side of each pair, and "adjusted" says so; the resamples do the same.
    CannotBeComputed: no games, or groups of versions that never met.
    """
    names = sorted({name for first, second, _ in games for name in (first, second)})
    if len(names) < 2:
        raise CannotBeComputed("cannot be computed: no two versions have met")
    place = {name: index for index, name in enumerate(names)}
    pairs, counts = _counted(games, place)
    if not _reach(pairs, counts.sum(axis=1, keepdims=True) * np.ones(3), len(names)).all():
        raise CannotBeComputed("cannot be computed: some versions never met the others")
    adjusted = not _bounded(pairs, counts, len(names))
    scores, tie = solve(pairs, _adjusted(counts) if adjusted else counts, len(names))
    drawn = [_drawn(rng, counts) for _ in range(ROUNDS)]
    resampled = np.array([_score(pairs, one, len(names)) for one in drawn])
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    played = np.zeros(len(names))
    for (i, j), row in zip(pairs, counts, strict=True):
        played[[i, j]] += row.sum()
    versions = [
        {
            "name": name,
            "elo": CENTRE + ELO * float(scores[k]),
            "low": CENTRE + ELO * float(low[k]),
            "high": CENTRE + ELO * float(high[k]),
            "games": int(played[k]),
        }
        for name, k in place.items()
    ]
    versions.sort(key=lambda row: -float(str(row["elo"])))
    return {"versions": versions, "tie": tie, "adjusted": adjusted}


def _counted(
    games: Sequence[tuple[str, str, int]], place: dict[str, int]
) -> tuple[list[tuple[int, int]], Floats]:
    """The pairs that met, and [pairs, 3]: wins, ties, losses of each pair's first."""
    found: dict[tuple[int, int], Floats] = {}
    for first, second, result in games:
        i, j = place[first], place[second]
        if i == j or result not in (1, 0, -1):
            raise InputError(f"games: {first}, {second}, {result}: expected two versions, 1, 0, -1")
        i, j, result = (i, j, result) if i < j else (j, i, -result)
        found.setdefault((i, j), np.zeros(3))[1 - result] += 1
    ordered = sorted(found)
    return ordered, np.array([found[pair] for pair in ordered])


def _drawn(rng: np.random.Generator, counts: Floats) -> Floats:
    """The same number of games of each pair, drawn again."""
    rows = [rng.multinomial(int(row.sum()), row / row.sum()) for row in counts]
    return np.array(rows, dtype=np.float64)


def _adjusted(counts: Floats) -> Floats:
    return np.asarray(counts + np.array([0.5, 0.0, 0.5]), dtype=np.float64)


def _score(pairs: Sequence[tuple[int, int]], counts: Floats, n: int) -> Floats:
    return solve(pairs, counts if _bounded(pairs, counts, n) else _adjusted(counts), n)[0]


def _bounded(pairs: Sequence[tuple[int, int]], counts: Floats, n: int) -> bool:
    """Whether the likelihood has a maximum.

    Everybody must have beaten or tied everybody else by some chain (Ford 1957). With ties somebody
    must also have lost to whom he beat, or else strengths and nu can grow together without end.
    """
    if not _reach(pairs, counts, n).all():
        return False
    over = _reach(pairs, counts * np.array([1.0, 0.0, 1.0]), n)
    return bool((over & over.T & ~np.eye(n, dtype=bool)).any())


def _reach(pairs: Sequence[tuple[int, int]], counts: Floats, n: int) -> NDArray[np.bool_]:
    """[n, n]: who beat or tied whom by some chain."""
    over = np.eye(n, dtype=bool)
    for (i, j), (win, tie, loss) in zip(pairs, counts, strict=True):
        over[i, j] |= win + tie > 0
        over[j, i] |= loss + tie > 0
    for k in range(n):
        over |= over[:, k : k + 1] & over[k : k + 1, :]
    return over


def solve(pairs: Sequence[tuple[int, int]], counts: Floats, n: int) -> tuple[Floats, float]:
    """Log strengths [n] with mean 0, and nu, 0 without ties; the likelihood must be bounded.

    Newton's method on the log likelihood, which is concave; a step is halved until it climbs.
    """
    design = np.zeros((len(pairs), 3, n + 1))  # of the three outcomes' logits
    for row, (i, j) in enumerate(pairs):
        design[row, 0, i] = design[row, 2, j] = 1.0
        design[row, 1, [i, j]] = 0.5
        design[row, 1, n] = 1.0
    ties = counts[:, 1].sum() > 0
    used = np.arange(n + 1) if ties else np.arange(n)
    possible = np.zeros((1, 3)) if ties else np.array([[0.0, -np.inf, 0.0]])
    x, games = np.zeros(n + 1), counts.sum(axis=1)

    def likelihood(x: Floats) -> tuple[float, Floats]:
        logits = design @ x + possible
        top = logits.max(axis=1, keepdims=True)
        logs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        total = float(np.where(counts > 0, counts * np.where(counts > 0, logs, 0), 0).sum())
        return total, np.exp(logs)

    value, p = likelihood(x)
    for _ in range(STEPS):
        centred = design - (p[:, :, None] * design).sum(axis=1, keepdims=True)
        slope = np.einsum("pk,pki->i", counts - games[:, None] * p, design)[used]
        bend = np.einsum("p,pk,pki,pkj->ij", games, p, centred, centred)[np.ix_(used, used)]
        bend[:n, :n] += 1.0 / n  # fixes the mean, which the games leave open
        step = np.linalg.solve(bend, slope)
        scale = 1.0
        while scale > 1e-8:
            trial = x.copy()
            trial[used] += scale * step
            tried, q = likelihood(trial)
            if tried >= value:
                x, value, p = trial, tried, q
                break
            scale /= 2
        if np.abs(scale * step).max() < 1e-10:
            break
    return x[:n] - x[:n].mean(), float(np.exp(x[n])) if ties else 0.0
