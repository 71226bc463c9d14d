"""Margins, rewards and advantages: by hand, against slow float64 twins, and by properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import InputError
from puna.numerics import rewards
from tests.models import answers, normal

SEEDS = st.integers(min_value=0, max_value=2**31)


# --- from scores to rewards


def test_margins_are_those_of_table_27():
    strengths = ["significantly_better", "better", "slightly_better", "negligibly_better"]
    assert rewards.margin(strengths, "large").tolist() == [3, 2, 1, 0]
    assert rewards.margin(strengths, "small").tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert rewards.margin(strengths, "none").tolist() == [0, 0, 0, 0]


def test_margin_names_an_unknown_strength_and_its_pair():
    with pytest.raises(InputError, match=r"pair 1: unknown strength 'much_better'"):
        rewards.margin(["better", "much_better"], "small")


def test_margin_names_an_unknown_kind():
    with pytest.raises(InputError, match=r"unknown kind 'medium', expected one of none, small"):
        rewards.margin(["better"], "medium")


def test_combined_score_is_safety_on_safety_prompts_and_below_the_threshold():
    combined = rewards.combined_score(
        helpfulness=torch.tensor([0.9, 0.9, 0.9, 0.9]),
        safety=torch.tensor([0.6, 0.14, 0.15, 0.05]),
        is_safety_prompt=torch.tensor([True, False, False, True]),
    )
    assert combined.tolist() == pytest.approx([0.6, 0.14, 0.9, 0.05])


def test_combined_score_refuses_scores_before_the_sigmoid():
    with pytest.raises(ValueError, match=r"helpfulness has values from -1 to 2, probabilities"):
        rewards.combined_score(
            torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 0.5]), torch.tensor([True, False])
        )


def test_logit_undoes_the_sigmoid():
    x = torch.linspace(-8, 8, 33)
    assert torch.allclose(rewards.logit(torch.sigmoid(x)), x, atol=1e-2)


def test_logit_clamps_to_eps_on_both_sides():
    out = rewards.logit(torch.tensor([0.0, 1.0]), eps=1e-3)
    edge = math.log(0.001 / 0.999)
    assert out.tolist() == pytest.approx([edge, -edge], rel=1e-5)


def test_logit_refuses_an_eps_that_float32_cannot_keep_apart_from_one():
    with pytest.raises(ValueError, match=r"eps is 1e-09"):
        rewards.logit(torch.tensor([0.5]), eps=1e-9)


def test_whiten_of_three_numbers_by_hand():
    # mean 3, unbiased variance ((-2)^2 + 0 + 2^2) / 2 = 4
    out = rewards.whiten(torch.tensor([1.0, 3.0, 5.0]))
    assert out.tolist() == pytest.approx([-1.0, 0.0, 1.0], rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.01, 100), st.floats(-100, 100))
def test_whiten_does_not_see_scale_and_shift(seed, scale, shift):
    x = normal(seed, 16)
    assert torch.allclose(rewards.whiten(x), rewards.whiten(x * scale + shift), atol=2e-2)


def test_whiten_of_equal_values_is_zero():
    assert rewards.whiten(torch.full((5,), 0.1)).abs().max() < 1e-3


def test_whiten_with_a_mask_is_whiten_of_what_it_selects():
    x, mask = normal(1, 3, 5), answers(3, 3, 5)
    out = rewards.whiten(x, mask)
    assert torch.allclose(out[mask], rewards.whiten(x[mask]))
    assert torch.equal(out[~mask], torch.zeros_like(out[~mask]))


def test_whiten_refuses_a_batch_of_one():
    with pytest.raises(InputError, match=r"a batch of 1, at least 2"):
        rewards.whiten(torch.tensor([0.3]))


def test_kl_per_token_averages_to_the_divergence_under_the_policy():
    policy, reference = torch.log_softmax(normal(1, 6), -1), torch.log_softmax(normal(2, 6), -1)
    expected = sum(
        p * (math.log(p) - q)
        for p, q in zip(policy.exp().tolist(), reference.tolist(), strict=True)
    )
    mean = (policy.exp() * rewards.kl_per_token(policy, reference)).sum()
    assert mean.item() == pytest.approx(expected, abs=1e-6)


def test_shaped_rewards_put_the_score_on_the_last_answer_token():
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    kl = torch.tensor([[9.0, 1.0, 2.0, 9.0], [1.0, 0.0, -1.0, 0.5]])
    out = rewards.shaped_rewards(torch.tensor([2.0, -1.0]), kl, mask, beta=0.1)
    expected = torch.tensor([[0.0, -0.1, 1.8, 0.0], [-0.1, 0.0, 0.1, -1.05]])
    assert torch.allclose(out, expected)


def test_shaped_rewards_of_a_row_sum_to_its_score_less_beta_times_its_kl():
    score, kl, mask = normal(1, 4), normal(2, 4, 7), answers(5, 4, 7)
    out = rewards.shaped_rewards(score, kl, mask, beta=0.01)
    assert torch.allclose(out.sum(1), score - 0.01 * (kl * mask).sum(1), atol=1e-6)


def test_shaped_rewards_refuse_a_row_without_an_answer():
    mask = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match=r"rows \[1\] have no answer token"):
        rewards.shaped_rewards(torch.zeros(2), torch.zeros(2, 2), mask, beta=0.1)


def test_shaped_rewards_refuse_scores_of_another_batch():
    mask = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"kl_rows has shape \[2\], score has \[3\]"):
        rewards.shaped_rewards(torch.zeros(3), torch.zeros(2, 2), mask, beta=0.1)


# --- GAE


def slow_gae(reward, value, mask, gamma, lam) -> tuple[list[list[float]], list[list[float]]]:
    """The definition: a discounted sum of one-step surprises over the answer's own tokens."""
    advantages = [[0.0] * mask.shape[1] for _ in range(mask.shape[0])]
    returns = [[0.0] * mask.shape[1] for _ in range(mask.shape[0])]
    for b in range(mask.shape[0]):
        own = [t for t in range(mask.shape[1]) if mask[b, t]]
        r, v = ([x[b, t].item() for t in own] for x in (reward, value))
        v.append(0.0)  # after the last token there is nothing
        surprise = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(own))]
        for i, t in enumerate(own):
            later = enumerate(surprise[i:])
            advantages[b][t] = sum((gamma * lam) ** k * s for k, s in later)
            returns[b][t] = advantages[b][t] + v[i]
    return advantages, returns


