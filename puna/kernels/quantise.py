"""Matrices as codes: int8 and int4 in groups of 32 inputs, fp8 by rows.

    int8   w = scale * code           code -127 .. 127, 16 bits of scale a group:      8.5 bits
    int4   w = scale * (code - zero)  code 0 .. 15, 16 bits of scale and 8 of zero:   4.75 bits
    fp8    w = scale * code           code e4m3, 32 bits of scale a row:                8 bits

The zero of int4 is a multiple of 1/16 from 0 to 15.9375, so that a group's least and greatest
weights both lie near a code whatever the sign: a whole number would cost a tenth of the accuracy.
Codes minimise the squared error, weighted by the importance of each input where it is given (the
mean square of what comes in): from several ranges, the scale and zero that fit the codes best
(least squares) and the codes that fit them best take turns. `puna.kernels.compensate` does better
with a calibration text.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from puna.errors import InputError

Kind = Literal["int8", "int4", "fp8"]
GROUP = 32  # inputs that share a scale
ZERO_STEPS = 16  # steps of the zero from one code to the next
FP8_MOST = 448.0  # the greatest number of e4m3
BITS = {"int8": 8 + 16 / GROUP, "int4": 4 + 24 / GROUP, "fp8": 8.0}  # a weight, scales included
RANGES = (1.0, 0.92, 0.85)  # parts of a group's range to begin from
TURNS = 2  # refinements from each
CHUNK = 1 << 20  # weights at once: they stay in the processor's cache
MOST = 65504.0  # the greatest number of float16
LEAST = 1e-30  # of what is divided by
TINY = 2.0**-24  # the least scale that is not zero in float16


class Codes(NamedTuple):
    """A matrix [out, in] in codes; `groups` is ceil(in / 32), the last may be short."""

    codes: Tensor  # int8: int8; int4: uint8, one code a byte; fp8: float8_e4m3fn; all [out, in]
    scales: Tensor  # float16 [out, groups]; fp8: float32 [out]
    zeros: Tensor | None = None  # int4: uint8 [out, groups], sixteenths of a code


def quantise(weight: Tensor, kind: str, importance: Tensor | None = None) -> Codes:
    """The codes of a matrix [out, in], of any float type, on its device.

    importance: [in], what an error of each input's weights counts (None: all the same). InputError:
    another kind, a weight that is not finite or above 65504.
    """
    if kind not in get_args(Kind):
        raise InputError(f"quant is {kind!r}, expected one of {', '.join(get_args(Kind))}")
    parts = [by_kind(part, kind, importance) for part in chunks(weight)]
    codes, scales, zeros = zip(*parts, strict=True)
    joined = Codes(torch.cat(codes), torch.cat(scales))
    return joined if kind != "int4" else joined._replace(zeros=torch.cat(zeros))


def chunks(weight: Tensor) -> Iterator[Tensor]:
    """Rows of the matrix, in float32, about CHUNK weights at a time. InputError as above."""
    for rows in weight.detach().split(max(1, CHUNK // weight.shape[1])):
        part = rows.float()
        if not (part.abs() <= MOST).all():
            raise InputError(f"a weight is not finite or above {MOST:.0f}, it cannot be stored")
        yield part


def by_kind(rows: Tensor, kind: str, importance: Tensor | None) -> Codes:
    """The codes of some rows [rows, in], float32."""
    if kind == "fp8":
        scale = (rows.abs().amax(1) / FP8_MOST).clamp_min(torch.finfo(torch.float32).tiny)
        return Codes((rows / scale[:, None]).to(torch.float8_e4m3fn), scale)
    size = rows.shape[1]
    groups = grouped(rows)
    counts = torch.ones(size) if importance is None else importance.float()
    share = grouped(counts.to(rows.device)[None])  # padding counts nothing
    if importance is not None:  # an input that never spoke still counts a little
        share = share + grouped(torch.full_like(counts, 1e-3 * float(counts.mean()) + TINY)[None])
    if kind == "int8":
        codes, scale = symmetric(groups)
        return Codes(codes.flatten(1)[:, :size].to(torch.int8), scale)
    codes, scale, zero = asymmetric(groups, share)
    return Codes(codes.flatten(1)[:, :size].to(torch.uint8), scale, zero)


def grouped(rows: Tensor) -> Tensor:
    """[rows, in] to [rows, groups, 32], filled up with zeros."""
    return F.pad(rows, (0, -rows.shape[1] % GROUP)).unflatten(1, (-1, GROUP))


def symmetric(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Codes -127 .. 127 [rows, groups, 32] and scales [rows, groups]: the largest weight is 127."""
    scale = halved(groups.abs().amax(2) / 127)
    return (groups / scale.float()[:, :, None]).round().clamp_(-127, 127), scale


