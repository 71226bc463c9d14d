"""Codes of a matrix that make up for each other's errors (GPTQ; Frantar et al. 2023, arXiv
2210.17323).

With the second moments of what comes in, an error in one input's weights can be balanced by the
weights of the inputs that are still to be coded. Scale and zero of a group are chosen just before
its first input is coded, for the weights as they have become by then, each input counted by what
an error in it costs after the others have made up for it. Rows do not depend on each other; the
result is the same on every run.
"""

import torch
from torch import Tensor

from puna.kernels.quantise import (
    GROUP,
    ZERO_STEPS,
    Codes,
    asymmetric,
    grouped,
    quantise,
    symmetric,
)

DAMPING = 0.01  # of the mean second moment, added to each: inputs that never spoke stay put
BLOCK = 4 * GROUP  # inputs coded before the rest of the matrix is told


def compensated(weight: Tensor, kind: str, moments: Tensor) -> Codes:
    """The codes of a matrix [out, in] that keep its products with such inputs best.

    moments: [in, in], the mean of x x^T over the inputs, or any multiple of it. kind: int8 or int4.
    InputError as in `quantise`; moments that are not finite leave the plain codes.
    """
    plain = quantise(weight, kind)  # also refuses what cannot be stored
    factor = inverse_factor(moments)
    if factor is None or kind == "fp8":
        return plain
    rest = weight.detach().float().clone()
    codes = torch.empty_like(plain.codes)
    scales, zeros = torch.empty_like(plain.scales), plain.zeros
    zeros = None if zeros is None else torch.empty_like(zeros)
    for start in range(0, rest.shape[1], BLOCK):
        end = min(start + BLOCK, rest.shape[1])
        errors = torch.zeros(rest.shape[0], end - start)  # each over its own entry of the factor
        for begin in range(start, end, GROUP):
            stop, place = min(begin + GROUP, end), begin // GROUP
            scale, zero = group_scale(rest[:, begin:stop], kind, factor, begin)
            scales[:, place] = scale
            if zeros is not None:
                zeros[:, place] = (zero * ZERO_STEPS).to(torch.uint8)
            step, least, most = scale.float(), *((0, 15) if kind == "int4" else (-127, 127))
            for i in range(begin, stop):
                code = (rest[:, i] / step + zero).round().clamp_(least, most)
                codes[:, i] = code.to(codes.dtype)
                error = (rest[:, i] - (code - zero) * step) / factor[i, i]
                errors[:, i - start] = error
                rest[:, i + 1 : end].addr_(error, factor[i, i + 1 : end], alpha=-1)
        rest[:, end:].addmm_(errors, factor[start:end, end:], alpha=-1)
    return Codes(codes, scales, zeros)


def group_scale(rows: Tensor, kind: str, factor: Tensor, begin: int) -> tuple[Tensor, Tensor]:
    """Scale (float16) and zero (float32) [out] of the group of inputs that starts at `begin`."""
    groups = grouped(rows.contiguous())
    if kind == "int8":
        scale = symmetric(groups)[1]
        return scale[:, 0], torch.zeros(len(rows))
    costs = factor.diagonal()[begin : begin + rows.shape[1]].square().reciprocal()
    _, scale, zero = asymmetric(groups, grouped(costs[None] / costs.mean()))
    return scale[:, 0], zero[:, 0].float() / ZERO_STEPS


def inverse_factor(moments: Tensor) -> Tensor | None:
    """The upper Cholesky factor of the inverse of the damped moments; None if there is none."""
    wide = moments.double()
    if not torch.isfinite(wide).all() or not wide.any():
        return None
    wide = wide + DAMPING * wide.diagonal().mean() * torch.eye(len(wide), dtype=torch.float64)
    lower, failed = torch.linalg.cholesky_ex(wide)
    if failed:
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if failed else upper.float()
