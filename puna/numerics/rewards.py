"""From ratings to margins (Table 27), from scores to what PPO learns from (section 3.2.3).

Order in PPO: sigmoid scores of two reward models -> combined_score -> logit -> whiten ->
shaped_rewards -> gae.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from puna.errors import InputError
from puna.numerics.shapes import axes, boolean, same_shape

# m(r) of Eq. 2 by how much better the chosen answer is (Table 27).
MARGINS: Mapping[str, Mapping[str, float]] = {
    "none": {
        "significantly_better": 0.0,
        "better": 0.0,
        "slightly_better": 0.0,
        "negligibly_better": 0.0,
    },
    "small": {
        "significantly_better": 1.0,
        "better": 2 / 3,
        "slightly_better": 1 / 3,
        "negligibly_better": 0.0,
    },
    "large": {
        "significantly_better": 3.0,
        "better": 2.0,
        "slightly_better": 1.0,
        "negligibly_better": 0.0,
    },
}


def margin(strengths: Sequence[str], kind: str) -> Tensor:
    """The margin m(r) of each pair, [B] float32, for kind "none", "small" or "large" (Table 27).

    InputError for another kind or an unknown strength.
    """
    if kind not in MARGINS:
        raise InputError(f"margin: unknown kind {kind!r}, expected one of {', '.join(MARGINS)}")
    table = MARGINS[kind]
    for index, strength in enumerate(strengths):
        if strength not in table:
            raise InputError(
                f"margin: pair {index}: unknown strength {strength!r}, "
                f"expected one of {', '.join(table)}"
            )
    return torch.tensor([table[strength] for strength in strengths], dtype=torch.float32)


def combined_score(
    helpfulness: Tensor, safety: Tensor, is_safety_prompt: Tensor, threshold: float = 0.15
) -> Tensor:
    """R_c: the safety score on safety prompts or where it is below the threshold, else helpfulness.

    All [B]; the scores are probabilities (after the sigmoid), is_safety_prompt is bool. ValueError
    for scores outside [0, 1], because scores before the sigmoid would pass unnoticed otherwise.
    """
    same_shape(helpfulness=helpfulness, safety=safety, is_safety_prompt=is_safety_prompt)
    axes(1, helpfulness=helpfulness)
    boolean(is_safety_prompt=is_safety_prompt)
    helpfulness, safety = helpfulness.float(), safety.float()
    _probabilities(helpfulness=helpfulness, safety=safety)
    return torch.where(is_safety_prompt | (safety < threshold), safety, helpfulness)


def logit(p: Tensor, eps: float = 1e-6) -> Tensor:
    """log(p / (1 - p)), the inverse of the sigmoid, p first clamped to [eps, 1 - eps]; float32.

    ValueError for probabilities outside [0, 1] and for an eps that float32 cannot tell from 0 next
    to 1.
    """
    if not 1e-7 <= eps < 0.5:
        raise ValueError(f"logit: eps is {eps}, a value in [1e-7, 0.5) was expected")
    p = p.float()
    _probabilities(p=p)
    return torch.logit(p.clamp(eps, 1.0 - eps))


def whiten(x: Tensor, mask: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """x shifted to mean 0 and scaled to standard deviation 1 over all its elements, float32.

    The variance is the unbiased one (divided by n - 1); eps is added to it, so that equal values
    give zeros. With a mask the statistics are those of the elements where it is True, and the
    others become 0. InputError for fewer than two values: there is nothing to compare one value
    with.
    """
    x = x.detach().float()
    kept = x.flatten() if mask is None else _selected(x, mask)
    if kept.numel() < 2:
        raise InputError(f"whiten: a batch of {kept.numel()}, at least 2 values were expected")
    white = (x - kept.mean()) * torch.rsqrt(kept.var(unbiased=True) + eps)
    return white if mask is None else white.masked_fill(~mask, 0.0)


def kl_per_token(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log pi(token) - log pi_0(token): the KL term of Eq. 4 token by token.

    Any shape; float32 and without gradient. On tokens sampled from pi its mean is D_KL(pi || pi_0);
    a single term may be negative.
    """
    same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    return logprobs.detach().float() - ref_logprobs.detach().float()


def shaped_rewards(score: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards of Eq. 4: -beta * kl on every answer token, plus the score on the last one.

    score [B] (whitened), kl [B, T], mask [B, T] True on answer tokens; returns [B, T], 0 where
    masked. ValueError for a row without an answer token: its score would be lost.
    """
    axes(1, score=score)
    axes(2, kl=kl)
    same_shape(kl=kl, mask=mask)
    same_shape(score=score, kl_rows=kl[:, 0])
    boolean(mask=mask)
    empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"shaped_rewards: rows {empty} have no answer token to carry their score")
    rewards = (-beta * kl.detach().float()).masked_fill(~mask, 0.0)
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * columns).argmax(dim=1)
    rewards[torch.arange(len(rewards), device=mask.device), last] += score.detach().float()
    return rewards


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns (advantage + value), both [B, T], 0 where masked.

    All [B, T]; mask is True on answer tokens, and rows may start and end anywhere. The last answer
    token of a row ends its episode: nothing is bootstrapped after it, also when the answer was cut
    at the length limit, because its score is that of the answer as it stands.
    """
    same_shape(rewards=rewards, values=values, mask=mask)
    axes(2, rewards=rewards)
    boolean(mask=mask)
    rewards, values = rewards.float(), values.float()
    advantages = torch.zeros_like(rewards)
    later = torch.zeros_like(rewards[:, 0])  # advantage of the row's next answer token
    next_value = torch.zeros_like(later)
    for t in range(rewards.shape[1] - 1, -1, -1):
        answer = mask[:, t]
        surprise = rewards[:, t] + gamma * next_value - values[:, t]
        later = torch.where(answer, surprise + gamma * lam * later, later)
        next_value = torch.where(answer, values[:, t], next_value)
        advantages[:, t] = torch.where(answer, later, 0.0)
    return advantages, (advantages + values).masked_fill(~mask, 0.0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of the elements where mask is True, float32 scalar; ValueError if there is none."""
    kept = _selected(x.float(), mask)
    if not kept.numel():
        raise ValueError("masked_mean: the mask selects nothing")
    return kept.mean()


def _selected(x: Tensor, mask: Tensor) -> Tensor:
    same_shape(x=x, mask=mask)
    boolean(mask=mask)
    return x[mask]


def _probabilities(**tensors: Tensor) -> None:
    for name, p in tensors.items():
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(
                f"{name} has values from {p.min().item():g} to {p.max().item():g}, "
                "probabilities in [0, 1] were expected"
            )
