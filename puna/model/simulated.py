"""A transformer that computes as the kernels for few bits do, in plain torch: for measuring them.

Its matrices are those that the codes stand for, and what they are multiplied with is rounded to
8 bits in groups of 32, as the native kernels do for int8 and int4. The embedding and the output
matrix of an int4 model are in int8.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.kernels.compensate import compensated
from puna.kernels.quantise import BITS, dense, quantise, rounded_inputs
from puna.model.importance import INPUTS
from puna.model.source import expected_tensors
from puna.model.transformer import Block, ModelArgs, Transformer

Kind = Literal["float32", "bfloat16", "int8", "int4", "fp8"]
FLOATS = {"float32": 32.0, "bfloat16": 16.0}


class Simulated(nn.Module):
    """x times a dense matrix [out, in]; with `rounded`, x is rounded to 8 bits before."""

    def __init__(self, weight: nn.Parameter, rounded: bool):
        super().__init__()
        self.weight, self.rounded = weight, rounded
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(rounded_inputs(x) if self.rounded else x, self.weight)


def stored_as(name: str, kind: str) -> str:
    """What a matrix of a model in `kind` is stored as: int4 keeps the vocabulary's in int8."""
    vocabulary = name.startswith(("tok_embeddings", "output"))
    return "int8" if kind == "int4" and vocabulary else kind


def bits_of(args: ModelArgs, kind: str) -> tuple[float, int]:
    """Bits a weight of the layers' matrices in `kind`, and bytes of the whole model.

    Vectors are in float32; a tied output matrix counts once.
    """
    bits = FLOATS | BITS
    total = 0.0
    for name, shape in expected_tensors(args).items():
        each = bits[stored_as(name, kind)] if len(shape) > 1 else 32.0
        total += each * torch.Size(shape).numel()
    return bits[kind], int(total / 8)


def as_stored(weight: Tensor, kind: str, importance: Tensor | None = None) -> Tensor:
    """The matrix in float32 after it was stored as `kind`. InputError as in `quantise`."""
    if kind in FLOATS:
        return weight.to(getattr(torch, kind)).float()
    return dense(quantise(weight, kind, importance))


@torch.no_grad()
def simulate(
    model: Transformer, kind: Kind, importance: Mapping[str, Tensor] | None = None
) -> Transformer:
    """Turn a float32 model into one in `kind`, in place; returns it.

    importance: by a matrix's name, what an error in each of its inputs costs.
    """
    simulate_vocabulary(model, kind)
    for number, layer in enumerate(blocks(model)):
        for name in (name for group in INPUTS for name in group):
            weight = layer.get_submodule(name).get_parameter("weight")
            counts = (importance or {}).get(f"layers.{number}.{name}.weight")
            replace(layer, name, as_stored(weight, kind, counts), kind)
    return model


@torch.no_grad()
def calibrate(model: Transformer, kind: Kind, rows: Tensor, advance: Callable[[int], None]) -> None:
    """As `simulate`, each matrix compensated for what comes in: tokens [rows, T] of some text.

    Layer after layer, so that later ones make up for the errors of earlier ones. kind: int8, int4.
    """
    simulate_vocabulary(model, kind)
    states = [model.tok_embeddings(row[None]) for row in rows]
    turn = model.rope[: rows.shape[1]].unsqueeze(-2)
    for layer in blocks(model):
        for names in INPUTS:
            moments = second_moments(layer, names[0], states, turn)
            for name in names:
                weight = layer.get_submodule(name).get_parameter("weight")
                replace(layer, name, dense(compensated(weight, kind, moments)), kind)
        states = [layer(state, turn, None, None) for state in states]
        advance(1)


def second_moments(layer: Block, name: str, states: list[Tensor], turn: Tensor) -> Tensor:
    """The mean of x x^T, [in, in], over what comes into a matrix of the layer."""
    linear = layer.get_submodule(name)
    found: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        flat = given[0].flatten(0, -2)
        found[:] = [found[0].addmm_(flat.T, flat) if found else flat.T @ flat]

    handle = linear.register_forward_pre_hook(keep)
    try:
        for state in states:
            layer(state, turn, None, None)
    finally:
        handle.remove()
    return found[0] / sum(state.shape[1] for state in states)


def simulate_vocabulary(model: Transformer, kind: str) -> None:
    """The embedding and the output matrix as `kind` stores them."""
    table = model.tok_embeddings.weight
    own = None if model.args.tie_embeddings else model.output.weight
    table.data = as_stored(table, stored_as("tok_embeddings", kind))
    if own is not None:
        own.data = as_stored(own, stored_as("output", kind))
    shared = nn.Parameter(table.data if own is None else own.data, requires_grad=False)
    model.output = Simulated(shared, kind in ("int8", "int4"))  # type: ignore[assignment]


def replace(layer: Block, name: str, weight: Tensor, kind: str) -> None:
    """Put a simulated matrix into the layer."""
    parameter = nn.Parameter(weight, requires_grad=False)
    room, _, last = name.rpartition(".")
    setattr(layer.get_submodule(room), last, Simulated(parameter, kind in ("int8", "int4")))


def blocks(model: Transformer) -> Iterator[Block]:
    """The layers, as what they are."""
    for layer in model.layers:
        assert isinstance(layer, Block)
        yield layer
