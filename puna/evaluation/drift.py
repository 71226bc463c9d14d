"""Batch by batch: strengths (Figure 25), sizes (Tables 6 and 26), agreement.

The paper's own figures stand beside, to be shown faintly.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puna.evaluation.agreement import Weights
from puna.evaluation.intervals import Estimate, wilson
from puna.evaluation.judgements import Judgement, agreed
from puna.text.dialog import BINS, STRENGTHS, Dialog

# Figure 25, read off the chart: share of each strength at some of the 14 batches.
FIGURE_25: Mapping[str, Mapping[int, float]] = {
    "significantly_better": {1: 0.18, 14: 0.09},
    "better": {1: 0.28, 3: 0.31, 14: 0.21},
    "slightly_better": {1: 0.29, 14: 0.31},
    "negligibly_better": {1: 0.25, 12: 0.40, 14: 0.38},
}
# Table 26: comparisons, turns a dialogue, tokens an example, a prompt, a response.
TABLE_26: tuple[tuple[int, float, float, float, float], ...] = (
    (5561, 4.4, 547.1, 25.2, 159.3),
    (17072, 4.0, 554.6, 22.4, 170.7),
    (30146, 3.9, 603.3, 19.6, 195.5),
    (36206, 3.9, 652.8, 45.3, 182.9),
    (49375, 3.7, 603.9, 46.7, 163.1),
    (57746, 4.1, 654.5, 28.2, 198.1),
    (84388, 3.9, 662.2, 27.5, 210.0),
    (95235, 3.6, 670.4, 32.9, 212.1),
    (127235, 3.6, 674.9, 31.3, 214.8),
    (136729, 3.7, 723.9, 30.5, 230.2),
    (136868, 3.8, 811.9, 32.2, 251.1),
    (181293, 3.9, 817.0, 30.8, 250.9),
    (210881, 4.2, 905.9, 30.3, 255.6),
    (249356, 4.3, 1008.0, 31.6, 258.9),
)
TABLE_6 = (1418091, 3.9, 798.5, 31.4, 234.1)  # Meta's row: the same five figures of all batches
SAFETY_SHARES = {"chosen_safe": 0.18, "both_safe": 0.47, "both_unsafe": 0.35}  # Section 3.2.1


@dataclass(frozen=True)
class Size:
    """How large one comparison is, in tokens or words."""

    turns: int  # of the user
    example: float  # the dialogue so far and one answer
    prompt: float  # the user's last message
    response: float  # one answer, the mean of both


def size(dialog: Dialog, answers: Sequence[str], count: Callable[[str], int]) -> Size:
    """The size of a comparison; `count` says how long a text is."""
    before = sum(count(message.content) for message in dialog.messages)
    response = sum(map(count, answers)) / len(answers)
    return Size(dialog.turns, before + response, count(dialog.last.content), response)


def sizes(judged: Iterable[int], known: Mapping[int, Size]) -> dict[str, float] | None:
    """Table 6's five figures of the items of these judgements; None without any."""
    found = [known[item] for item in judged if item in known]
    if not found:
        return None
    n = len(found)
    return {
        "comparisons": n,
        "turns": sum(s.turns for s in found) / n,
        "example": sum(s.example for s in found) / n,
        "prompt": sum(s.prompt for s in found) / n,
        "response": sum(s.response for s in found) / n,
    }


def shares(names: Sequence[str], given: Iterable[str | None]) -> dict[str, Any]:
    """The share of each name among those given, with Wilson's intervals; {} without any."""
    counts = Counter(name for name in given if name in names)
    n = sum(counts.values())
    return {
        name: Estimate(counts[name] / n, *wilson(counts[name], n), n).to_json()
        for name in names
        if n
    }


def batches(
    judgements: Sequence[Judgement],
    known: Mapping[int, Size],
    weights: Weights,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """One record a batch, in order: strengths, safety bins, sizes, agreement. No gold items."""
    by_batch: dict[int, list[Judgement]] = {}
    for judgement in judgements:
        if not judgement.gold:
            by_batch.setdefault(judgement.batch, []).append(judgement)
    found = []
    for number, own in sorted(by_batch.items()):
        found.append(
            {
                "batch": number,
                "judgements": len(own),
                "people": len({j.annotator for j in own}),
                **whole(own, known),
                "agreement": agreed(own, weights, rng),
            }
        )
    return found


def whole(counted: Sequence[Judgement], known: Mapping[int, Size]) -> dict[str, Any]:
    """Strengths, safety bins and sizes of some judgements."""
    return {
        "strengths": shares(STRENGTHS, (j.strength for j in counted)),
        "safety": shares(BINS, (j.safety for j in counted)),
        "sizes": sizes((j.item for j in counted), known),
    }


def paper() -> dict[str, Any]:
    """The paper's figures, as JSON."""
    names = ("comparisons", "turns", "example", "prompt", "response")
    return {
        "strengths": {name: [[b, v] for b, v in at.items()] for name, at in FIGURE_25.items()},
        "batches": [dict(zip(names, row, strict=True)) for row in TABLE_26],
        "all": dict(zip(names, TABLE_6, strict=True)),
        "safety": SAFETY_SHARES,
    }
