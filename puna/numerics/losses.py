"""Losses of pretraining, fine-tuning, reward models and PPO (sections 2.2, 3.1, 3.2.2, 3.2.3).

Each returns the sum over what counts and the count, both float32 scalars.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from puna.numerics.shapes import axes, boolean, same_shape

IGNORED = -100  # a target index that F.cross_entropy leaves out
MOST_LOGITS = 1 << 25  # of a chunk: 128 MiB in float32, 1048 tokens of a vocabulary of 32000


def cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Next-token loss in nats, summed over the targets where mask is True, and their number.

    logits [..., V]; targets [...] int64, of any value where masked out; mask [...] bool. In
    supervised fine-tuning the mask is True on answer tokens only (section 3.1). ValueError where
    shapes differ.
    """
    same_shape(targets=targets, logits_without_vocabulary=logits[..., 0], mask=mask)
    boolean(mask=mask)
    kept = targets.masked_fill(~mask, IGNORED).flatten()
    total = F.cross_entropy(
        logits.float().flatten(0, -2), kept, ignore_index=IGNORED, reduction="sum"
    )
    return total, mask.sum().float()


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor, most: int = MOST_LOGITS
) -> tuple[Tensor, Tensor]:
    """`cross_entropy` of the logits hidden @ weight.T, at most `most` of which exist at a time.

    hidden [..., D]; weight [V, D], the output projection; targets and mask as there. Up to an
    eighth of `most` logits are computed whole, by autograd. Of more the gradient is computed beside
    the loss, chunk by chunk, so that no chunk is kept or computed twice: memory is that of one
    chunk and of the gradients themselves. Under autocast the products are in its
    type; the softmax, its statistics and the sums are float32 always (float64 for float64).
    Differentiable once. ValueError where shapes differ.
    """
    same_shape(targets=targets, hidden_without_width=hidden[..., 0], mask=mask)
    boolean(mask=mask)
    count = mask.sum().float()
    kept, wanted = (hidden, targets) if mask.all() else (hidden[mask], targets[mask])
    if wanted.numel() * len(weight) <= most // 8 and hidden.dtype != torch.float64:
        everywhere = torch.ones_like(wanted, dtype=torch.bool)
        return cross_entropy(F.linear(kept, weight), wanted, everywhere)[0], count
    kept, wanted = kept.flatten(0, -2), wanted.flatten()
    learns = torch.is_grad_enabled()
    return _ChunkedLoss.apply(kept, weight, wanted, most, learns), count


class _ChunkedLoss(torch.autograd.Function):
    """Summed cross-entropy of rows: hidden [N, D], weight [V, D], targets [N] → scalar."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, most, learns):
        vocabulary = len(weight)
        rows = max(1, most // vocabulary)
        device, exact = hidden.device, torch.promote_types(hidden.dtype, torch.float32)
        x, w = hidden, weight
        if torch.is_autocast_enabled(device.type):
            half = torch.get_autocast_dtype(device.type)
            x, w = hidden.to(half), weight.to(half)
        for_hidden, for_weight = (learns and need for need in ctx.needs_input_grad[:2])
        d_hidden = torch.zeros(hidden.shape if for_hidden else 0, dtype=exact, device=device)
        d_weight = torch.zeros(weight.shape if for_weight else 0, dtype=exact, device=device)
        total = torch.zeros((), dtype=exact, device=device)
        logits = torch.empty(min(rows, len(x)), vocabulary, dtype=exact, device=device)
        for start in range(0, len(x), rows):
            part, wanted = x[start : start + rows], targets[start : start + rows, None]
            chunk = logits[: len(part)]
            if x.dtype == exact:
                torch.mm(part, w.T, out=chunk)
            else:
                chunk.copy_(part @ w.T)
            torch.log_softmax(chunk, 1, out=chunk)
            total -= chunk.gather(1, wanted).sum()
            if not (for_hidden or for_weight):
                continue
            chunk.exp_().scatter_add_(1, wanted, -torch.ones_like(wanted, dtype=exact))
            slope = chunk.to(x.dtype)  # the gradient of the logits: softmax less the target
            if for_hidden:
                d_hidden[start : start + rows] = slope @ w
            if for_weight and x.dtype == exact:
                d_weight.addmm_(slope.T, part)
            elif for_weight:
                d_weight += slope.T @ part
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.types = hidden.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        d_hidden, d_weight = (
            (found * slope).to(dtype) if need else None
            for found, dtype, need in zip(
                ctx.saved_tensors, ctx.types, ctx.needs_input_grad, strict=False
            )
        )
        return d_hidden, d_weight, None, None, None


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability (nats, float32) of each token by its logits: [..., V] and [...] to [...]."""
    same_shape(tokens=tokens, logits_without_vocabulary=logits[..., 0])
    flat = F.cross_entropy(logits.float().flatten(0, -2), tokens.flatten(), reduction="none")
    return -flat.view_as(tokens)


