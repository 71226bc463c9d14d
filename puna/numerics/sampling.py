"""Draw next tokens: temperature, top-k and top-p, with one uniform number a row."""

import torch
from torch import Tensor

from puna.numerics.shapes import axes, same_shape


def sample(
    logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """One token a row, and its log-probability under the untruncated distribution at temperature 1.

    logits [B, V]; the others [B]: temperature (0: the most probable token), top_p (1: all), top_k
    (0: all), uniform in [0, 1). Order: temperature, then top-k, then top-p over what is left. The
    token is read off the cumulative distribution at `uniform`, so a row's result depends on that
    row only, never on its neighbours. Returns ids [B] int64 and logprobs [B] float32 (nats).
    FloatingPointError for a row whose logits are not finite.
    """
    axes(2, logits=logits)
    same_shape(
        logits_rows=logits[:, 0], temperature=temperature, top_p=top_p, top_k=top_k, uniform=uniform
    )
    logits = logits.float()
    greedy = temperature <= 0
    scaled = logits / temperature.masked_fill(greedy, 1.0)[:, None].float()
    probabilities = truncate(torch.softmax(scaled, dim=-1), top_p, top_k)
    ids = torch.where(greedy, logits.argmax(dim=-1), invert(probabilities, uniform))
    logprobs = torch.log_softmax(logits, dim=-1).gather(1, ids[:, None])[:, 0]
    if not logprobs.isfinite().all():
        rows = (~logprobs.isfinite()).nonzero().flatten().tolist()
        raise FloatingPointError(f"the logits of rows {rows} are not finite")
    return ids, logprobs


def truncate(probabilities: Tensor, top_p: Tensor, top_k: Tensor) -> Tensor:
    """Set to 0 what top-k and top-p drop; [B, V] to [B, V], rows no longer sum to 1.

    top-p drops a token when the probability of the more probable ones before it already exceeds
    top_p (Meta's rule: the token that crosses the line stays). Equal probabilities rank by id.
    """
    if not ((top_p < 1.0) | (top_k > 0)).any():
        return probabilities  # what follows would keep all
    ranked = descending(probabilities)
    rank = torch.arange(ranked.shape[1], device=ranked.device)
    dropped = (top_k[:, None] > 0) & (rank >= top_k[:, None])
    weights = ranked.double().masked_fill(dropped, 0.0)
    cumulative = weights.cumsum(dim=-1)
    before = cumulative - weights
    kept = (before <= top_p[:, None].double() * cumulative[:, -1:]) & ~dropped
    number = kept.sum(dim=-1, keepdim=True).clamp(min=1)  # a prefix of the ranking, [B, 1]
    least = ranked.gather(1, number - 1)
    above, equal = probabilities > least, probabilities == least
    room = number - above.sum(dim=-1, keepdim=True)  # how many of the equal ones stay
    chosen = above | (equal & (equal.cumsum(dim=-1) <= room))
    return torch.where(chosen, probabilities, 0.0)


def descending(x: Tensor) -> Tensor:
    """Each row of [B, V] from its largest to its smallest value."""
    if x.device.type != "cpu":
        return x.sort(dim=-1, descending=True).values
    ascending = x.detach().clone()
    ascending.numpy().sort(axis=-1)  # in place; some thirty times as fast as torch.sort on a CPU
    return ascending.flip(-1)


def invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The id where the cumulative weight of a row passes uniform * total: [B, V], [B] to [B]."""
    cumulative = weights.double().cumsum(dim=-1)
    total = cumulative[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))  # a uniform kept in float32 may be 1
    target = torch.minimum(uniform.double() * total, below)
    # right: the first id whose cumulative weight exceeds the target, so weight 0 is never drawn
    ids = torch.searchsorted(cumulative, target[:, None].contiguous(), right=True)[:, 0]
    return ids.clamp(max=weights.shape[1] - 1)  # rows of NaN; the caller names them
