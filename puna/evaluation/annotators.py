"""Each annotator: agreement with the others, gold items, habits, and what to look at (A.5).

A flag is a reason to talk, not a verdict: what raises one is stated in `Limits`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from puna.evaluation.agreement import CannotBeComputed, gwet, table_of
from puna.evaluation.intervals import bootstrap_mean, proportion
from puna.evaluation.judgements import Judgement, by_item
from puna.evaluation.preference import logistic_weight
from puna.text.dialog import STRENGTHS


@dataclass(frozen=True)
class Limits:
    """What raises a flag."""

    cases: int = 10  # fewer judgements raise no flag
    gold_cases: int = 5  # fewer gold items raise no flag
    gold: float = 0.8  # share right; flagged if Wilson's interval lies below (paper: 80 %, A.5.4)
    agreement: float = 0.1  # so far below all pairs of people, with the whole interval below them
    position: float = 0.01  # p of the binomial test that left and right are equally frequent
    length: float = 0.7  # share of longer answers, if the others' lies below its interval too
    words_per_second: float = 12.0  # nobody reads both answers faster
    least_seconds: float = 2.0  # nobody judges faster
    fast: float = 0.2  # share of judgements that were too fast
    same_strength: float = 0.9  # share of one strength


def figures(
    judgements: Sequence[Judgement], rng: np.random.Generator, limits: Limits | None = None
) -> list[dict[str, Any]]:
    """One record an annotator, by id: counts, estimates as JSON (None without cases), flags."""
    limits = limits or Limits()
    counted = [judgement for judgement in judgements if not judgement.gold]
    choices = by_item(counted, lambda j: j.side)
    sides = (-1, 0, 1) if any(j.rating is not None for j in counted) else (-1, 1)
    matched = _matched(choices)
    lengths = {person: _gaps(own) for person, own in _people(counted).items()}
    longer = sum(sum(gap > 0 for gap in gaps) for gaps in lengths.values())
    differed = sum(map(len, lengths.values()))
    without = _without(choices, sides)
    everybody = [share for shares in matched.values() for share in shares]
    overall = math.fsum(everybody) / len(everybody) if everybody else 0.0
    found = []
    for annotator, own in sorted(_people(judgements).items()):
        work = [j for j in own if not j.gold]
        shares = matched.get(annotator, [])
        row: dict[str, Any] = {
            "annotator": annotator,
            "judged": len(own),
            "agreement": bootstrap_mean(shares, rng).to_json() if shares else None,
            "without": without.get(annotator),
            "gold": gold_accuracy(own),
            "position": position(work),
            "length": length(work),
            "speed": speed(own, limits),
            "strengths": strengths(work),
        }
        gaps = lengths.get(annotator, [])
        rest = differed - len(gaps)
        usual = (longer - sum(gap > 0 for gap in gaps)) / rest if rest else 0.5
        row["flags"] = _flags(row, overall, usual, limits)
        found.append(row)
    return found


def stated(limits: Limits | None = None) -> dict[str, float]:
    """The limits as JSON, for a page to show."""
    return asdict(limits or Limits())


def _matched(choices: dict[int, dict[int, Any]]) -> dict[int, list[float]]:
    """For each annotator: of each shared item, the share of the others that chose the same."""
    found: dict[int, list[float]] = {}
    for given in choices.values():
        values = list(given.values())
        for annotator, value in given.items():
            if len(values) > 1:
                same = (values.count(value) - 1) / (len(values) - 1)
                found.setdefault(annotator, []).append(same)
    return found


def _people(judgements: Sequence[Judgement]) -> dict[int, list[Judgement]]:
    found: dict[int, list[Judgement]] = {}
    for judgement in judgements:
        found.setdefault(judgement.annotator, []).append(judgement)
    return found


def _without(choices: dict[int, dict[int, Any]], sides: Sequence[int]) -> dict[int, float | None]:
    """For each annotator: AC1 of the choices of everybody else; None: cannot be computed."""
    counts = np.zeros((len(choices), len(sides)))
    places: dict[int, list[tuple[int, int]]] = {}
    for row, given in enumerate(choices.values()):
        for annotator, value in given.items():
            place = (row, sides.index(value))
            counts[place] += 1
            places.setdefault(annotator, []).append(place)
    found: dict[int, float | None] = {}
    for annotator, cells in places.items():
        rest = counts.copy()
        rest[tuple(np.array(cells).T)] -= 1
        try:
            found[annotator] = gwet(table_of(rest, tuple(sides))).value
        except CannotBeComputed:
            found[annotator] = None
    return found


def gold_accuracy(own: Sequence[Judgement]) -> dict[str, Any] | None:
    """How often the known answer was given, on gold items, with Wilson's interval."""
    right = [_is_right(one) for one in own if one.gold and one.expected]
    return proportion(right).to_json() if right else None


