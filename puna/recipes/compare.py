"""Compare versions: every version's answers to the same held-out prompts, judged by the last reward models (Figure 11).

    puna compare --run runs/compare --evaluations runs/sft/evaluate runs/v1/evaluate --helpfulness H --safety S

The rewards written while a version was made come from that version's own reward models and cannot be compared; here the
newest models score all of them, as the paper does. Writes versions.json: for each version both rewards and its win rate
over the first one on helpfulness and on safety prompts, with 95 % intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puna.errors import InputError
from puna.evaluation import compare
from puna.evaluation.intervals import bootstrap_mean
from puna.model import checkpoint
from puna.recipes.judges import RewardJudge
from puna.run import Run
from puna.text.files import read_dialogs, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/compare")  # folder of this stage
    evaluations: tuple[Path, ...] = ()  # folders made by `puna evaluate`, oldest version first
    names: tuple[str, ...] = ()  # what to call them; empty: their folders' names
    helpfulness: Path = Path("runs/helpfulness/checkpoint")  # helpfulness reward model
    safety: Path = Path("runs/safety/checkpoint")  # safety reward model
    safety_threshold: float = 0.15  # of the combined reward (paper: 0.15)


def main(config: Config) -> dict:
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    names = config.names or tuple(str(path) for path in config.evaluations)
    if len(names) != len(config.evaluations) or not names:
        raise InputError(f"names: {len(names)} for {len(config.evaluations)} evaluations, expected one each")
    judge = RewardJudge.load(config.helpfulness, config.safety, config.safety_threshold)
    tokenizer = checkpoint.load_reward(config.helpfulness)[1]
    rows: list[dict] = []
    first: dict[str, list[float]] = {}
    with run.track(len(names), "versions") as advance:
        for name, folder in zip(names, config.evaluations, strict=True):
            scores = scored(judge, tokenizer, folder)
            first = first or scores
            rows.append({"name": name, **described(scores, first), **read_json(folder / "evaluation.json")})
            advance(1)
    write_json(run.folder / "versions.json", rows)
    last = rows[-1]
    figures = {k: last[k]["value"] for k in ("reward_helpfulness", "reward_safety") if k in last}
    return run.finish(versions=len(rows), win_rate_by_reward=last["win_rate_by_reward"]["value"], **figures)


def scored(judge: RewardJudge, tokenizer, folder: Path) -> dict[str, list[float]]:
    """Rewards of a version's answers: "helpfulness" on harmless prompts, "safety" on unsafe ones, "combined" on all."""
    answers = read_dialogs(folder / "answers.jsonl")
    found = {name: value.tolist() for name, value in judge.combined(tokenizer, answers).items()}
    unsafe = [bool(dialog.tags.get("safety")) for dialog in answers]
    found["helpfulness"] = [r for r, u in zip(found["helpfulness"], unsafe, strict=True) if not u]
    found["safety"] = [r for r, u in zip(found["safety"], unsafe, strict=True) if u]
    return found


def described(scores: dict[str, Sequence[float]], first: dict[str, Sequence[float]]) -> dict:
    """Mean rewards and win rates over the first version."""
    rng = np.random.default_rng(0)
    result = {"win_rate_by_reward": compare.win_rate(scores["combined"], first["combined"]).to_json()}
    for name in ("helpfulness", "safety"):
        if scores[name]:
            result[f"reward_{name}"] = bootstrap_mean(scores[name], rng).to_json()
            result[f"win_rate_{name}"] = compare.win_rate(scores[name], first[name]).to_json()
    return result
