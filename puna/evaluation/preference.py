"""How well a reward model agrees with held-out preferences (Tables 7, 8, 28, 29; Figure 29).

Everything works on plain numbers, so that a report can be made again from a file of scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.errors import InputError
from puna.evaluation.intervals import Estimate, proportion, same_length
from puna.text.dialog import SAFETY_BINS, STRENGTHS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredPair:
    """One held-out preference with the model's two scalar rewards (before the sigmoid)."""

    reward_chosen: float
    reward_rejected: float
    strength: str = "better"
    safety: str | None = None
    words_chosen: int = 0
    words_rejected: int = 0

    @property
    def agreement(self) -> float:
        """1 when the chosen answer scores higher, 0.5 on a tie, 0 otherwise."""
        return outcome(self.reward_chosen - self.reward_rejected)


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs whose predicted probability fell in one bin: its mean, and what was observed."""

    predicted: float
    observed: Estimate


@dataclass(frozen=True)
class Calibration:
    """The bins that hold pairs, and the expected calibration error (0 is perfect)."""

    bins: tuple[CalibrationBin, ...]
    error: float

    def to_json(self) -> dict[str, Any]:
        """{"error", "bins": [{"predicted", "value", "low", "high", "n"}]}."""
        bins = [{"predicted": b.predicted, **b.observed.to_json()} for b in self.bins]
        return {"error": self.error, "bins": bins}


@dataclass(frozen=True)
class LengthControl:
    """How well length alone predicts the choice: direction 1 longer, -1 shorter, 0 neither.

    `weight` is the fitted logistic weight a word of difference.
    """

    weight: float
    direction: int
    train: Estimate
    test: Estimate


def outcome(difference: float) -> float:
    """1, 0.5 or 0 by the sign of a difference; InputError when it is not a number."""
    if difference != difference:
        raise InputError("preference: a reward is not a number (NaN)")
    return 0.5 if difference == 0 else float(difference > 0)


def accuracy(pairs: Sequence[ScoredPair]) -> Estimate:
    """The share of preferences the rewards agree with, ties half, with Wilson's interval."""
    return proportion([pair.agreement for pair in pairs])


def accuracy_by_strength(pairs: Sequence[ScoredPair]) -> dict[str, Estimate]:
    """Accuracy for each of the four strengths that occurs, strongest first (Table 8)."""
    groups = ((name, [p for p in pairs if p.strength == name]) for name in STRENGTHS)
    return {name: accuracy(group) for name, group in groups if group}


def accuracy_by_safety_bin(pairs: Sequence[ScoredPair]) -> dict[str, Estimate]:
    """Accuracy for each safety bin that occurs (Table 29); pairs without a bin are left out."""
    groups = ((name, [p for p in pairs if p.safety == name]) for name in SAFETY_BINS)
    return {name: accuracy(group) for name, group in groups if group}


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) of [N], without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), dtype=np.float64)


def calibration(
    pairs: Sequence[ScoredPair], rng: np.random.Generator, bins: int = 10
) -> Calibration:
    """Predicted P(first preferred) = sigmoid(r_first - r_second) against what people chose.

    Each pair is shown in a random order drawn from `rng`; without that, "first" would always be
    the chosen answer and every bin would be observed at 100 %. Bins have equal width on [0, 1].
    """
    n = same_length("calibration", pairs=pairs)
    difference = np.array([p.reward_chosen - p.reward_rejected for p in pairs], dtype=np.float64)
    chosen_first = rng.random(n) < 0.5
    predicted = sigmoid(np.where(chosen_first, difference, -difference))
    which = np.minimum((predicted * bins).astype(np.int64), bins - 1)
    found = tuple(
        CalibrationBin(float(predicted[at].mean()), proportion(chosen_first[at].tolist()))
        for at in (which == index for index in range(bins))
        if at.any()
    )
    gaps = [b.observed.n * abs(b.predicted - b.observed.value) for b in found]
    return Calibration(found, sum(gaps) / n)


def length_only_control(
    train_lengths: Iterable[tuple[int, int]], test_lengths: Iterable[tuple[int, int]]
) -> LengthControl:
    """What a rule that sees only (words chosen, words rejected) reaches: a control for Table 8.

    The one-parameter logistic rule sigmoid(w * (words_chosen - words_rejected)) is fitted on the
    training pairs. Its direction is the one with the higher training accuracy, so that a few very
    long answers cannot make the control look weak; TEST pairs play no part in either.
    """
    train, test = differences("train", train_lengths), differences("test", test_lengths)
    longer = int((train > 0).sum()) - int((train < 0).sum())
    direction = (longer > 0) - (longer < 0)
    return LengthControl(
        weight=logistic_weight(train),
        direction=direction,
        train=proportion([outcome(direction * d) for d in train.tolist()]),
        test=proportion([outcome(direction * d) for d in test.tolist()]),
    )


