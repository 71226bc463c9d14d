"""Compare versions: the answers of each, scored by the last reward models (Figure 11).

    puna compare --run runs/compare --evaluations=runs/sft/evaluate,runs/v1/evaluate \\
        --helpfulness runs/v1/helpfulness/checkpoint --safety runs/v1/safety/checkpoint

The rewards written while a version was made come from that version's own reward models and cannot
be compared; here the newest models score all of them, as the paper does. Writes versions.json: for
each version both rewards and its win rate over the first one on helpfulness and on safety prompts,
with 95 % intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from puna.errors import InputError
from puna.evaluation import compare
from puna.model import checkpoint
from puna.recipes.judges import RewardJudge, mean_rewards
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
        raise InputError(
            f"names: {len(names)} for {len(config.evaluations)} evaluations, expected one each"
        )
    judge = RewardJudge.load(config.helpfulness, config.safety, config.safety_threshold)
    tokenizer = checkpoint.load_reward(config.helpfulness)[1]
    rows: list[dict] = []
    first: dict[str, list[float]] = {}
    with run.track(len(names), "versions") as advance:
        for name, folder in zip(names, config.evaluations, strict=True):
            scores = judge.by_prompt(tokenizer, read_dialogs(folder / "answers.jsonl"))
            first = first or scores
            found = read_json(folder / "evaluation.json")  # its rewards are another model's
            rows.append({"name": name, **found, **described(scores, first)})
            advance(1)
    write_json(run.folder / "versions.json", rows)
    last = rows[-1]
    figures = {k: last[k]["value"] for k in ("reward_helpfulness", "reward_safety") if k in last}
    return run.finish(
        versions=len(rows), win_rate_by_reward=last["win_rate_by_reward"]["value"], **figures
    )


def described(
    scores: Mapping[str, Sequence[float]], first: Mapping[str, Sequence[float]]
) -> dict[str, dict]:
    """Mean rewards and win rates over the first version."""
    result = mean_rewards(scores)
    result["win_rate_by_reward"] = compare.win_rate(scores["combined"], first["combined"]).to_json()
    for name in ("helpfulness", "safety"):
        if scores[name]:
            result[f"win_rate_{name}"] = compare.win_rate(scores[name], first[name]).to_json()
    return result
