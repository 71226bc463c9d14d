"""The floor under every reward model: a logistic model of hashed words and word pairs.

A neural reward model that does not beat this one has learned nothing beyond word counts. NumPy
only; 2,000 answers of 60 words take about a second.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from puna.errors import InputError
from puna.evaluation.intervals import Estimate, proportion, same_length
from puna.evaluation.preference import auc_estimate, outcome, sigmoid

Floats = NDArray[np.float64]
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Rows:
    """A sparse matrix [n, width] as coordinates: row, column and value [nnz]."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    value: Floats
    n: int
    width: int

    def dot(self, weights: Floats) -> Floats:
        """Matrix times weights [width] -> [n]."""
        terms = self.value * weights[self.column]
        return np.bincount(self.row, terms, minlength=self.n).astype(np.float64)

    def transposed_dot(self, x: Floats) -> Floats:
        """Transposed matrix times x [n] -> [width]."""
        terms = self.value * x[self.row]
        return np.bincount(self.column, terms, minlength=self.width).astype(np.float64)

    def minus(self, other: "Rows") -> "Rows":
        """This matrix minus another of the same shape."""
        return Rows(
            np.concatenate([self.row, other.row]),
            np.concatenate([self.column, other.column]),
            np.concatenate([self.value, -other.value]),
            self.n,
            self.width,
        )


def ngrams(text: str) -> list[str]:
    """Lower-case words and marks, then each neighbouring two of them."""
    words = WORD.findall(text.lower())
    return words + [f"{a} {b}" for a, b in pairwise(words)]


def hashed(texts: Sequence[str], buckets: int = 1 << 16) -> Rows:
    """log(1 + count) of each 1-2-gram, in the bucket of its CRC-32; the last column is constant 1.

    CRC-32 and not `hash`, so that a second run gives the same model.
    """
    places: dict[str, int] = {}
    row: list[int] = []
    column: list[int] = []
    for index, text in enumerate(texts):
        grams = ngrams(text)
        for gram in grams:
            if gram not in places:
                places[gram] = zlib.crc32(gram.encode()) % buckets
            column.append(places[gram])
        column.append(buckets)
        row.extend([index] * (len(grams) + 1))
    width = buckets + 1
    keys, counts = np.unique(
        np.array(row, dtype=np.int64) * width + np.array(column, dtype=np.int64),
        return_counts=True,
    )
    value = np.log1p(counts.astype(np.float64))
    value[keys % width == buckets] = 1.0
    return Rows(keys // width, keys % width, value, len(texts), width)


def lbfgs(
    objective: Callable[[Floats], tuple[float, Floats]],
    start: Floats,
    steps: int = 100,
    memory: int = 8,
    tolerance: float = 1e-5,
) -> Floats:
    """Minimise a smooth convex function that returns (value, gradient).

    Limited-memory BFGS (Nocedal and Wright, algorithm 7.5) with a backtracking line search; stops
    when the gradient's largest entry is below `tolerance`.
    """
    x, (value, gradient) = start, objective(start)
    pairs: list[tuple[Floats, Floats]] = []
    for _ in range(steps):
        if float(np.abs(gradient).max()) < tolerance:
            break
        direction = -two_loops(gradient, pairs)
        slope, length = float(direction @ gradient), 1.0
        for _ in range(30):
            step = length * direction
            next_value, next_gradient = objective(x + step)
            if next_value <= value + 1e-4 * length * slope:
                break
            length /= 2
        else:
            break  # no smaller value along the direction: x is the minimum up to rounding
        change = next_gradient - gradient
        if float(step @ change) > 1e-12:
            pairs = [*pairs[1 - memory :], (step, change)]
        x, value, gradient = x + step, next_value, next_gradient
    return x


def two_loops(gradient: Floats, pairs: Sequence[tuple[Floats, Floats]]) -> Floats:
    """The estimated inverse Hessian times the gradient, from (step, change), oldest first."""
    q, kept = gradient.copy(), []
    for step, change in reversed(pairs):
        alpha = float(step @ q) / float(step @ change)
        q -= alpha * change
        kept.append(alpha)
    if pairs:
        step, change = pairs[-1]
        q *= float(step @ change) / float(change @ change)
    for (step, change), alpha in zip(pairs, reversed(kept), strict=True):
        q += step * (alpha - float(change @ q) / float(step @ change))
    return q


def fit(rows: Rows, signs: Floats, l2: float) -> Floats:
    """Weights [width] minimising mean log(1 + exp(-sign * row . w)) + l2/2 |w|^2.

    The constant column (the last one) is not penalised. signs [n] are +1 or -1.
    """
    penalty = np.full(rows.width, l2)
    penalty[-1] = 1e-6

    def objective(w: Floats) -> tuple[float, Floats]:
        margins = signs * rows.dot(w)
        value = float(np.logaddexp(0, -margins).mean() + 0.5 * (penalty * w) @ w)
        slope = -signs * sigmoid(-margins) / rows.n
        return value, rows.transposed_dot(slope) + penalty * w

    return lbfgs(objective, np.zeros(rows.width))


def label_floor(
    train: tuple[Sequence[str], Sequence[bool]],
    test: tuple[Sequence[str], Sequence[bool]],
    rng: np.random.Generator,
    l2: float = 1e-3,
) -> Estimate:
    """AUC on the test (texts, labels) of the word model trained on the train ones."""
    same_length("label_floor train", texts=train[0], labels=train[1])
    same_length("label_floor test", texts=test[0], labels=test[1])
    if len(set(map(bool, train[1]))) < 2:
        raise InputError("label_floor train: both labels were expected")
    signs = np.where(np.asarray(train[1], dtype=bool), 1.0, -1.0)
    weights = fit(hashed(train[0]), signs, l2)
    return auc_estimate(hashed(test[0]).dot(weights).tolist(), test[1], rng)


Pairs = Sequence[tuple[str, str]]  # (chosen, rejected)


def pair_floor(train: Pairs, test: Pairs, l2: float = 1e-3) -> Estimate:
    """Accuracy on test (chosen, rejected) texts of the word model trained on the train ones.

    The model is a Bradley-Terry reward (Equation 1) on differences of counts. What both texts of
    a pair share cancels out, so the prompt may be left out.
    """
    if not train or not test:
        raise InputError("pair_floor: no pairs were given")
    chosen, rejected = sides(train)
    weights = fit(chosen.minus(rejected), np.ones(len(train)), l2)
    chosen, rejected = sides(test)
    # Two products and not one: equal counts then give equal scores, a tie, to the last bit.
    gaps = chosen.dot(weights) - rejected.dot(weights)
    return proportion([outcome(gap) for gap in gaps.tolist()])


def sides(pairs: Pairs) -> tuple[Rows, Rows]:
    """The features of the chosen texts and of the rejected ones."""
    return hashed([pair[0] for pair in pairs]), hashed([pair[1] for pair in pairs])