def differences(name: str, lengths: Iterable[tuple[int, int]]) -> Floats:
    """Words chosen minus words rejected, [N]; InputError when there are none."""
    found = np.array([chosen - rejected for chosen, rejected in lengths], dtype=np.float64)
    if not len(found):
        raise InputError(f"length_only_control: no {name} pairs were given")
    return found


def logistic_weight(difference: Floats, ridge: float = 1e-3, steps: int = 50) -> float:
    """w minimising mean log(1 + exp(-w d)) by Newton's method, d scaled to a mean square of 1.

    The small ridge keeps w finite when length separates the pairs completely.
    """
    scale = float(np.sqrt(np.mean(difference**2))) or 1.0
    d, w = difference / scale, 0.0
    for _ in range(steps):
        wrong = sigmoid(-w * d)
        slope = ridge * w - float(np.mean(wrong * d))
        curvature = ridge + float(np.mean(wrong * (1 - wrong) * d * d))
        w -= max(-1.0, min(1.0, slope / curvature))
    return w / scale


def unsafe_recall(
    scores: Sequence[float],
    is_safe: Sequence[bool],
    threshold: float = 0.5,
    strict: float = 0.15,
) -> dict[str, Estimate | None]:
    """How well probabilities of being safe find the unsafe answers (Table 29; Section 3.2.3).

    An answer counts as found when its score is below the threshold: recall at 0.5, and precision
    and recall at 0.15, where the paper's combined reward switches to safety. A figure without
    cases (nothing unsafe, nothing flagged) is None.
    """
    same_length("unsafe_recall", scores=scores, is_safe=is_safe)
    unsafe = [score for score, safe in zip(scores, is_safe, strict=True) if not safe]
    flagged = [not safe for score, safe in zip(scores, is_safe, strict=True) if score < strict]

    def share(found: list[bool]) -> Estimate | None:
        return proportion(found) if found else None

    return {
        "recall": share([score < threshold for score in unsafe]),
        "strict_precision": share(flagged),
        "strict_recall": share([score < strict for score in unsafe]),
    }


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """P(a true case scores above a false one), ties half; InputError without both labels."""
    same_length("auc", scores=scores, labels=labels)
    truth = np.asarray(labels, dtype=bool)
    return area(np.asarray(scores, dtype=np.float64), truth)


def area(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """The area under the ROC curve from mid-ranks (Mann-Whitney)."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        raise InputError("auc: at least one true and one false label were expected")
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mid_ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
    above = float(mid_ranks[truth].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def auc_estimate(
    scores: Sequence[float], labels: Sequence[bool], rng: np.random.Generator, rounds: int = 500
) -> Estimate:
    """The AUC with a bootstrap interval; true and false cases are resampled apart."""
    value = auc(scores, labels)
    data, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    true, false = data[truth], data[~truth]
    ordered = np.arange(len(truth)) < len(true)
    found = [
        area(np.concatenate([rng.choice(true, len(true)), rng.choice(false, len(false))]), ordered)
        for _ in range(rounds)
    ]
    low, high = np.quantile(found, (0.025, 0.975))
    return Estimate(value, float(low), float(high), len(truth))


def reward_report(
    pairs: Sequence[ScoredPair],
    rng: np.random.Generator,
    train_lengths: Iterable[tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """One reward model's entry of `results["reward_models"]` (docs/results.md), JSON values only.

    Without `train_lengths` ((words chosen, words rejected) of the TRAINING pairs) there is no
    length-only control.
    """
    report: dict[str, Any] = {
        "accuracy": accuracy(pairs).to_json(),
        "by_strength": {k: v.to_json() for k, v in accuracy_by_strength(pairs).items()},
        "by_safety": {k: v.to_json() for k, v in accuracy_by_safety_bin(pairs).items()},
        "calibration": calibration(pairs, rng).to_json(),
    }
    if train_lengths is not None:
        test = [(pair.words_chosen, pair.words_rejected) for pair in pairs]
        control = length_only_control(train_lengths, test)
        direction = {1: "longer", -1: "shorter", 0: "neither"}[control.direction]
        report["length_only"] = {**control.test.to_json(), "direction": direction}
    return report
