"""Reward model: chat model + preferences → a model that scores answers (Llama 2, section 3.2.2).

    puna reward --kind helpfulness --run runs/helpfulness --model runs/sft/checkpoint \\
        --preferences helpful.jsonl --others safe.jsonl
    puna reward --kind safety --run runs/safety --model runs/sft/checkpoint \\
        --preferences safe.jsonl --others helpful.jsonl

Starts from a chat checkpoint whose next-token head is replaced by a scalar head, and learns -log
sigmoid(r_chosen - r_rejected - m(strength)) for one epoch; the safety model adds a cross-entropy on
each answer's safe/unsafe label, and human 0/1 labels of single answers are learnt the same way.
Writes checkpoint/, metrics.jsonl and report.json: accuracy by strength and safety bin, calibration,
recall of unsafe answers, what length alone would reach.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta

from puna.data.batches import by_length, fork, forked_length
from puna.evaluation import floor, preference
from puna.model import checkpoint
from puna.model.heads import RewardModel
from puna.model.lora import LoraConfig
from puna.numerics import losses, optim, rewards
from puna.numerics.optim import OptimConfig
from puna.recipes import steps
from puna.run import Run
from puna.text.dialog import Label, Preference
from puna.text.files import read_labels, read_preferences, write_json
from puna.text.template import encode_dialog
from puna.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    kind: Literal["helpfulness", "safety"] = "helpfulness"  # which of the paper's two models
    run: Path = Path("runs/reward")  # folder of this stage
    # chat checkpoint to start from (paper: the chat model)
    model: Path = Path("runs/sft/checkpoint")
    preferences: tuple[Path, ...] = ()  # comparisons of this kind, all of them used
    others: tuple[Path, ...] = ()  # comparisons of the other kind, mixed in up to `others_share`
    labels: tuple[Path, ...] = ()  # single answers with a human 0/1 reward
    held_out: tuple[Path, ...] = ()  # comparisons to test on
    held_out_labels: tuple[Path, ...] = ()  # labelled answers to test on
    # of the training mix (paper: 0.5 helpfulness, 0.1 safety)
    others_share: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    # m(strength), Table 27 (paper: tried all, final not stated)
    margin: Literal["none", "small", "large"] = "small"
    # of the auxiliary safety loss, on pairs with a safety bin (paper: weight not stated)
    safety_weight: float = 1.0
    # what the head reads: the last token, or also each feature's peak (paper: not stated)
    pool: Literal["last", "last+max"] = "last"
    epochs: Annotated[int, Meta(ge=1)] = 1  # passes over the data (paper: 1, longer over-fits)
    batch_size: Annotated[int, Meta(ge=1)] = 64  # comparisons in one optimiser step (paper: 512)
    micro_tokens: int = 6144  # tokens of padded answers in one forward pass
    save_every: int = 25  # steps between resumable states; 0: none
    floor: bool = False  # also fit a bag-of-n-grams model on the same data and report it beside
    seed: int = 0  # head, mixture and order
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=3e-4, warmup=5)
    )  # AdamW, cosine to 10 % (paper: lr 1e-5, 5e-6 for 70B; warmup 3 %, at least 5 steps)
    lora: LoraConfig = field(default_factory=LoraConfig)  # adapters; rank=0: train every weight


@dataclass(frozen=True)
class Example:
    """A comparison (2 rows, margin, maybe two safety labels) or one labelled answer (1 row)."""

    rows: tuple[list[int], ...]
    margin: float = 0.0
    labels: tuple[bool, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the longest of its rows."""
        return max(map(len, self.rows))


