"""Who judges answers: both reward models together, and the truth of an embedded world."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puna.data import cafe, cafe_people
from puna.evaluation.intervals import bootstrap_mean
from puna.model import checkpoint
from puna.model.heads import RewardModel
from puna.numerics import rewards
from puna.recipes import steps
from puna.text.dialog import Dialog
from puna.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class World:
    """A world whose truth is known: it can judge any answer and play the annotators."""

    helpfulness: Callable[[Dialog, str], float]  # in [0, 1]
    is_safe: Callable[[str], bool]
    is_refusal: Callable[[str], bool]
    persona_kept: Callable[[Any, str], bool]
    annotator: Callable[..., cafe_people.Annotator]


WORLDS = {
    "cafe": World(
        helpfulness=cafe.helpfulness,
        is_safe=cafe.is_safe,
        is_refusal=cafe.is_refusal,
        persona_kept=cafe.persona_kept,
        annotator=cafe_people.Annotator,
    )
}


def world_of(name: str) -> World | None:
    """The world of that name; None for "none": text that nobody can judge by rule."""
    return WORLDS.get(name)


@dataclass(frozen=True)
class RewardJudge:
    """Both reward models and the paper's rule for which of them speaks."""

    helpfulness: RewardModel
    safety: RewardModel
    threshold: float

    @classmethod
    def load(cls, helpfulness: Path, safety: Path, threshold: float) -> "RewardJudge":
        helpful, safe = (checkpoint.load_reward(path)[0] for path in (helpfulness, safety))
        return cls(helpful, safe, threshold)

    def combined(
        self, tokenizer: Tokenizer, dialogs: Sequence[Dialog], track=None
    ) -> dict[str, torch.Tensor]:
        """R_c, R_h and R_s in (0, 1) of each finished dialogue, [N] each (section 3.2.3)."""
        scores = steps.score_by((self.helpfulness, self.safety), tokenizer, dialogs, track=track)
        helpful, safe = torch.sigmoid(torch.tensor(scores))
        asked = torch.tensor([bool(dialog.tags.get("safety")) for dialog in dialogs])
        both = rewards.combined_score(helpful, safe, asked, self.threshold)
        return {"combined": both, "helpfulness": helpful, "safety": safe}

    def by_prompt(self, tokenizer: Tokenizer, dialogs: Sequence[Dialog]) -> dict[str, list[float]]:
        """R_c ("combined") of all answers, R_h of those to harmless prompts, R_s to unsafe."""
        found = self.combined(tokenizer, dialogs)
        scores = {name: values.tolist() for name, values in found.items()}
        unsafe = [bool(dialog.tags.get("safety")) for dialog in dialogs]
        for name, side in (("helpfulness", False), ("safety", True)):
            scores[name] = [r for r, u in zip(scores[name], unsafe, strict=True) if u == side]
        return scores


def mean_rewards(scores: Mapping[str, Sequence[float]]) -> dict[str, dict]:
    """The means of `by_prompt` with their intervals; an absent kind of prompt is left out."""
    rng = np.random.default_rng(0)
    names = {"combined": "reward", "helpfulness": "reward_helpfulness", "safety": "reward_safety"}
    return {
        name: bootstrap_mean(scores[key], rng).to_json()
        for key, name in names.items()
        if scores[key]
    }
