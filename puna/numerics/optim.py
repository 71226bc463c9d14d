"""AdamW, its schedules and gradient clipping (sections 2.2 and 3.2.3)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from puna.errors import InputError


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule; defaults are the paper's for pretraining but the warmup."""

    # peak learning rate; paper: 3e-4 (7B, 13B), 1.5e-4 (34B, 70B), 2e-5 fine-tuning, 1e-6 PPO
    lr: float = 3e-4
    # AdamW's decay rates of the two moments; paper: 0.9 and 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    # added to AdamW's denominator; paper: 1e-5
    eps: float = 1e-5
    # decoupled weight decay of matrices; paper: 0.1
    weight_decay: float = 0.1
    # largest norm of the gradient over all parameters; paper: 1.0
    clip: float = 1.0
    # steps of linear warmup; paper: 2000 in pretraining
    warmup: int = 0
    # last learning rate as a fraction of the peak; paper: 0.1
    final_ratio: float = 0.1
    # type of the matrix products; weights, losses and moments stay float32 (paper: not stated).
    # bfloat16 on a processor that would emulate it: float32, which is faster there
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        checks = {
            "lr": (self.lr > 0, "a positive number"),
            "betas": (all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)"),
            "eps": (self.eps > 0, "a positive number"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "clip": (self.clip > 0, "a positive number"),
            "warmup": (self.warmup >= 0, "0 or more steps"),
            "final_ratio": (0 <= self.final_ratio <= 1, "a number in [0, 1]"),
            "precision": (self.precision in ("float32", "bfloat16"), "float32 or bfloat16"),
        }
        for field, (valid, expected) in checks.items():
            if not valid:
                raise InputError(f"optim.{field} is {getattr(self, field)!r}, expected {expected}")


def adamw(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices, not on 1-d tensors (norms).

    Which tensors decay is left open by the paper. ValueError for a parameter that is not float32:
    the moments take its type, and half precision would lose small updates without a word.
    """
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    if not trained:
        raise ValueError(f"{type(module).__name__} has no trainable parameter")
    for name, parameter in trained:
        if parameter.dtype != torch.float32:
            raise ValueError(f"parameter {name} is {parameter.dtype}, AdamW here expects float32")
    decayed = [p for _, p in trained if p.ndim > 1]
    plain = [p for _, p in trained if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def cosine(step: int, total: int, config: OptimConfig) -> float:
    """Learning rate of step 0..total-1: linear warmup to the peak, then a cosine down.

    The last step's rate is final_ratio times the peak. The first step already moves (lr / warmup).
    InputError if the warmup is longer than the training.
    """
    done = _steps_done(step, total, config)
    if done <= config.warmup:
        return config.lr * done / config.warmup
    progress = (done - config.warmup) / (total - config.warmup)
    share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_ratio + (1.0 - config.final_ratio) * share)


def constant(step: int, total: int, config: OptimConfig) -> float:
    """Learning rate of step 0..total-1: linear warmup, then the peak (PPO, section 3.2.3)."""
    done = _steps_done(step, total, config)
    return config.lr * min(1.0, done / config.warmup) if config.warmup else config.lr


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale gradients down to a common norm of at most max_norm; returns the norm before.

    FloatingPointError if the norm is not finite: a step with it would destroy the weights. The
    gradients are then left as they are.
    """
    parameters = [p for p in parameters if p.grad is not None]
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(grads)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {norm.item()}, a finite one was expected")
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm.item()


def _steps_done(step: int, total: int, config: OptimConfig) -> int:
    if not 0 <= step < total:
        raise ValueError(f"step {step} is outside 0..{total - 1}")
    if config.warmup > total:
        raise InputError(f"optim.warmup is {config.warmup}, at most the {total} steps of training")
    return step + 1
