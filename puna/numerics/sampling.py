"""Draw next tokens: temperature, top-k, top-p and min-p, with one uniform number a row.

On a CPU a row of a large vocabulary is not sorted: only tokens that could stay are looked at. The
result is the same bit for bit as by sorting it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.numerics.shapes import axes, same_shape

Row = np.ndarray[Any, np.dtype[Any]]  # [V]

SORTED_AT_ONCE = 1024  # up to so many tokens, all rows are sorted together


def sample(
    logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """One token a row, and its log-probability under the untruncated distribution at temperature 1.

    logits [B, V]; the others [B]: see `pick`. Returns ids [B] int64 and logprobs [B] float32
    (nats). FloatingPointError for a row whose logits are not finite.
    """
    axes(2, logits=logits)
    logits = logits.float()
    ids = pick(logits, temperature, top_p, top_k, torch.zeros_like(top_p), uniform)
    logprobs = torch.log_softmax(logits, dim=-1).gather(1, ids[:, None])[:, 0]
    if not logprobs.isfinite().all():
        rows = (~logprobs.isfinite()).nonzero().flatten().tolist()
        raise FloatingPointError(f"the logits of rows {rows} are not finite")
    return ids, logprobs


def pick(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    min_p: Tensor,
    uniform: Tensor,
) -> Tensor:
    """One token a row: logits [B, V] float32 to ids [B] int64.

    The others are [B]: temperature (0: the most probable token), top_p (1: all), top_k (0: all),
    min_p (0: all), uniform in [0, 1). Order: temperature, then top-k, then top-p over what is left,
    then min-p. The token is read off the cumulative distribution at `uniform`, so a row's result
    depends on that row only, never on its neighbours. A row that is not finite gets any id.
    """
    axes(2, logits=logits)
    same_shape(
        logits_rows=logits[:, 0],
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        uniform=uniform,
    )
    greedy = temperature <= 0
    if logits.device.type != "cpu" or logits.shape[1] <= SORTED_AT_ONCE:
        scaled = logits / temperature.masked_fill(greedy, 1.0)[:, None].float()
        kept = truncate(torch.softmax(scaled, dim=-1), top_p, top_k, min_p)
        return torch.where(greedy, logits.argmax(dim=-1), invert(kept, uniform))
    scaled, probabilities = torch.empty(2, 1, logits.shape[1])
    values, heat, ids = logits.detach().numpy(), temperature.float().numpy(), []
    rows = zip(top_p.tolist(), top_k.tolist(), min_p.tolist(), strict=True)
    for index, cuts in enumerate(rows):
        if greedy[index]:
            ids.append(int(values[index].argmax()))
            continue
        np.divide(values[index], heat[index], out=scaled[0].numpy())
        torch.softmax(scaled, dim=-1, out=probabilities)
        ids.append(_pick_row(probabilities, float(uniform[index]), *cuts))
    return torch.tensor(ids)


def truncate(
    probabilities: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor | None = None
) -> Tensor:
    """Set to 0 what top-k, top-p and min-p drop; [B, V] to [B, V], rows no longer sum to 1.

    top-p drops a token when the probability of the more probable ones before it already exceeds
    top_p (Meta's rule: the token that crosses the line stays). min-p drops a token less probable
    than min_p times the most probable one. Equal probabilities rank by id.
    """
    if min_p is not None and (min_p > 0).any():
        least = min_p[:, None].double() * probabilities.amax(dim=-1, keepdim=True).double()
        kept = truncate(probabilities, top_p, top_k)
        return torch.where(probabilities.double() >= least, kept, 0.0)
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


def likeliest(logprobs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` largest of logprobs [V] with their ids, from the largest; equal ones by id."""
    values = logprobs.detach().cpu().numpy()
    count = min(count, len(values))
    least = np.partition(values, len(values) - count)[len(values) - count]
    found = np.flatnonzero(values >= least)
    order = found[np.argsort(-values[found], kind="stable")][:count]
    return tuple(zip(order.tolist(), values[order].tolist(), strict=True))


def _pick_row(probabilities: Tensor, uniform: float, top_p: float, top_k: int, min_p: float) -> int:
    """The id of one row [1, V] at a uniform number; a row that is not finite gets 0."""
    values = probabilities[0].numpy()
    if np.isnan(values[0]):  # then all are
        return 0
    if top_k < 1 and top_p >= 1 and min_p <= 0:
        return int(invert(probabilities, torch.tensor([uniform], dtype=torch.float64)))
    ids = staying(probabilities, top_p, top_k, min_p)
    cumulative = values[ids].astype(np.float64).cumsum()  # as `invert` does
    target = min(uniform * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
    return int(ids[cumulative.searchsorted(target, side="right")])


def staying(probabilities: Tensor, top_p: float, top_k: int, min_p: float) -> Row:
    """The ids that `truncate` keeps of one row [1, V] on a CPU, in order.

    Only tokens that may stay are gathered and ranked. The one figure that needs all others is the
    total that top-p is a share of; it is added up in another order than by `truncate`, and where
    that could change what is dropped, the row is sorted.
    """
    values = probabilities[0].numpy()
    size = len(values)
    if 0 < top_k < size:
        ids = np.flatnonzero(values >= np.partition(values, size - top_k)[size - top_k])
        weights = np.sort(values[ids])[: -top_k - 1 : -1].astype(np.float64)
        cumulative = weights.cumsum()
        number = int(np.count_nonzero(cumulative - weights <= top_p * cumulative[-1]))
        ids = ids[_largest(values[ids], weights[number - 1], number)]
    elif top_p < 1:
        ids = _nucleus(probabilities, top_p)
    else:
        ids = np.arange(size)
    if min_p > 0:
        ids = ids[values[ids].astype(np.float64) >= min_p * float(values.max())]
    return ids


def _nucleus(probabilities: Tensor, top_p: float) -> Row:
    """The ids of one row [1, V] that top-p keeps.

    Tokens below (1 - top_p) / V of the total have together less than 1 - top_p of it, so the line
    is crossed among the others.
    """
    values, size = probabilities[0].numpy(), probabilities.shape[1]
    total = float(probabilities.sum(dtype=torch.float64))
    ids = np.flatnonzero(values >= np.float32((1 - top_p) * total / size))
    weights = np.sort(values[ids])[::-1].astype(np.float64)
    cumulative = weights.cumsum()
    before = cumulative - weights
    line, doubt = top_p * total, size * 2.0**-52 * total  # what another order may add up to
    crossed = len(ids) == size or cumulative[-1] > line + doubt
    if not crossed or (np.abs(before - line) <= doubt).any():
        cuts = torch.tensor([top_p]), torch.tensor([0])
        return np.flatnonzero(truncate(probabilities, *cuts)[0].numpy())
    number = int(np.count_nonzero(before <= line))
    return ids[_largest(values[ids], weights[number - 1], number)]


def _largest(values: Row, least: float, number: int) -> Row:
    """A mask of the `number` largest values, down to `least`; of equal ones the first."""
    above, equal = values > least, values == least
    return above | (equal & (equal.cumsum() <= number - np.count_nonzero(above)))
