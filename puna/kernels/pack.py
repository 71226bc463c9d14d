"""Weights rounded to few bits, and the order in which the kernels read them.

`quantise` and `dense` are inverse up to rounding and know nothing of the order; `interleave` puts
codes [out, in] into blocks of 16 rows and groups of 32 inputs (`cpp/types.h`). Rows are padded to a
multiple of 32, inputs to a multiple of 32, with weights of zero.

int8: w = scale * code, code in -127..127, one half-precision scale per row and group.
int4: w = scale * (code - zero), code and zero in 0..15.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from puna.errors import InputError

GROUP, LANES = 32, 16
ROWS = 32  # to whose multiple rows are padded: a float tile is two blocks high
TRIES = 12  # of the range of a group of 4-bit codes
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
    padded = F.pad(weight.detach().float(), (0, -weight.shape[1] % GROUP))
    if kind in ("float32", "bfloat16"):
        return padded.to(getattr(torch, kind)), None, None
    groups = padded.unflatten(1, (-1, GROUP))
    if not groups.isfinite().all():
        raise ValueError("weight has a value that is not finite")
    if kind == "int8":
        scale = half(groups.abs().amax(-1) / 127)
        codes = (groups * inverse(scale)[..., None]).round().clamp(-127, 127).to(torch.int8)
        return codes.flatten(1), scale, None
    weights = torch.ones(padded.shape[1]) if importance is None else importance.float()
    weights = F.pad(weights, (0, padded.shape[1] - len(weights))).view(-1, GROUP)
    return four_bits(groups, weights)


def half(scale: Tensor) -> Tensor:
    """A scale in half precision, never rounded to infinity."""
    return scale.clamp(max=65504).half()


def inverse(scale: Tensor) -> Tensor:
    """1 / scale in float32; 0 where the scale is 0."""
    wide = scale.float()
    return torch.where(wide > 0, 1 / wide, 0)


def four_bits(groups: Tensor, weights: Tensor) -> Quantised:
    """Groups [out, groups, 32] as 4-bit codes, with the range that has the least squared error.

    The range of a group (zero included) is narrowed step by step: a few clipped weights often cost
    less than coarse steps for all.
    """
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    best = torch.full_like(low, torch.inf)
    codes = torch.zeros(groups.shape, dtype=torch.uint8)
    scales, zeros = torch.zeros_like(low).half(), torch.zeros_like(low).to(torch.uint8)
    for step in range(TRIES):
        scale = half((high - low) * (1 - 0.04 * step) / 15)
        up = inverse(scale)
        zero = (-low * (1 - 0.04 * step) * up).round().clamp(0, 15)
        code = (groups * up[..., None] + zero[..., None]).round().clamp(0, 15)
        error = (code - zero[..., None]) * scale.float()[..., None] - groups
        loss = (error.square() * weights).sum(-1)
        better = loss < best
        best = torch.where(better, loss, best)
        codes = torch.where(better[..., None], code.to(torch.uint8), codes)
        scales = torch.where(better, scale, scales)
        zeros = torch.where(better, zero.to(torch.uint8), zeros)
    return codes.flatten(1), scales, zeros


def dense(codes: Tensor, scales: Tensor | None, zeros: Tensor | None) -> Tensor:
    """The matrix [out, in padded] that quantised weights stand for, float32."""
    if scales is None:
        return codes.float()
    groups = codes.float().unflatten(1, (-1, GROUP))
    if zeros is not None:
        groups = groups - zeros.float()[..., None]
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
    zeros = F.pad(zeros, (0, zeros.shape[1] % 2, 0, rows)).unflatten(1, (-1, 2))
    return packed.flatten(), scale_order, blocks(zeros[..., 0] | zeros[..., 1] << 4)


def units(codes: Tensor, each: int) -> Tensor:
    """[rows, in] as [rows / 16, in / each, 16, each], flat: `each` inputs of 16 rows at a time."""
    rows, inputs = codes.shape
    parts = codes.reshape(rows // LANES, LANES, inputs // each, each)
    return parts.transpose(1, 2).reshape(-1)


def blocks(values: Tensor) -> Tensor:
    """[rows, groups] as [rows / 16, groups, 16], flat."""
    return units(values, 1)