def main(config: Config) -> dict:
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    drawn = steps.generator(config.seed, "lora")
    trunk, tokenizer = checkpoint.load_tuned(config.model, config.lora, drawn)
    model = RewardModel(trunk, steps.generator(config.seed, "head"), config.pool)
    steps.announce_memory(trunk, trained_heads=1)
    learner = steps.Learner(model, config.optim)
    preferences, labels = mixture(config), [x for path in config.labels for x in read_labels(path)]
    examples, cut = encode_examples(preferences, labels, tokenizer, config, trunk.args.max_seq_len)
    batches = [
        torch.randperm(len(examples), generator=steps.generator(config.seed, "order", epoch)).split(
            config.batch_size
        )
        for epoch in range(config.epochs)
    ]
    order = [batch.tolist() for epoch in batches for batch in epoch]
    modules, optimizers = {"model": model}, {"model": learner.optimizer}
    start, _ = checkpoint.load_state(run.folder, modules, optimizers) or (0, {})
    run.rewind(start)
    with run.track(len(order), f"{config.kind} reward model", start) as advance:
        for step in range(start, len(order)):
            chosen = [examples[number] for number in order[step]]
            groups = by_length([forked_length(e.rows) for e in chosen], config.micro_tokens)
            parts = [[chosen[i] for i in group] for group in groups]
            lr = optim.cosine(step, len(order), config.optim)
            numbers = learner.learn(
                parts, lambda part: reward_loss(model, part, config.safety_weight), lr
            )
            run.log(step, **numbers)
            advance(1)
            if steps.every(step, config.save_every, 0) and step + 1 < len(order):
                checkpoint.save_state(run.folder, step + 1, modules, optimizers, {})
    checkpoint.save(run.folder / "checkpoint", model, tokenizer, {"stage": run.folder.name})
    figures = report(run, model, tokenizer, preferences, labels, config)
    return run.finish(examples=len(examples), cut_to_context=cut, **figures)


def mixture(config: Config) -> list[Preference]:
    """All comparisons of this kind, and others up to `others_share`, drawn uniformly (3.2.2)."""
    own = [p for path in config.preferences for p in read_preferences(path)]
    others = [p for path in config.others for p in read_preferences(path)]
    wanted = round(len(own) * config.others_share / (1 - config.others_share))
    rng = random.Random(steps.derive(config.seed, "mixture"))
    return own + rng.sample(others, min(wanted, len(others)))


def encode_examples(
    preferences: Sequence[Preference],
    labels: Sequence[Label],
    tokenizer: Tokenizer,
    config: Config,
    longest: int,
) -> tuple[list[Example], int]:
    """Token rows, the last `longest` tokens of each as in scoring, and how many were cut."""
    margins = rewards.MARGINS[config.margin]
    examples = []
    for pair in preferences:
        rows = tuple(
            encode_dialog(pair.dialog.with_answer(text), tokenizer)[0]
            for text in (pair.chosen, pair.rejected)
        )
        safe = safe_labels(pair) if config.kind == "safety" else ()
        examples.append(Example(rows, margins[pair.strength], safe))
    for label in labels:
        ids = encode_dialog(label.dialog.with_answer(label.completion), tokenizer)[0]
        examples.append(Example((ids,), labels=(label.label,)))
    cut = [replace(e, rows=tuple(ids[-longest:] for ids in e.rows)) for e in examples]
    return cut, sum(example.length > longest for example in examples)


def safe_labels(pair: Preference) -> tuple[bool, ...]:
    """(chosen is safe, rejected is safe) by the pair's bin; nothing where annotators gave none."""
    return {
        "chosen_safe": (True, False),
        "both_safe": (True, True),
        "both_unsafe": (False, False),
    }.get(pair.safety or "", ())


def reward_loss(model: RewardModel, part: Sequence[Example], safety_weight: float) -> steps.Summed:
    """Ranking loss of the comparisons plus weighted cross-entropy of the labels; sum, examples."""
    pairs = [e for e in part if len(e.rows) == 2]
    singles = [e for e in part if len(e.rows) == 1]
    scores = steps.scores_of(model, fork([e.rows for e in [*pairs, *singles]]))
    chosen, rejected = scores[: 2 * len(pairs)].view(-1, 2).unbind(1)
    single = scores[2 * len(pairs) :]
    total = scores.sum() * 0.0
    if pairs:
        margins = torch.tensor([e.margin for e in pairs])
        total = total + losses.ranking_loss(chosen, rejected, margins)[0]
    labelled = torch.tensor([bool(e.labels) for e in pairs], dtype=torch.bool)
    if labelled.any():
        truth = torch.tensor([e.labels for e in pairs if e.labels]).T.flatten()
        both = torch.cat((chosen[labelled], rejected[labelled]))
        total = total + safety_weight * losses.safety_loss(both, truth)[0] / 2
    if singles:
        total = total + losses.safety_loss(single, torch.tensor([e.labels[0] for e in singles]))[0]
    return total, len(part)


