"""Weights rounded to few bits, and the order in which the kernels read them.

`rounded` (`puna.kernels.quantise`) knows nothing of the order; `interleave` puts
codes [out, in] into blocks of 16 rows and groups of 32 inputs (`cpp/types.h`). Rows are padded to a
multiple of 32, inputs to a multiple of 32, with weights of zero.

"""

import torch
from torch import Tensor
from torch.nn import functional as F

from puna.errors import InputError
from puna.kernels import quantise

GROUP, LANES = 32, 16
ROWS = 32  # to whose multiple rows are padded: a float tile is two blocks high
KINDS = ("float32", "bfloat16", "int8", "int4")

Quantised = tuple[Tensor, Tensor | None, Tensor | None]


def rounded(weight: Tensor, kind: str, importance: Tensor | None = None) -> Quantised:
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
    codes, scales, zeros = quantise.quantise(weight, kind, importance)
    return F.pad(codes, (0, -weight.shape[1] % GROUP)), scales, zeros


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
