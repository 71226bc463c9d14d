"""What models on one trunk hold in memory, computed from their shapes before anything is loaded."""

from dataclasses import dataclass

import torch

from puna.model.lora import PLACES, LoraConfig
from puna.model.presets import cache_bytes_per_token
from puna.model.quantised import stored_bytes
from puna.model.source import expected_tensors
from puna.model.transformer import ModelArgs

FLOAT = 4  # bytes of a number in adapters, heads, gradients and the optimiser's two moments
UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what holds them. Activations come on top: they depend on the rows of a pass."""

    models: int  # that share the trunk
    trunk: int
    adapter: int  # of one model
    heads: int  # of all models that have one
    gradients: int
    optimizer: int  # AdamW's two moments
    cache: int  # keys and values of the answers that grow at once
    others: int = 0  # models that do not share the trunk

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        kept = self.trunk + self.models * self.adapter + self.heads
        return kept + self.gradients + self.optimizer + self.cache + self.others

    def line(self) -> str:
        """All of it in one line for the console."""
        shared = f" (shared by {self.models})" if self.models > 1 else ""
        parts = [f"trunk {size(self.trunk)}{shared}"]
        parts += [f"adapters {self.models} x {size(self.adapter)}"]
        parts += [
            f"{name} {size(count)}"
            for name, count in (
                ("heads", self.heads),
                ("gradients", self.gradients),
                ("optimiser", self.optimizer),
                ("cache", self.cache),
                ("other models", self.others),
            )
            if count
        ]
        return f"memory: {' + '.join(parts)} = {size(self.total)}, and activations"


def plan(
    args: ModelArgs,
    config: LoraConfig,
    *,
    models: int = 1,
    trained: int = 1,
    heads: int = 0,
    trained_heads: int = 0,
    rows: int = 0,
    length: int = 0,
    others: int = 0,
    dtype: torch.dtype = torch.float32,
) -> MemoryPlan:
    """The memory of `models` models with adapters on one trunk, `trained` of them learning.

    heads: how many are reward or value models (each dim + 1 numbers); rows and length: answers
    generated at once, and the tokens that each may reach; others: bytes of models that stand on no
    or another trunk; dtype: of the trunk and the cache.
    """
    adapter = adapter_numbers(args, config)
    learnt = trained * adapter + trained_heads * (args.dim + 1)
    return MemoryPlan(
        models=models,
        trunk=trunk_bytes(args, config, dtype),
        adapter=FLOAT * adapter,
        heads=FLOAT * heads * (args.dim + 1),
        gradients=FLOAT * learnt,
        optimizer=2 * FLOAT * learnt,
        cache=rows * length * cache_bytes_per_token(args, dtype.itemsize),
        others=others,
    )


def trunk_bytes(args: ModelArgs, config: LoraConfig, dtype: torch.dtype) -> int:
    """Bytes of the frozen weights; only the layers' matrices are quantised."""
    total = 0
    for name, shape in expected_tensors(args).items():
        inner = len(shape) == 2 and name.startswith("layers.")
        rows, columns = shape if len(shape) == 2 else (1, shape[0])
        total += stored_bytes(rows, columns, config.base if inner else "none", dtype.itemsize)
    return total


def adapter_numbers(args: ModelArgs, config: LoraConfig) -> int:
    """Numbers in A and B of one model's adapter."""
    shapes = expected_tensors(args)
    adapted = [
        shapes[f"layers.{layer}.{room}.{name}.weight"]
        for layer in range(args.n_layers)
        for name, room in PLACES.items()
        if name in config.targets
    ]
    return config.rank * sum(map(sum, adapted))


def size(count: int) -> str:
    """Bytes for a reader: 538 MB, 5.2 MB, 1.66 GB."""
    for unit, name in UNITS:
        if count >= unit:
            value = count / unit
            digits = 0 if value >= 100 else 1 if value >= 10 or unit < 10**9 else 2
            return f"{value:.{digits}f} {name}"
    return f"{count} B"
