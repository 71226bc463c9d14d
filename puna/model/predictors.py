"""A model in few bits that predicts: computed by the native kernels, or in torch as they would."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from puna.kernels import native
from puna.kernels.decoder import BLOCK, Decoder
from puna.model.simulated import Kind, simulate
from puna.model.transformer import ModelArgs, Transformer, rotary_table

Importance = Mapping[str, Tensor] | None
Tensors = Mapping[str, Callable[[], Tensor]]  # by Meta's names, read when asked for


class Native:
    """A model in one kind, computed by the native kernels."""

    def __init__(
        self, args: ModelArgs, tensors: Tensors, kind: str, importance: Importance = None
    ) -> None:
        def read(name: str) -> Tensor:
            return tensors[name]()

        blocks, rope = -(-args.max_seq_len // BLOCK), rotary_table(args)
        self.decoder = Decoder(args, read, kind, blocks, rope=rope, importance=importance)

    def hidden(self, tokens: Tensor) -> Tensor:
        """The last hidden states [T, dim] of a sequence of tokens [T]."""
        count = len(tokens)
        blocks = range(-(-count // BLOCK))
        return self.decoder.embed([Sequenced(tokens.tolist(), 0, blocks, count, None)])

    def logits(self, hidden: Tensor) -> Tensor:
        """The predictions [T, V] from hidden states."""
        return self.decoder.output.matmul(hidden)


class Simulation:
    """The same in plain torch (`puna.model.simulated`)."""

    def __init__(
        self, args: ModelArgs, tensors: Tensors, kind: Kind, importance: Importance = None
    ) -> None:
        with torch.device("meta"):  # shapes only
            self.model = Transformer(args)
        whole = {name: read().float() for name, read in tensors.items()}
        self.model.load_state_dict(whole, assign=True)
        simulate(self.model, kind, importance)

    @torch.no_grad()
    def hidden(self, tokens: Tensor) -> Tensor:
        """As `Native.hidden`."""
        return self.model.hidden(tokens[None])[0]

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """As `Native.logits`."""
        return self.model.output(hidden)


class Sequenced(NamedTuple):
    """One sequence for the decoder (`puna.kernels.decoder.Row`)."""

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    wanted: int
    adapter: str | None


def opened(
    args: ModelArgs, tensors: Tensors, kind: Kind, importance: Importance = None
) -> Native | Simulation:
    """The model in one kind: native where there are kernels for it, else in torch."""
    way = Native if native.available() and kind in native.KINDS else Simulation
    return way(args, tensors, kind, importance)


def kernels() -> str:
    """What computes int8 and int4 here: an instruction set, or torch."""
    return native.available() or "torch"
