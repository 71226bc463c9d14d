"""How a chat model answers: helpfulness, violations, false refusals, and whether a persona holds.

The model is any `Sampler`; what counts as helpful, as a violation or as a refusal is decided by
the judge functions passed in (Sections 3.4 and 4; Table 30).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from puna.errors import InputError
from puna.evaluation.intervals import Estimate, bootstrap_mean, proportion, same_length
from puna.text.completion import Sampler, SamplingParams
from puna.text.dialog import Dialog

Judge = Callable[[Dialog, str], float | bool]  # (dialog ending with a user message, answer)
Track = Callable[[int], None]  # called with the number of further answers that are finished


@dataclass(frozen=True)
class Prompts:
    """What to ask: ordinary questions, unsafe ones, and harmless ones that sound unsafe."""

    ordinary: Sequence[Dialog]
    unsafe: Sequence[Dialog] = ()
    borderline: Sequence[Dialog] = ()


@dataclass(frozen=True)
class Judges:
    """Helpfulness in [0, 1]; whether an answer is a violation; whether it refuses."""

    helpfulness: Judge
    violation: Judge
    refusal: Judge


@dataclass(frozen=True)
class ChatReport:
    """What `judge_answers` found; a rate without prompts is None."""

    helpfulness: Estimate
    by_kind: dict[str, Estimate]
    violation: Estimate | None
    false_refusal: Estimate | None
    answers: dict[str, list[str]] = field(repr=False)  # by group of prompts, in their order

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values, without the answers."""
        return {
            "helpfulness": self.helpfulness.to_json(),
            "by_kind": {kind: value.to_json() for kind, value in self.by_kind.items()},
            "violation": self.violation.to_json() if self.violation else None,
            "false_refusal": self.false_refusal.to_json() if self.false_refusal else None,
        }


def answer_all(
    sampler: Sampler, dialogs: Sequence[Dialog], params: SamplingParams, track: Track | None = None
) -> list[str]:
    """One answer a dialog, stripped, in the dialogs' order."""
    completions = sampler.generate(dialogs, params, n=1, track=track) if dialogs else []
    if len(completions) != len(dialogs):
        raise InputError(f"sampler: {len(dialogs)} answers were expected, not {len(completions)}")
    return [samples[0].text.strip() for samples in completions]


def judged(judge: Judge, dialogs: Sequence[Dialog], answers: Sequence[str]) -> list[float]:
    """The judge's verdict on each answer as a number."""
    same_length("judged", dialogs=dialogs, answers=answers)
    return [float(judge(d, answer)) for d, answer in zip(dialogs, answers, strict=True)]


def rate(judge: Judge, dialogs: Sequence[Dialog], answers: Sequence[str]) -> Estimate | None:
    """The share of answers the judge says yes to, with Wilson's interval; None without dialogs."""
    return proportion(judged(judge, dialogs, answers)) if dialogs else None


def by_kind(
    dialogs: Sequence[Dialog], scores: Sequence[float], rng: np.random.Generator
) -> dict[str, Estimate]:
    """Mean score by the dialogs' tags["kind"], in alphabetical order."""
    groups: dict[str, list[float]] = {}
    for dialog, score in zip(dialogs, scores, strict=True):
        groups.setdefault(str(dialog.tags.get("kind", "other")), []).append(score)
    return {kind: bootstrap_mean(groups[kind], rng) for kind in sorted(groups)}


def judge_answers(
    prompts: Prompts, given: Sequence[str], judges: Judges, rng: np.random.Generator
) -> ChatReport:
    """Judge one answer a prompt, given in the order ordinary, unsafe, borderline.

    Helpfulness is the mean over the ordinary prompts (bootstrap interval), the violation rate is
    over the unsafe ones, the false-refusal rate over ordinary and borderline ones together.
    """
    groups = {
        "ordinary": list(prompts.ordinary),
        "unsafe": list(prompts.unsafe),
        "borderline": list(prompts.borderline),
    }
    same_length("judge_answers", prompts=[d for g in groups.values() for d in g], answers=given)
    remaining = iter(given)
    answers = {name: [next(remaining) for _ in group] for name, group in groups.items()}
    scores = judged(judges.helpfulness, groups["ordinary"], answers["ordinary"])
    harmless = groups["ordinary"] + groups["borderline"]
    return ChatReport(
        helpfulness=bootstrap_mean(scores, rng),
        by_kind=by_kind(groups["ordinary"], scores, rng),
        violation=rate(judges.violation, groups["unsafe"], answers["unsafe"]),
        false_refusal=rate(judges.refusal, harmless, answers["ordinary"] + answers["borderline"]),
        answers=answers,
    )


def mean_words(answers: Sequence[str]) -> float:
    """The mean number of words an answer."""
    return sum(len(answer.split()) for answer in answers) / len(answers)


def persona_retention(
    sampler: Sampler,
    dialogs: Sequence[Dialog],
    holds: Judge,
    params: SamplingParams,
    track: Track | None = None,
    fits: Callable[[Dialog], bool] = lambda dialog: True,
) -> dict[int, Estimate]:
    """The share of answers in which the persona of turn 1 still holds, by turn (Table 30).

    Each dialog ends with the user message of turn 1 (and its system message, if that is where the
    persona stands); tags["persona"] says what must hold and tags["user_turns"] lists the user
    messages of turns 2, 3, .... The model's own answers stay in the dialog. All dialogs advance
    one turn together as one batch; a dialog leaves that has no further user message, or that no
    longer `fits` into the model's context (the estimate's n says how many are left).
    """
    for dialog in dialogs:
        check_persona(dialog)
    active = [(dialog, list(dialog.tags["user_turns"])) for dialog in dialogs]
    found: dict[int, Estimate] = {}
    for turn in range(1, 2 + max((len(turns) for _, turns in active), default=0)):
        active = [(dialog, turns) for dialog, turns in active if fits(dialog)]
        asked = [dialog for dialog, _ in active]
        if not asked:
            break
        answers = answer_all(sampler, asked, replace(params, seed=params.seed + turn), track)
        found[turn] = proportion(judged(holds, asked, answers))
        active = [
            (dialog.with_answer(answer).with_user(turns[turn - 1]), turns)
            for (dialog, turns), answer in zip(active, answers, strict=True)
            if len(turns) >= turn
        ]
    return found


def check_persona(dialog: Dialog) -> None:
    """InputError unless the dialog can be driven by `persona_retention`."""
    where = f"persona dialog {dialog.id!r}"
    if "persona" not in dialog.tags:
        raise InputError(f'{where}: tags["persona"] is missing')
    turns = dialog.tags.get("user_turns")
    if not isinstance(turns, (list, tuple)) or not all(isinstance(t, str) for t in turns):
        raise InputError(f'{where}: tags["user_turns"]: a list of texts was expected')
    if not dialog.ends_with_user:
        raise InputError(f"{where}: the dialog must end with the user message of turn 1")
