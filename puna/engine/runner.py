"""What computes: tokens in blocks of the cache go in, logits come out.

`TorchRunner` computes with the module itself, on any device; the native decoder of `puna.kernels`
packs a frozen model for a processor; `packing.LiveDecoder` packs one in training for each call.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from torch import Tensor

from puna.model.transformer import Transformer


@dataclass(eq=False, slots=True)
class Row:
    """New tokens of one sequence, at the positions start, start + 1, ...

    blocks: its block table, which covers start + len(tokens). wanted: of so many of the last tokens
    the result is needed. adapter: the name of the adapter that answers. owner: the same number in
    every step of one sequence, and never another's; 0: a row that stands alone. A runner may keep
    what it gathered for an owner.
    """

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    wanted: int
    adapter: str | None = None
    owner: int = 0


class Runner(Protocol):
    """A model with a paged cache of `n_blocks` blocks of `block_size` tokens.

    Rows are ragged. Keys and values of the positions below `start` are in the row's blocks already;
    those of the new tokens are there afterwards. No two rows write to the same block.
    """

    vocab_size: int
    context: int
    n_blocks: int
    block_size: int

    @property
    def adapters(self) -> Collection[str]:
        """The names that a row may have as its adapter."""
        ...

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Logits of the wanted tokens in order, float32 [sum(wanted), vocab_size]."""
        ...

    def embed(self, rows: Sequence[Row]) -> Tensor:
        """The last hidden states of the wanted tokens, float32 [sum(wanted), dim]."""
        ...

    def copy_block(self, source: int, target: int) -> None:
        """Make the block `target` a copy of `source`."""
        ...


class Live(Runner, Protocol):
    """A runner over a module in training: its cache grows as it is needed, and the engine keeps
    nothing of it from one call to the next.
    """

    elastic: bool  # False: of a fixed size, for weights that stay as they are until `load`

    def load(self, model: Transformer) -> None:
        """Compute with another module."""
        ...

    def reserve(self, blocks: int) -> None:
        """Make the cache `blocks` large. A larger one keeps what was there; 0 drops all."""
        ...


def elastic(runner: Runner) -> TypeGuard[Live]:
    """Whether a runner's cache grows."""
    return bool(getattr(runner, "elastic", False))
