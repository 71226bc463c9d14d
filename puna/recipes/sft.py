"""Supervised fine-tuning: base model + dialogues → chat model (Llama 2, section 3.1).

    puna sft --run runs/sft --model runs/pretrain/checkpoint --dialogs dialogs.jsonl

Reads a checkpoint and dialogs.jsonl; writes checkpoint/ and metrics.jsonl. Prompts and answers are
packed to fill the sequence; the loss is zero on everything but the assistant's answers. A packed
dialogue sees itself only: the paper leaves attention across packed examples open, and this way an
answer is learnt under the prompt it will be given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from puna.model import checkpoint
from puna.model.lora import LoraConfig
from puna.model.transformer import Transformer
from puna.numerics import optim
from puna.numerics.optim import OptimConfig
from puna.recipes import steps
from puna.run import Run
from puna.text.dialog import Dialog
from puna.text.files import read_dialogs
from puna.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a model is fine-tuned on dialogues; shared by every recipe that does so."""

    epochs: Annotated[int, Meta(ge=1)] = 2  # passes over the dialogues (paper: 2)
    batch_size: Annotated[int, Meta(ge=1)] = (
        16  # packed sequences in one optimiser step (paper: 64)
    )
    micro_batch_size: Annotated[int, Meta(ge=1)] = 8  # packed sequences in one forward pass
    seq_len: int = 512  # tokens in a packed sequence (paper: 4096)
    eval_every: int = 0  # steps between held-out losses; 0: only at the end
    save_every: int = 50  # steps between resumable states; 0: none
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-3, warmup=10)
    )  # AdamW, cosine (paper: lr 2e-5, weight decay 0.1; the rest as in pretraining)


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/sft")  # folder of this stage
    model: Path = Path("runs/pretrain/checkpoint")  # checkpoint to start from
    # dialogues to learn (paper: 27,540)
    dialogs: tuple[Path, ...] = (Path("runs/prepare/dialogs.jsonl"),)
    held_out: Path | None = None  # dialogues for the held-out loss
    seed: int = 0  # order of the dialogues
    tuning: Tuning = field(default_factory=Tuning)  # optimisation
    lora: LoraConfig = field(default_factory=LoraConfig)  # adapters; rank=0: train every weight


def main(config: Config) -> dict:
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    drawn = steps.generator(config.seed, "lora")
    model, tokenizer = checkpoint.load_tuned(config.model, config.lora, drawn)
    dialogs = [dialog for path in config.dialogs for dialog in read_dialogs(path)]
    held_out = read_dialogs(config.held_out) if config.held_out else []
    figures = fine_tune(run, model, tokenizer, dialogs, held_out, config.tuning, config.seed)
    return run.finish(**figures)


def fine_tune(
    run: Run,
    model: Transformer,
    tokenizer: Tokenizer,
    dialogs: Sequence[Dialog],
    held_out: Sequence[Dialog],
    tuning: Tuning,
    seed: int,
) -> dict:
    """Train `model` on the answers of `dialogs` and write `run`/checkpoint; resumes if stopped.

    A dialogue tagged `last_only` trains its last answer alone (Ghost Attention, section 3.3).
    Returns the figures.
    """
    steps.check_context("tuning.seq_len", tuning.seq_len, model.args.max_seq_len)
    flags = [bool(dialog.tags.get("last_only")) for dialog in dialogs]
    examples, left_out = steps.encode_all(dialogs, tokenizer, tuning.seq_len, flags)
    packed = steps.Packed(examples, tuning.batch_size, tuning.seq_len, tuning.epochs, seed)
    steps.announce_memory(model)
    learner = steps.Learner(model, tuning.optim)
    modules, optimizers = {"model": model}, {"model": learner.optimizer}
    start, _ = checkpoint.load_state(run.folder, modules, optimizers) or (0, {})
    run.rewind(start)
    with run.track(len(packed), "fine-tune", start) as advance:
        for step in range(start, len(packed)):
            parts = steps.micro(packed.batch(step), tuning.micro_batch_size)
            lr = optim.cosine(step, len(packed), tuning.optim)
            numbers = learner.learn(parts, lambda part: steps.answer_loss(model, part), lr)
            if held_out and steps.every(step, tuning.eval_every, len(packed)):
                numbers["held_out_loss"] = held_out_loss(model, tokenizer, held_out, tuning)
            run.log(step, **numbers)
            advance(1)
            if steps.every(step, tuning.save_every, 0) and step + 1 < len(packed):
                checkpoint.save_state(run.folder, step + 1, modules, optimizers, {})
    checkpoint.save(run.folder / "checkpoint", model, tokenizer, {"stage": run.folder.name})
    trained = sum(sum(mask) for _, mask in examples)
    figures = {"loss": numbers["loss"], "dialogs": len(examples), "answer_tokens": trained}
    if held_out:
        figures["held_out_loss"] = numbers["held_out_loss"]
    return figures | ({"left_out_too_long": left_out} if left_out else {})


def held_out_loss(
    model: Transformer, tokenizer: Tokenizer, dialogs: Sequence[Dialog], tuning: Tuning
) -> float:
    """Mean loss in nats on the answers of dialogues that were not trained on."""
    examples, _ = steps.encode_all(dialogs, tokenizer, tuning.seq_len)
    packed = steps.Packed(examples, tuning.micro_batch_size, tuning.seq_len, 1, 0)
    batches = (packed.batch(step) for step in range(len(packed)))
    return steps.mean_loss(batches, lambda part: steps.answer_loss(model, part))
