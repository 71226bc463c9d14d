"""Frozen matrices in 8 or 4 bits, for adapters on a quantised trunk (QLoRA).

    int8   one scale for each output row: weight = code * scale, code in -127 .. 127
    nf4    one scale for each 64 weights: weight = book[code] * scale, sixteen values that are
           equally likely under a normal distribution (Dettmers et al. 2023, "QLoRA", appendix E)

The matrix is made dense for each product and forgotten afterwards, in the backward pass again, so
that a training holds one dense matrix at a time. A gradient goes to the input only. The scales are
in float32 and not quantised themselves: 8 + 32 / in bits a weight, and 4.5.
"""

import functools
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.errors import InputError

Stored = Literal["none", "int8", "nf4"]
BLOCK = 64  # weights that share a scale in nf4


class QuantLinear(nn.Module):
    """A linear layer without bias whose matrix [out_features, in_features] is made by `dense`."""

    kind: Stored

    def __init__(self, weight: Tensor):
        super().__init__()
        self.out_features, self.in_features = weight.shape

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix as it is multiplied with."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self)


class Int8Linear(QuantLinear):
    """Rows of 8-bit codes, each with its scale: the largest error is half of max|row| / 127."""

    kind: Stored = "int8"

    def __init__(self, weight: Tensor):
        super().__init__(weight)
        wide = weight.detach().float()
        scale = wide.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127  # [out]
        codes = (wide / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        self.codes = frozen(codes)  # [out, in]
        self.scale = frozen(scale)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return (self.codes.float() * self.scale[:, None]).to(dtype)


class Nf4Linear(QuantLinear):
    """Codes of 4 bits, two in a byte, in blocks of 64 along the rows; the last may be short."""

    kind: Stored = "nf4"

    def __init__(self, weight: Tensor):
        super().__init__(weight)
        flat = weight.detach().float().flatten()
        blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
        scale = blocks.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)  # [blocks]
        book = nf4_book().to(weight.device)
        middles = (book[1:] + book[:-1]) / 2
        codes = torch.bucketize(blocks / scale[:, None], middles).to(torch.uint8)
        pairs = codes.view(-1, 2)
        self.codes = frozen(pairs[:, 0] << 4 | pairs[:, 1])  # [blocks * 32]
        self.scale = frozen(scale)

    def dense(self, dtype: torch.dtype) -> Tensor:
        both = F.embedding(self.codes.int(), nf4_pairs().to(self.codes.device))  # [bytes, 2]
        values = both.view(-1, BLOCK) * self.scale[:, None]
        count = self.out_features * self.in_features
        return values.flatten()[:count].view(self.out_features, self.in_features).to(dtype)


class _Product(torch.autograd.Function):
    """x times the dense matrix, which is made again in the backward pass and not kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: QuantLinear) -> Tensor:
        ctx.linear = linear
        return F.linear(x, linear.dense(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.linear.dense(grad.dtype), None


KINDS: dict[str, type[QuantLinear]] = {"int8": Int8Linear, "nf4": Nf4Linear}


def quantise(linear: nn.Linear, kind: str) -> QuantLinear:
    """The layer with its matrix in int8 or nf4. InputError: another kind, or not finite."""
    if kind not in KINDS:
        raise InputError(f"lora.base is {kind!r}, expected one of {', '.join(get_args(Stored))}")
    if not torch.isfinite(linear.weight).all():
        raise InputError(f"a weight is not finite, it cannot be stored in {kind}")
    return KINDS[kind](linear.weight)


def frozen(tensor: Tensor) -> nn.Parameter:
    """A parameter that is never trained, of any type."""
    return nn.Parameter(tensor, requires_grad=False)


def stored_bytes(rows: int, columns: int, kind: str, element_size: int) -> int:
    """Bytes of a matrix [rows, columns] stored as `kind`; "none": element_size for each weight."""
    if kind == "int8":
        return rows * columns + 4 * rows
    if kind == "nf4":
        return -(-rows * columns // BLOCK) * (BLOCK // 2 + 4)
    return rows * columns * element_size


@functools.cache
def nf4_book() -> Tensor:
    """The sixteen values of NF4, ascending from -1 to 1, float32, zero among them.

    The quantiles of the normal distribution at the middles of equal shares of probability: eight
    values above zero, seven below, and zero, divided by the largest.
    """
    end = 1 - (1 / 32 + 1 / 30) / 2  # the mean of the outermost shares of 16 and of 15 values
    above = torch.special.ndtri(torch.linspace(end, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(end, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat((below, torch.zeros(1, dtype=torch.float64), above)).sort().values
    return (values / values.max()).float()


@functools.cache
def nf4_pairs() -> Tensor:
    """The two values of every byte, [256, 2]: the high four bits come first."""
    byte = torch.arange(256)
    return nf4_book()[torch.stack((byte >> 4, byte & 15), 1)]