def _is_right(judgement: Judgement) -> bool:
    """The choice, and the bin where one was asked for, are those that are expected."""
    expected = judgement.expected
    if "chosen" in expected and judgement.choice != expected["chosen"]:
        return False
    said = judgement.safety
    return said is None or said == (expected.get("safety") or said)


def position(work: Sequence[Judgement]) -> dict[str, Any] | None:
    """How often the answer on the left was chosen, and p if both sides were as likely."""
    left = [(j.choice == 0) != j.swapped for j in work if j.choice is not None]
    if not left:
        return None
    return {**proportion(left).to_json(), "p": binomial_p(sum(left), len(left))}


def binomial_p(successes: int, n: int) -> float:
    """The two-sided exact binomial test of a rate of a half."""
    few = min(successes, n - successes)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(few + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def length(work: Sequence[Judgement]) -> dict[str, Any] | None:
    """How often the longer answer was chosen, and the logistic slope of 100 words more."""
    gaps = _gaps(work)
    if not gaps:
        return None
    slope = 100 * logistic_weight(np.array(gaps, dtype=np.float64))
    return {**proportion([gap > 0 for gap in gaps]).to_json(), "slope": slope}


def _gaps(work: Sequence[Judgement]) -> list[int]:
    """Words of the chosen answer less those of the other, where they differ."""
    return [
        j.words[j.choice] - j.words[1 - j.choice]
        for j in work
        if j.choice is not None and j.words[0] != j.words[1]
    ]


def speed(own: Sequence[Judgement], limits: Limits) -> dict[str, Any] | None:
    """The median of seconds in view, and the share that was too fast to have read."""
    if not own:
        return None
    least = [max(limits.least_seconds, sum(j.words) / limits.words_per_second) for j in own]
    fast = [j.seconds < seconds for j, seconds in zip(own, least, strict=True)]
    median = float(np.median([j.seconds for j in own]))
    return {"median": median, "fast": proportion(fast).to_json()}


def strengths(work: Sequence[Judgement]) -> dict[str, int]:
    """How often each strength was used."""
    used = [j.strength for j in work]
    return {name: used.count(name) for name in STRENGTHS}


def _flags(
    row: dict[str, Any], overall: float, usual: float, limits: Limits
) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []

    def flag(name: str, reason: str) -> None:
        found.append({"name": name, "reason": reason})

    gold, met, left = row["gold"], row["agreement"], row["position"]
    longer, pace, used = row["length"], row["speed"], row["strengths"]
    if gold and gold["n"] >= limits.gold_cases and gold["high"] < limits.gold:
        right = f"{gold['value']:.0%} of {gold['n']} gold items right"
        flag("gold", f"{right}, {limits.gold:.0%} wanted")
    if met and met["n"] >= limits.cases:
        if met["high"] < overall and met["value"] < overall - limits.agreement:
            flag("agreement", f"agrees with {met['value']:.0%} of the others, all: {overall:.0%}")
    if left and left["n"] >= limits.cases and left["p"] < limits.position:
        flag("position", f"chose the left answer {left['value']:.0%} of {left['n']} times")
    if longer and longer["n"] >= limits.cases and longer["value"] >= limits.length:
        if longer["low"] > usual:
            flag("length", f"chose the longer answer {longer['value']:.0%}, others {usual:.0%}")
    if pace and pace["fast"]["n"] >= limits.cases and pace["fast"]["value"] > limits.fast:
        flag("speed", f"{pace['fast']['value']:.0%} faster than the answers can be read")
    total, most = sum(used.values()), max(used, key=lambda name: used[name])
    if total >= limits.cases and used[most] > limits.same_strength * total:
        flag("strength", f"said {most.replace('_', ' ')} {used[most]} of {total} times")
    return found
