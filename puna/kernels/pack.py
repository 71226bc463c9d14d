"""Weights rounded to few bits, and the order in which the kernels read them.

`quantise` (`puna.kernels.quantise`) and `dense` know nothing of the order; `interleave` puts codes
[out, in] into blocks of 16 rows and groups of 32 inputs (`cpp/types.h`). Rows are padded to a
multiple of 32, inputs to a multiple of 32, with weights of zero.

"""

import torch
from torch import Tensor
from torch.nn import functional as F

from puna.errors import InputError
from puna.kernels.quantise import ZERO_STEPS
from puna.kernels.quantise import quantise as few_bits

GROUP, LANES = 32, 16
ROWS = 32  # to whose multiple rows are padded: a float tile is two blocks high
KINDS = ("float32", "bfloat16", "int8", "int4")

Quantised = tuple[Tensor, Tensor | None, Tensor | None]


def quantise(weight: Tensor, kind: str, importance: Tensor | None = None) -> Quantised:
    """A matrix [out, in] as (codes, scales, zeros).

    codes [out, in padded to 32]: the float kinds' own type, int8 or uint8; scales float16 and zeros
    uint8 [out, groups], None where the kind has none. importance [in]: how much the square of an
    input's error weighs (None: all alike); only int4 looks at it.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {list(weight.shape)}, expected [out, in]")
    if kind in ("float32", "bfloat16"):
        wide = F.pad(weight.detach().float(), (0, -weight.shape[1] % GROUP))
        return wide.to(getattr(torch, kind)), None, None
    codes, scales, zeros = few_bits(weight, kind, importance)
    return F.pad(codes, (0, -weight.shape[1] % GROUP)), scales, zeros


def dense(codes: Tensor, scales: Tensor | None, zeros: Tensor | None) -> Tensor:
    """The matrix [out, in padded] that quantised weights stand for, float32."""
    if scales is None:
        return codes.float()
    groups = codes.float().unflatten(1, (-1, GROUP))
    if zeros is not None:
        groups = groups - zeros.float()[..., None] / ZERO_STEPS
    return (groups * scales.float()[..., None]).flatten(1)


def interleave(codes: Tensor, scales: Tensor | None, zeros: Tensor | None) -> Quantised:
    """Codes, scales and zeros in the order of the kernels: flat bytes, half, bytes."""
    rows = -codes.shape[0] % ROWS
    if scales is None:
        each = 1 if codes.dtype == torch.float32 else 2
        return units(F.pad(codes, (0, 0, 0, rows)), each).view(torch.uint8), None, None
    unsigned = codes if zeros is not None else codes.view(torch.uint8) ^ 128  # int8: code + 128
    laid = units(F.pad(unsigned, (0, 0, 0, rows), value=0 if zeros is not None else 128), 4)
    scale_order = blocks(F.pad(scales, (0, 0, 0, rows)))
    if zeros is None:
        return laid, scale_order, None
    pairs = laid.view(-1, 2, GROUP // 2 * LANES)  # inputs 0..15 of a group, inputs 16..31
    packed = pairs[:, 0] | pairs[:, 1] << 4
    return packed.flatten(), scale_order, blocks(F.pad(zeros, (0, 0, 0, rows)))


def units(codes: Tensor, each: int) -> Tensor:
    """[rows, in] as [rows / 16, in / each, 16, each], flat: `each` inputs of 16 rows at a time."""
    rows, inputs = codes.shape
    parts = codes.reshape(rows // LANES, LANES, inputs // each, each)
    return parts.transpose(1, 2).reshape(-1)


def blocks(values: Tensor) -> Tensor:
    """[rows, groups] as [rows / 16, groups, 16], flat."""
    return units(values, 1)


def separate(
    rows: int, groups: int, codes: Tensor, scales: Tensor | None, zeros: Tensor | None
) -> Quantised:
    """The inverse of `interleave`: codes of every kind as float32 [rows, groups * 32]."""
    inputs = groups * GROUP
    if scales is None:
        padded = -(-rows // ROWS) * ROWS
        wide = codes.numel() // (padded * inputs) == 4
        laid = codes.view(torch.float32 if wide else torch.bfloat16)
        return lines(laid, inputs, 1 if wide else 2)[:rows].float(), None, None
    wide_scales = lines(scales, groups, 1)[:rows]
    if zeros is None:
        return lines(codes, inputs, 4)[:rows].float() - 128, wide_scales, None
    halves = codes.view(-1, GROUP // 2 * LANES)
    whole = lines(torch.stack((halves & 15, halves >> 4), 1).flatten(), inputs, 4)
    return whole[:rows].float(), wide_scales, lines(zeros, groups, 1)[:rows]


def lines(laid: Tensor, inputs: int, each: int) -> Tensor:
    """The inverse of `units`."""
    parts = laid.view(-1, inputs // each, LANES, each)
    return parts.transpose(1, 2).reshape(-1, inputs)