def ranking_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    """-log sigmoid(chosen - rejected - margin), summed over pairs, and their number (Eq. 1, 2).

    All [B]: scores before the sigmoid, and the margin m(r) of the pair's rating (0 gives Eq. 1).
    """
    same_shape(rewards=chosen, rejected=rejected, margin=margin)
    axes(1, rewards=chosen)
    difference = chosen.float() - rejected.float() - margin.float()
    return -F.logsigmoid(difference).sum(), _number(chosen)


def safety_loss(scores: Tensor, is_safe: Tensor) -> tuple[Tensor, Tensor]:
    """Auxiliary loss of the safety reward model: cross-entropy of "safe" (appendix A.3.4).

    scores [B] before the sigmoid, one an answer; is_safe [B] bool. The loss is the binary
    cross-entropy of sigmoid(score) with the label. The paper does not print the formula; this is
    the plain reading of "discriminates safe from unsafe at threshold 0.5". Returns sum and number
    of answers.
    """
    same_shape(scores=scores, is_safe=is_safe)
    axes(1, scores=scores)
    boolean(is_safe=is_safe)
    total = F.binary_cross_entropy_with_logits(scores.float(), is_safe.float(), reduction="sum")
    return total, _number(scores)


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor, Tensor]:
    """PPO's clipped objective: -min(r A, clamp(r, 1 - clip, 1 + clip) A), summed over answers.

    All [B, T]; r = exp(logprobs - old_logprobs); mask is True on answer tokens. Only logprobs
    carries a gradient. Returns the sum, the number of tokens, and the fraction of them where the
    clipped term is the smaller one and so stops the gradient (0 where there is no token).
    """
    same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask)
    axes(2, logprobs=logprobs)
    boolean(mask=mask)
    # Masked positions are set to neutral values first: what stands there may be infinite.
    ratio = (logprobs.float() - old_logprobs.detach().float()).masked_fill(~mask, 0.0).exp()
    gain = advantages.detach().float().masked_fill(~mask, 0.0)
    free = ratio * gain
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip) * gain
    count = mask.sum().float()
    fraction = (clipped < free).sum().float() / count.clamp(min=1.0)
    return -torch.minimum(free, clipped).sum(), count, fraction


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Half the squared error of the value estimates, clipped about the old ones as PPO's policy is.

    0.5 * max((v - R)^2, (old + clamp(v - old, -clip, clip) - R)^2), summed over answer tokens, and
    their number. All [B, T]. The paper leaves the critic's loss open; this is the form of
    InstructGPT's PPO.
    """
    same_shape(values=values, old_values=old_values, returns=returns, mask=mask)
    axes(2, values=values)
    boolean(mask=mask)
    values = values.float().masked_fill(~mask, 0.0)
    old = old_values.detach().float().masked_fill(~mask, 0.0)
    target = returns.detach().float().masked_fill(~mask, 0.0)
    near = old + (values - old).clamp(-clip, clip)
    error = torch.maximum((values - target).square(), (near - target).square())
    return 0.5 * error.sum(), mask.sum().float()


def _number(x: Tensor) -> Tensor:
    return torch.tensor(float(x.numel()), device=x.device)