def asymmetric(groups: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes 0 .. 15 [rows, groups, 32], scales, and zeros in sixteenths [rows, groups].

    share: [1 or rows, groups, 32], what the square of each weight's error counts.
    """
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    total, weighted = share.sum(2), groups * share
    come = weighted.sum(2)
    best, scales, zeros = torch.full_like(low, torch.inf), halved(high - low).float(), low
    for part in RANGES:
        scale, zero = (high - low) * (part / 15), -15 * low / (high - low).clamp_min(TINY)
        for turn in range(TURNS + 1):
            scale, zero = halved(scale).float(), stepped(zero)
            codes = coded(groups, scale, zero)
            cross = weighted.mul(codes).sum(2)
            shared = codes * share
            first, second = shared.sum(2), shared.mul_(codes).sum(2)
            above = cross - zero * come  # of weights and what the codes stand for, without scale
            below = second - 2 * zero * first + zero * zero * total  # of the latter's square
            error = scale * (scale * below - 2 * above)  # the squared error, less what is given
            better = error < best
            best = torch.where(better, error, best)
            scales = torch.where(better, scale, scales)
            zeros = torch.where(better, zero, zeros)
            if turn < TURNS:  # the best line through the codes; the best scale for the zero kept
                spread = (total * second - first * first).clamp_min(LEAST)
                slope = ((total * cross - first * come) / spread).clamp_min(TINY)
                zero = stepped((first - come / slope) / total.clamp_min(LEAST))
                above = cross - zero * come
                below = second - 2 * zero * first + zero * zero * total
                scale = (above / below.clamp_min(LEAST)).clamp_min(TINY)
    return coded(groups, scales, zeros), scales.half(), (zeros * ZERO_STEPS).to(torch.uint8)


def coded(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The nearest codes of int4 for a scale and a zero [rows, groups]."""
    return groups.div(scale[:, :, None]).add_(zero[:, :, None]).round_().clamp_(0, 15)


def halved(scale: Tensor) -> Tensor:
    """A scale in float16, never zero."""
    return scale.clamp_min(TINY).half()


def stepped(zero: Tensor) -> Tensor:
    """A zero in whole sixteenths, 0 to 15.9375."""
    return zero.mul(ZERO_STEPS).round_().clamp_(0, 255).div_(ZERO_STEPS)


def dense(codes: Codes) -> Tensor:
    """The matrix [out, in] that the codes stand for, float32."""
    if codes.codes.dtype == torch.float8_e4m3fn:
        return codes.codes.float() * codes.scales[:, None]
    values = grouped(codes.codes.float())
    if codes.zeros is not None:
        values = values - codes.zeros.float()[:, :, None] / ZERO_STEPS
    values = values * codes.scales.float()[:, :, None]
    return values.flatten(1)[:, : codes.codes.shape[1]].contiguous()


def rounded_inputs(x: Tensor) -> Tensor:
    """Inputs [..., in] as the native kernels see them: 8 bits, one scale for each group of 32."""
    flat = grouped(x.float().reshape(-1, x.shape[-1]))
    scale = flat.abs().amax(2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
    values = (flat / scale).round() * scale
    return values.flatten(1)[:, : x.shape[-1]].reshape(x.shape)
