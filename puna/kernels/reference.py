"""What the kernels compute, in plain torch: slow, short, and the yardstick of the tests."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from puna.kernels.quantise import ZERO_STEPS

GROUP = 32


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations [T, in] as whole numbers of at most 127 [T, groups, 32], scales [T, groups]."""
    groups = F.pad(x, (0, -x.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    top = groups.abs().amax(-1)
    up = torch.where(top > 0, 127 / top, 0)
    return (groups * up[..., None]).round().clamp(-127, 127), top / 127


def product(x: Tensor, codes: Tensor, scales: Tensor | None, zeros: Tensor | None) -> Tensor:
    """x [T, in] times a matrix given as `pack.quantise` gives it, [T, out] float32.

    Integer kinds: the sum over groups of (whole dot product) * (scale of x) * (scale of w).
    """
    if scales is None:
        return F.pad(x, (0, codes.shape[1] - x.shape[1])) @ codes.float().T
    whole, steps = rounded(x)
    weights = codes.float().unflatten(1, (-1, GROUP))
    if zeros is not None:
        weights = weights - zeros.float()[..., None] / ZERO_STEPS
    sums = torch.einsum("tgk,ogk->tog", whole, weights)
    return (sums * steps[:, None] * scales.float()).sum(-1)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of the last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return gate * torch.sigmoid(gate) * up


def attention(
    q: Tensor, keys: Tensor, values: Tensor, blocks: list[int], last: int, window: int | None
) -> Tensor:
    """One query head over a paged cache, [head_dim].

    q [head_dim], unscaled; keys [n_blocks, head_dim, 16] and values [n_blocks, 16, head_dim] of its
    key/value head; last: the position of the query.
    """
    first = max(0, last - window + 1) if window else 0
    k = torch.cat([keys[block].T for block in blocks])[first : last + 1].float()
    v = torch.cat([values[block] for block in blocks])[first : last + 1].float()
    return torch.softmax(k @ q / math.sqrt(len(q)), 0) @ v
