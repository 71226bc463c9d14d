"""Rejection sampling: K answers a prompt, fine-tune the base on the best (section 3.2.3).

    puna rejection --run runs/v1 --model runs/sft/checkpoint --base runs/pretrain/checkpoint \\
        --helpfulness runs/helpfulness/checkpoint --safety runs/safety/checkpoint

Reads prompts.jsonl, the newest chat model and both reward models. First a sweep on a few prompts
finds the temperature whose best of K scores highest; then every prompt gets K answers and the best
by the combined reward R_c is kept in samples.jsonl. The base model is fine-tuned on the best
samples of this and all earlier versions, since training on the newest alone forgets (the paper's
V3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta

from puna.engine.engine import Engine
from puna.evaluation import compare
from puna.model import checkpoint, places
from puna.model.lora import LoraConfig
from puna.recipes import steps
from puna.recipes.judges import RewardJudge
from puna.recipes.sft import Tuning, fine_tune
from puna.run import Run
from puna.text.completion import SamplingParams
from puna.text.dialog import Dialog
from puna.text.files import read_dialogs, read_json, write_dialogs, write_json
from puna.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/rejection")  # folder of this stage
    # pretrained model, fine-tuned anew (paper: the base model)
    base: Path = Path("runs/pretrain/checkpoint")
    model: Path = Path("runs/sft/checkpoint")  # newest chat model, which samples
    helpfulness: Path = Path("runs/helpfulness/checkpoint")  # helpfulness reward model
    safety: Path = Path("runs/safety/checkpoint")  # safety reward model
    prompts: Path = Path("runs/prepare/prompts.jsonl")  # dialogues that end with a user's message
    # samples.jsonl of earlier versions, all kept (paper: V1, V2, ...)
    earlier: tuple[Path, ...] = ()
    # further dialogues to learn beside: Ghost Attention, context distillation, SFT
    dialogs: tuple[Path, ...] = ()
    held_out: Path | None = None  # dialogues for the held-out loss
    # K answers a prompt (paper: not stated, 10 to 100 studied)
    samples: Annotated[int, Meta(ge=2)] = 8
    # swept (paper: 0.6 to 1.5, best 1.2 to 1.3 after RLHF)
    temperatures: tuple[float, ...] = (0.6, 0.8, 1.0, 1.2)
    sweep_prompts: int = 60  # prompts of the sweep
    prompt_count: int = 1500  # prompts that get K answers; 0: all of them
    safety_threshold: float = 0.15  # below it the safety reward overrules (paper: 0.15)
    top_p: float = 1.0  # nucleus while sampling
    max_tokens: int = 80  # longest answer
    rows: int = 128  # answers generated at once
    seed: int = 0  # choice of prompts, samples, order
    tuning: Tuning = field(default_factory=Tuning)  # optimisation (paper: similar to SFT)
    lora: LoraConfig = field(default_factory=LoraConfig)  # adapters; rank=0: train every weight


def main(config: Config) -> dict:
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    source = places.open_source(config.model, verify=False)
    tokenizer = checkpoint.tokenizer_for(source, config.model)
    # rejection.json is written after samples.jsonl, so both are whole
    if not (run.folder / "rejection.json").exists():
        write_json(run.folder / "rejection.json", sample(run, config))
    figures = read_json(run.folder / "rejection.json")["figures"]
    pool = [run.folder / "samples.jsonl", *config.earlier, *config.dialogs]
    dialogs = [dialog for path in pool for dialog in read_dialogs(path)]
    held_out = read_dialogs(config.held_out) if config.held_out else []
    drawn = steps.generator(config.seed, "lora")
    base, _ = checkpoint.load_tuned(config.base, config.lora, drawn)
    tuned = fine_tune(run, base, tokenizer, dialogs, held_out, config.tuning, config.seed)
    return run.finish(**figures, **tuned)


def sample(run: Run, config: Config) -> dict:
    """Sweep the temperature, sample K answers a prompt, write the best to samples.jsonl.

    Returns the curves of the sweep and the figures.
    """
    model, tokenizer = checkpoint.load(config.model)
    judge = RewardJudge.load(config.helpfulness, config.safety, config.safety_threshold)
    engine = Engine(model, tokenizer, rows=config.rows)
    prompts = read_dialogs(config.prompts)
    order = torch.randperm(len(prompts), generator=steps.generator(config.seed, "prompts")).tolist()
    prompts = [prompts[i] for i in order[: config.prompt_count or len(order)]]
    room = steps.cache_of(
        prompts, tokenizer, config.max_tokens, config.rows, model.args.max_seq_len
    )
    steps.announce_memory(model, (judge.helpfulness, judge.safety), trained=0, cache=room)
    swept = {
        t: rewards_of(run, engine, judge, tokenizer, prompts[: config.sweep_prompts], config, t)[1]
        for t in config.temperatures
    }
    best = compare.best_temperature(swept, config.samples)
    answers, scores = rewards_of(run, engine, judge, tokenizer, prompts, config, best)
    chosen = [max(range(len(row)), key=row.__getitem__) for row in scores]
    kept = [
        Dialog(
            (*prompt.messages, *prompt.with_answer(texts[pick]).messages[-1:]),
            prompt.id,
            {
                **prompt.tags,
                "last_only": True,
                "reward": row[pick],
                "version": config.run.parent.name,
            },
        )
        for prompt, texts, row, pick in zip(prompts, answers, scores, chosen, strict=True)
        if texts[pick]
    ]
    write_dialogs(run.folder / "samples.jsonl", kept)
    curves = compare.temperature_curves(swept, range(1, config.samples + 1), config.samples)
    mean = sum(sum(row) / len(row) for row in scores) / len(scores)
    top = sum(row[pick] for row, pick in zip(scores, chosen, strict=True)) / len(scores)
    figures = {
        "temperature": best,
        "reward_mean": mean,
        "reward_best_of_k": top,
        "samples": len(kept),
        "empty_dropped": len(prompts) - len(kept),
    }
    return {"temperatures": curves.to_json(), "figures": figures}


def rewards_of(
    run: Run,
    engine: Engine,
    judge: RewardJudge,
    tokenizer: Tokenizer,
    prompts: Sequence[Dialog],
    config: Config,
    temperature: float,
) -> tuple[list[list[str]], list[list[float]]]:
    """K answers for each prompt at a temperature, and their combined rewards: [prompts][K] each."""
    seed = steps.derive(config.seed, "sample", temperature)
    params = SamplingParams(temperature, config.top_p, max_tokens=config.max_tokens, seed=seed)
    count = len(prompts) * config.samples
    with run.track(count, f"{config.samples} answers at T={temperature}") as advance:
        found = engine.generate(prompts, params, n=config.samples, track=advance)
    answers = [[completion.text for completion in row] for row in found]
    flat = [p.with_answer(text) for p, row in zip(prompts, answers, strict=True) for text in row]
    with run.track(count, "rewards") as advance:
        scores = judge.combined(tokenizer, flat, track=advance)["combined"].tolist()
    width = config.samples
    return answers, [scores[i : i + width] for i in range(0, count, width)]
