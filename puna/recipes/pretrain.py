"""Pretraining: token shards → base model (Llama 2, section 2).

    puna pretrain --run runs/base --data runs/prepare
    puna pretrain presets/tiny/cafe.toml

Reads tokens/ and tokenizer.model of a `puna prepare` folder; writes checkpoint/ and metrics.jsonl.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from puna.data.shards import TokenStream
from puna.model import checkpoint
from puna.model.transformer import ModelArgs, Transformer
from puna.numerics import losses, optim
from puna.numerics.optim import OptimConfig
from puna.recipes import steps
from puna.run import Run
from puna.text.tokenizer import open_tokenizer


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The transformer's shape; names are Meta's."""

    dim: int = 128  # width (paper: 4096 for 7B)
    n_layers: int = 6  # layers (paper: 32 for 7B)
    n_heads: int = 4  # query heads (paper: 32 for 7B)
    n_kv_heads: int = 2  # key/value heads (paper: 32 for 7B, 8 for 34B and 70B)
    multiple_of: int = 32  # feed-forward width is rounded up to this (paper: 256)
    norm_eps: float = 1e-5  # added to the mean square in RMSNorm (paper: 1e-5)
    rope_theta: float = 10000.0  # base of the rotary angles (paper: 10000)
    max_seq_len: int = 512  # tokens of context (paper: 4096)


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/pretrain")  # folder of this stage
    data: Path = Path("runs/prepare")  # folder made by `puna prepare`
    model: ModelShape = ModelShape()  # shape of the new model
    steps: Annotated[int, Meta(ge=1)] = 400  # optimiser steps (paper: about 500,000)
    batch_size: Annotated[int, Meta(ge=1)] = (
        16  # sequences in one optimiser step (paper: 4M tokens, about 1024 sequences)
    )
    micro_batch_size: Annotated[int, Meta(ge=1)] = 16  # sequences in one forward pass
    seq_len: int = 256  # tokens in a training sequence (paper: 4096)
    eval_every: int = 100  # steps between validation losses; 0: only at the end
    eval_batches: int = 8  # validation batches
    save_every: int = 100  # steps between resumable states; 0: none
    seed: int = 0  # initialisation and order of the data
    # AdamW, cosine to 10 % (paper: lr 3e-4, warmup 2000, betas 0.9 and 0.95, eps 1e-5, decay 0.1,
    # clip 1.0)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-3, warmup=40))


def main(config: Config) -> dict:
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    steps.check_context("seq_len", config.seq_len, config.model.max_seq_len)
    corpus = steps.require(config.data / "tokens", "prepare")
    tokenizer = open_tokenizer(config.data)
    train = TokenStream(corpus / "train", tokenizer.sha256)
    held_out = TokenStream(corpus / "held_out", tokenizer.sha256)
    shape = {k: getattr(config.model, k) for k in config.model.__dataclass_fields__}
    model = Transformer(ModelArgs(vocab_size=tokenizer.vocab_size, **shape))
    model.init_weights(steps.generator(config.seed, "weights"))
    learner = steps.Learner(model, config.optim)
    modules, optimizers = {"model": model}, {"model": learner.optimizer}
    start, _ = checkpoint.load_state(run.folder, modules, optimizers) or (0, {})
    run.rewind(start)
    speed, began, tokens = (
        steps.Speed.measure(config.optim.precision),
        time.monotonic(),
        config.batch_size * config.seq_len,
    )

    with run.track(config.steps, "pretrain", start) as advance:
        for step in range(start, config.steps):
            batch = train.batch(step, config.batch_size, config.seq_len, config.seed)
            lr = optim.cosine(step, config.steps, config.optim)
            parts = batch.split(config.micro_batch_size)
            numbers = learner.learn(parts, lambda part: token_loss(model, part), lr)
            if steps.every(step, config.eval_every, config.steps):
                numbers["held_out_loss"] = validate(model, held_out, config)
            run.log(step, **numbers)
            advance(1)
            if steps.every(step, config.save_every, 0) and step + 1 < config.steps:
                checkpoint.save_state(run.folder, step + 1, modules, optimizers, {})

    rate = (config.steps - start) * tokens / (time.monotonic() - began)
    checkpoint.save(run.folder / "checkpoint", model, tokenizer, {"stage": "pretrain"})
    used = rate * steps.flops_per_token(model, config.seq_len) / speed.matmul_flops
    return run.finish(
        held_out_loss=numbers["held_out_loss"],
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=config.steps * tokens,
        tokens_per_second=rate,
        mfu=used,
        matmul_gflops=speed.matmul_flops / 1e9,
    )


def token_loss(model: Transformer, batch: Tensor) -> steps.Summed:
    """Cross-entropy of every next token: batch [B, T + 1] → (sum, count)."""
    targets = batch[:, 1:]
    hidden = model.hidden(batch[:, :-1])
    everywhere = torch.ones_like(targets, dtype=torch.bool)
    return losses.chunked_cross_entropy(hidden, model.output.weight, targets, everywhere)


def validate(model: Transformer, held_out: TokenStream, config: Config) -> float:
    """Mean next-token loss in nats on the first windows of the held-out stream."""
    count = min(config.eval_batches, max(1, held_out.windows(config.seq_len) // config.batch_size))
    rows = min(config.batch_size, held_out.windows(config.seq_len))
    parts = (held_out.batch(step, rows, config.seq_len, 0) for step in range(count))
    return steps.mean_loss(parts, lambda part: token_loss(model, part))
