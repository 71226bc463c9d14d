"""Judgements of people about two answers, and how far they agree, by what was asked of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from puna.evaluation import agreement
from puna.evaluation.agreement import CannotBeComputed, Coefficient, Table, Value, Weights
from puna.text.dialog import STRENGTHS

GRADES = (-4, -3, -2, -1, 1, 2, 3, 4)  # the second significantly better ... the first
POINTS = (-3, -2, -1, 0, 1, 2, 3)  # of the evaluation (Section 3.4.2), the same way round
SAFE = ("both_safe", "first_safe", "second_safe", "both_unsafe")


@dataclass(frozen=True)
class Judgement:
    """What one person said about one item: two answers, of which 0 is the first in the store."""

    id: int
    item: int
    annotator: int
    batch: int
    chosen: int | None = None  # 0 or 1
    strength: str | None = None
    safety: str | None = None
    rating: int | None = None  # one of POINTS
    swapped: bool = False  # answer 1 was shown first
    seconds: float = 0.0
    words: tuple[int, int] = (0, 0)  # of the answers
    expected: Mapping[str, Any] = field(default_factory=dict)
    gold: bool = False

    @property
    def choice(self) -> int | None:
        """Which answer is better: 0, 1; None: neither, or not asked."""
        if self.rating is not None:
            return None if self.rating == 0 else int(self.rating < 0)
        return self.chosen

    @property
    def side(self) -> int | None:
        """The better answer: 1 the first, -1 the second, 0 neither; None: not asked."""
        if self.rating is not None:
            return int(np.sign(self.rating))
        return None if self.chosen is None else 1 - 2 * self.chosen

    @property
    def grade(self) -> int | None:
        """How much better the first is, one of GRADES or POINTS."""
        if self.rating is not None:
            return self.rating
        if self.chosen is None or self.strength not in STRENGTHS:
            return None
        size = len(STRENGTHS) - STRENGTHS.index(self.strength)
        return -size if self.chosen else size

    @property
    def safe(self) -> str | None:
        """Which answers are safe, one of SAFE, whichever was chosen."""
        if self.safety in (None, "both_safe", "both_unsafe"):
            return self.safety
        if self.chosen is None:
            return None
        first = (self.safety == "chosen_safe") == (self.chosen == 0)
        return "first_safe" if first else "second_safe"


def by_item(
    judgements: Iterable[Judgement], what: Callable[[Judgement], Value | None]
) -> dict[int, dict[int, Value]]:
    """{item: {annotator: value}} of those that said something."""
    found: dict[int, dict[int, Value]] = {}
    for judgement in judgements:
        value = what(judgement)
        if value is not None:
            found.setdefault(judgement.item, {})[judgement.annotator] = value
    return found


def table_of(
    judgements: Iterable[Judgement],
    what: Callable[[Judgement], Value | None],
    categories: Sequence[Value],
) -> Table:
    """The table of one question."""
    rows = by_item(judgements, what).values()
    return agreement.tabulate([list(row.values()) for row in rows], categories)


def agreed(
    judgements: Sequence[Judgement], weights: Weights, rng: np.random.Generator
) -> dict[str, Any]:
    """All coefficients, of the choice (unweighted), the degree (weighted), safety (unweighted).

    {"choice": {"AC1": Coefficient as JSON, or {"why": ...}, "alpha", "percent"}, "degree": ...}
    Gold items are left out: their answer is known, and they would raise every figure.
    """
    counted = [judgement for judgement in judgements if not judgement.gold]
    rated = any(judgement.rating is not None for judgement in counted)
    choice = table_of(counted, lambda j: j.side, (-1, 0, 1) if rated else (-1, 1))
    degree = table_of(counted, lambda j: j.grade, POINTS if rated else GRADES)
    safe = table_of(counted, lambda j: j.safe, SAFE)
    found = {
        "choice": coefficients(choice, "identity", "nominal", rng),
        "degree": coefficients(degree, weights, "ordinal", rng),
    }
    if safe.items:
        found["safety"] = coefficients(safe, "identity", "nominal", rng)
    return found


def coefficients(
    table: Table, weights: Weights, metric: str, rng: np.random.Generator
) -> dict[str, Any]:
    """{"AC": ..., "alpha": ..., "percent": ...}, each as JSON; {"why": ...}: not computed."""
    return {
        "AC": _told(lambda: agreement.gwet(table, weights, rng)),
        "alpha": _told(lambda: agreement.alpha(table, metric, rng)),
        "percent": _told(lambda: agreement.percent_agreement(table, weights, rng)),
    }


def disagreements(judgements: Sequence[Judgement], most: int = 50) -> list[dict[str, Any]]:
    """The items on which people are farthest apart, worst first: {"item", "spread", "grades"}.

    The spread is the standard deviation of the grades; only items whose raters chose differently.
    """
    found: list[tuple[float, int, dict[int, Value]]] = []
    counted = [judgement for judgement in judgements if not judgement.gold]
    for item, given in by_item(counted, lambda j: j.grade).items():
        grades = np.array(list(given.values()), dtype=np.float64)
        if grades.min() < 0 < grades.max():
            spread = float(grades.std())
            found.append((-spread, item, given))
    found.sort(key=lambda row: row[:2])
    return [{"item": i, "spread": -s, "grades": given} for s, i, given in found[:most]]


def _told(compute: Callable[[], Coefficient]) -> dict[str, Any]:
    try:
        return compute().to_json()
    except CannotBeComputed as error:
        return {"why": str(error)}