def report(
    run: Run,
    model: RewardModel,
    tokenizer: Tokenizer,
    preferences: Sequence[Preference],
    labels: Sequence[Label],
    config: Config,
) -> dict:
    """Write report.json on held-out comparisons and labels; returns the key figures."""
    result: dict = {}
    test = [p for path in config.held_out for p in read_preferences(path)]
    if test:
        result |= pair_report(model, tokenizer, preferences, test, config)
    test_labels = [x for path in config.held_out_labels for x in read_labels(path)]
    if test_labels:
        result |= label_report(model, tokenizer, labels, test_labels, config)
    write_json(run.folder / "report.json", result)
    return key_figures(result)


def pair_report(
    model: RewardModel,
    tokenizer: Tokenizer,
    train: Sequence[Preference],
    test: Sequence[Preference],
    config: Config,
) -> dict:
    """Accuracy by strength and bin, calibration, length; for safety: recall of unsafe answers."""
    rng = np.random.default_rng(steps.derive(config.seed, "report"))
    answers = [p.dialog.with_answer(text) for p in test for text in (p.chosen, p.rejected)]
    scores = steps.score(model, tokenizer, answers)
    chosen, rejected = scores[::2], scores[1::2]
    scored = [
        preference.ScoredPair(
            c, r, p.strength, p.safety, len(p.chosen.split()), len(p.rejected.split())
        )
        for c, r, p in zip(chosen, rejected, test, strict=True)
    ]
    lengths = [(len(p.chosen.split()), len(p.rejected.split())) for p in train]
    result = preference.reward_report(scored, rng, lengths)
    if config.floor:
        known, asked = ([(p.chosen, p.rejected) for p in part] for part in (train, test))
        result["floor"] = floor.pair_floor(known, asked).to_json()
    binned = [
        (c, r, safe_labels(p)) for c, r, p in zip(chosen, rejected, test, strict=True) if p.safety
    ]
    if config.kind == "safety" and binned:
        safe = [steps.sigmoid(x) for c, r, _ in binned for x in (c, r)]
        found = preference.unsafe_recall(safe, [safe for *_, both in binned for safe in both])
        result["unsafe"] = {name: value.to_json() for name, value in found.items() if value}
    return result


def label_report(
    model: RewardModel,
    tokenizer: Tokenizer,
    train: Sequence[Label],
    test: Sequence[Label],
    config: Config,
) -> dict:
    """Area under the ROC curve on held-out human labels, beside a bag-of-n-grams model's."""
    rng = np.random.default_rng(steps.derive(config.seed, "labels"))
    scores = steps.score(model, tokenizer, [x.dialog.with_answer(x.completion) for x in test])
    result = {"auc": preference.auc_estimate(scores, [x.label for x in test], rng).to_json()}
    if config.floor:
        texts = [
            [prompt_text(x.dialog) + " " + x.completion for x in part] for part in (train, test)
        ]
        truth = [[x.label for x in part] for part in (train, test)]
        fitted = floor.label_floor((texts[0], truth[0]), (texts[1], truth[1]), rng)
        result["auc_floor"] = fitted.to_json()
    return result


def prompt_text(dialog) -> str:
    """The prompt as plain text, for models of words."""
    return " ".join(message.content for message in dialog.messages)


def key_figures(result: dict) -> dict:
    """The flat figures that `results.json` carries for a reward model."""
    figures = {}
    for name in ("accuracy", "auc", "auc_floor", "floor"):
        if name in result:
            figures[name] = result[name]["value"]
    for strength, estimate in result.get("by_strength", {}).items():
        figures[f"accuracy_{strength}"] = estimate["value"]
    if "length_only" in result:
        figures["accuracy_length_only"] = result["length_only"]["value"]
    if "calibration" in result:
        figures["calibration_error"] = result["calibration"]["error"]
    for name, estimate in result.get("unsafe", {}).items():
        figures[f"unsafe_{name}"] = estimate["value"]
    return figures