def test_gae_of_two_tokens_by_hand():
    advantages, returns = rewards.gae(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[0.5, 1.5]]),
        torch.ones(1, 2, dtype=torch.bool),
        gamma=0.9,
        lam=0.8,
    )
    last = 2.0 - 1.5
    first = 1.0 + 0.9 * 1.5 - 0.5 + 0.9 * 0.8 * last
    assert advantages.tolist()[0] == pytest.approx([first, last])
    assert returns.tolist()[0] == pytest.approx([first + 0.5, last + 1.5])


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_gae_equals_its_definition_in_float64(seed, gamma, lam):
    reward, value, mask = normal(seed, 4, 8), normal(seed + 1, 4, 8), answers(seed, 4, 8)
    advantages, returns = rewards.gae(reward, value, mask, gamma, lam)
    expected = slow_gae(reward, value, mask, gamma, lam)
    assert torch.allclose(advantages, torch.tensor(expected[0]), atol=1e-4)
    assert torch.allclose(returns, torch.tensor(expected[1]), atol=1e-4)


def test_gae_with_lambda_and_gamma_one_returns_the_sum_of_what_follows():
    reward, value, mask = normal(1, 3, 6), normal(2, 3, 6), torch.ones(3, 6, dtype=torch.bool)
    _, returns = rewards.gae(reward, value, mask, 1.0, 1.0)
    assert torch.allclose(returns, reward.flip(1).cumsum(1).flip(1), atol=1e-5)


def test_gae_of_a_row_does_not_depend_on_the_padding_after_it():
    reward, value = normal(1, 1, 5), normal(2, 1, 5)
    mask = torch.tensor([[False, True, True, False, False]])
    short = rewards.gae(reward[:, :3], value[:, :3], mask[:, :3], 0.9, 0.95)
    long = rewards.gae(reward, value, mask, 0.9, 0.95)
    for a, b in zip(short, long, strict=True):
        assert torch.equal(a, b[:, :3])
        assert torch.equal(b[:, 3:], torch.zeros(1, 2))


def test_masked_mean_of_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match=r"the mask selects nothing"):
        rewards.masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool))


def test_masked_mean_counts_only_what_the_mask_selects():
    mask = torch.tensor([True, False, True])
    assert rewards.masked_mean(torch.tensor([1.0, 100.0, 2.0]), mask).item() == 1.5
