"""Losses and the optimiser: by hand, against slow float64 twins, and by properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import InputError
from puna.numerics import losses, optim
from puna.numerics.optim import OptimConfig
from tests.models import answers, normal

SEEDS = st.integers(min_value=0, max_value=2**31)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- cross-entropy


def test_cross_entropy_of_two_equal_logits_is_log_two_for_each_target():
    total, count = losses.cross_entropy(
        torch.zeros(3, 2), torch.tensor([0, 1, 1]), torch.tensor([True, True, False])
    )
    assert total.item() == pytest.approx(2 * math.log(2))
    assert count.item() == 2


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_cross_entropy_equals_a_float64_loop(seed):
    logits, mask = normal(seed, 2, 5, 7, scale=3), answers(seed, 2, 5)
    targets = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(seed))
    expected = 0.0
    for b in range(2):
        for t in range(5):
            if mask[b, t]:
                row = logits[b, t].tolist()
                expected += math.log(sum(math.exp(x) for x in row)) - row[targets[b, t]]
    total, count = losses.cross_entropy(logits, targets, mask)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert count.item() == mask.sum().item()


def test_cross_entropy_is_the_same_in_parts_as_in_one():
    logits, targets = normal(1, 4, 6, 9), torch.arange(24).view(4, 6) % 9
    mask = answers(2, 4, 6)
    whole = losses.cross_entropy(logits, targets, mask)
    parts = [losses.cross_entropy(logits[i::2], targets[i::2], mask[i::2]) for i in (0, 1)]
    assert sum(part[0].item() for part in parts) == pytest.approx(whole[0].item(), rel=1e-6)
    assert sum(part[1].item() for part in parts) == whole[1].item()


def test_cross_entropy_of_a_masked_target_gives_no_gradient_and_may_be_any_number():
    logits = normal(3, 2, 5).requires_grad_()
    targets = torch.tensor([4, -1])
    total, _ = losses.cross_entropy(logits, targets, torch.tensor([True, False]))
    total.backward()
    assert logits.grad[0].abs().sum() > 0
    assert torch.equal(logits.grad[1], torch.zeros(5))


def test_cross_entropy_of_half_precision_logits_is_computed_in_float32():
    logits = normal(4, 3, 11, scale=5).bfloat16()
    targets, mask = torch.tensor([1, 2, 3]), torch.ones(3, dtype=torch.bool)
    total, _ = losses.cross_entropy(logits, targets, mask)
    expected = -torch.log_softmax(logits.double(), -1)[torch.arange(3), targets].sum()
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_loss_refuses_a_mask_that_is_not_bool():
    with pytest.raises(ValueError, match=r"mask is torch.float32, a bool mask was expected"):
        losses.cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), torch.ones(2))


def test_token_logprobs_are_the_entries_of_the_log_softmax():
    logits, tokens = normal(5, 2, 3, 8), torch.tensor([[1, 2, 3], [4, 5, 6]])
    expected = torch.log_softmax(logits, -1).gather(2, tokens[..., None])[..., 0]
    assert torch.allclose(losses.token_logprobs(logits, tokens), expected, atol=1e-6)


# --- ranking and safety


def test_ranking_loss_of_two_pairs_by_hand():
    total, count = losses.ranking_loss(
        torch.tensor([2.0, 0.5]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1 / 3])
    )
    expected = -math.log(sigmoid(1.0)) - math.log(sigmoid(-0.5 - 1 / 3))
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert count.item() == 2


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_ranking_loss_of_a_pair_and_its_swap_sum_to_the_difference(seed):
    a, b = normal(seed, 6), normal(seed + 1, 6)
    zero = torch.zeros(6)
    there = losses.ranking_loss(a, b, zero)[0]
    back = losses.ranking_loss(b, a, zero)[0]
    # log sigmoid(x) - log sigmoid(-x) = x
    assert (back - there).item() == pytest.approx((a - b).sum().item(), abs=1e-4)


def test_ranking_loss_grows_with_the_margin():
    chosen, rejected = normal(1, 5), normal(2, 5)
    small = losses.ranking_loss(chosen, rejected, torch.full((5,), 1 / 3))[0]
    large = losses.ranking_loss(chosen, rejected, torch.full((5,), 3.0))[0]
    assert large > small


def test_ranking_loss_is_finite_for_scores_far_apart():
    total, _ = losses.ranking_loss(torch.tensor([-500.0]), torch.tensor([500.0]), torch.zeros(1))
    assert total.item() == pytest.approx(1000.0)


def test_ranking_loss_names_both_shapes_where_they_differ():
    scores = torch.zeros(4, 1)
    with pytest.raises(ValueError, match=r"margin has shape \[4\], rewards has \[4, 1\]"):
        losses.ranking_loss(scores, scores, torch.zeros(4))


def test_ranking_loss_refuses_columns_even_when_all_agree():
    column = torch.zeros(4, 1)
    with pytest.raises(ValueError, match=r"rewards has shape \[4, 1\], a tensor of 1 axis"):
        losses.ranking_loss(column, column, column)


def test_safety_loss_of_three_answers_by_hand():
    total, count = losses.safety_loss(
        torch.tensor([0.0, 2.0, -1.0]), torch.tensor([True, False, False])
    )
    expected = -math.log(0.5) - math.log(1 - sigmoid(2.0)) - math.log(1 - sigmoid(-1.0))
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert count.item() == 3


def test_safety_loss_refuses_labels_that_are_numbers():
    with pytest.raises(ValueError, match=r"is_safe is torch.float32, a bool mask"):
        losses.safety_loss(torch.zeros(2), torch.ones(2))


# --- PPO


def slow_policy_loss(new, old, advantages, mask, clip) -> tuple[float, int, int]:
    total, count, clipped = 0.0, 0, 0
    for b in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[b, t]:
                ratio = math.exp(new[b, t].item() - old[b, t].item())
                a = advantages[b, t].item()
                bounded = min(max(ratio, 1 - clip), 1 + clip)
                total -= min(ratio * a, bounded * a)
                count += 1
                clipped += bounded * a < ratio * a
    return total, count, clipped


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_ppo_policy_loss_equals_a_float64_loop(seed):
    new, old = normal(seed, 3, 6), normal(seed + 1, 3, 6)
    advantages, mask = normal(seed + 2, 3, 6), answers(seed, 3, 6)
    total, count, fraction = losses.ppo_policy_loss(new, old, advantages, mask, 0.2)
    expected, number, clipped = slow_policy_loss(new, old, advantages, mask, 0.2)
    assert total.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert count.item() == number
    assert fraction.item() == pytest.approx(clipped / number)


def test_ppo_policy_loss_before_the_first_step_has_the_plain_policy_gradient():
    logprobs = normal(1, 2, 3).requires_grad_()
    advantages, mask = normal(2, 2, 3), torch.ones(2, 3, dtype=torch.bool)
    total, _, fraction = losses.ppo_policy_loss(logprobs, logprobs.detach(), advantages, mask, 0.2)
    total.backward()
    assert torch.allclose(logprobs.grad, -advantages)
    assert fraction.item() == 0


def test_ppo_policy_loss_stops_the_gradient_of_a_token_that_moved_too_far():
    logprobs = torch.tensor([[0.5, 0.1]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    total, _, fraction = losses.ppo_policy_loss(
        logprobs, torch.zeros(1, 2), torch.ones(1, 2), mask, 0.2
    )
    total.backward()
    assert logprobs.grad[0, 0] == 0
    assert logprobs.grad[0, 1] == pytest.approx(-math.exp(0.1))
    assert fraction.item() == 0.5


def test_ppo_policy_loss_ignores_what_stands_at_masked_positions():
    logprobs = torch.tensor([[0.1, -math.inf]], requires_grad=True)
    old = torch.tensor([[0.0, -math.inf]])
    mask = torch.tensor([[True, False]])
    total, count, _ = losses.ppo_policy_loss(
        logprobs, old, torch.tensor([[2.0, math.nan]]), mask, 0.2
    )
    total.backward()
    assert total.item() == pytest.approx(-2 * math.exp(0.1))
    assert count.item() == 1
    assert logprobs.grad.isfinite().all()


def test_value_loss_of_two_tokens_by_hand():
    # The first value moved by 1.0, of which 0.2 count; the second by 0.1, which is within the clip.
    total, count = losses.value_loss(
        torch.tensor([[1.0, 0.1]]),
        torch.zeros(1, 2),
        torch.tensor([[1.0, 1.0]]),
        torch.ones(1, 2, dtype=torch.bool),
        0.2,
    )
    assert total.item() == pytest.approx(0.5 * (0.8**2 + 0.9**2))
    assert count.item() == 2


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_value_loss_equals_a_float64_loop(seed):
    values, old, target = (normal(seed + i, 3, 6) for i in range(3))
    mask, clip = answers(seed, 3, 6), 0.3
    expected = 0.0
    for b in range(3):
        for t in range(6):
            if mask[b, t]:
                v, o, r = (x[b, t].item() for x in (values, old, target))
                near = o + min(max(v - o, -clip), clip)
                expected += 0.5 * max((v - r) ** 2, (near - r) ** 2)
    total, count = losses.value_loss(values, old, target, mask, clip)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert count.item() == mask.sum().item()


# --- optimiser


def test_cosine_reaches_the_peak_at_the_end_of_the_warmup_and_the_ratio_at_the_last_step():
    config = OptimConfig(lr=2.0, warmup=4, final_ratio=0.1)
    rates = [optim.cosine(step, 20, config) for step in range(20)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[11] == pytest.approx((2.0 + 0.2) / 2)  # half-way through the 16 steps of decay
    assert rates[19] == pytest.approx(0.2)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_constant_stays_at_the_peak_after_the_warmup():
    config = OptimConfig(lr=2.0, warmup=2)
    assert [optim.constant(step, 5, config) for step in range(5)] == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_a_warmup_longer_than_the_training_is_refused():
    with pytest.raises(InputError, match=r"warmup is 2000, at most the 100 steps"):
        optim.cosine(0, 100, OptimConfig(warmup=2000))


def test_a_setting_out_of_range_is_named():
    with pytest.raises(InputError, match=r"optim.final_ratio is 2, expected a number in"):
        OptimConfig(final_ratio=2)


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(normal(1, 3, 2))
        self.vector = torch.nn.Parameter(normal(2, 3))


def test_adamw_takes_the_step_of_its_definition_and_decays_matrices_only():
    module = Small()
    before = {name: p.detach().double() for name, p in module.named_parameters()}
    optimizer = optim.adamw(module, OptimConfig(lr=0.01, eps=1e-5, weight_decay=0.1))
    (module.matrix.sum() + 2 * module.vector.sum()).backward()
    optimizer.step()
    # First step: both corrected moments are the gradient g and its square.
    expected_matrix = before["matrix"] * (1 - 0.01 * 0.1) - 0.01 * 1 / (1 + 1e-5)
    expected_vector = before["vector"] - 0.01 * 2 / (2 + 1e-5)
    assert torch.allclose(module.matrix.double(), expected_matrix, atol=1e-6)
    assert torch.allclose(module.vector.double(), expected_vector, atol=1e-6)


def test_adamw_refuses_half_precision_parameters():
    with pytest.raises(ValueError, match=r"parameter matrix is torch.bfloat16"):
        optim.adamw(Small().bfloat16(), OptimConfig())


def test_set_lr_reaches_every_group():
    optimizer = optim.adamw(Small(), OptimConfig())
    optim.set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_clip_gradients_scales_to_the_largest_norm_and_returns_the_one_before():
    module = Small()
    module.matrix.grad = torch.zeros(3, 2)
    module.matrix.grad[0, 0] = 3.0
    module.vector.grad = torch.tensor([4.0, 0.0, 0.0])
    assert optim.clip_gradients(module.parameters(), 1.0) == pytest.approx(5.0)
    assert module.matrix.grad[0, 0].item() == pytest.approx(0.6, rel=1e-5)
    assert module.vector.grad[0].item() == pytest.approx(0.8, rel=1e-5)


def test_clip_gradients_leaves_a_small_gradient_alone():
    module = Small()
    module.vector.grad = torch.tensor([0.3, 0.4, 0.0])
    assert optim.clip_gradients(module.parameters(), 1.0) == pytest.approx(0.5)
    assert module.vector.grad.tolist() == pytest.approx([0.3, 0.4, 0.0])


def test_clip_gradients_refuses_a_gradient_that_is_not_finite():
    module = Small()
    module.vector.grad = torch.tensor([math.nan, 0.0, 0.0])
    with pytest.raises(FloatingPointError, match=r"norm is nan"):
        optim.clip_gradients(module.parameters(), 1.0)
