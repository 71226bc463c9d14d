"""Drawing tokens: right frequencies, Meta's truncation, and no influence of neighbours."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from puna.numerics.sampling import (
    SORTED_AT_ONCE,
    descending,
    likeliest,
    pick,
    sample,
    staying,
    truncate,
)

SEEDS = st.integers(min_value=0, max_value=2**31)


def logits_of(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(logits: Tensor, uniform: Tensor, temperature=1.0, top_p=1.0, top_k=0):
    """sample() with the same settings in every row."""
    rows = len(logits)
    return sample(
        logits,
        torch.full((rows,), float(temperature)),
        torch.full((rows,), float(top_p)),
        torch.full((rows,), int(top_k)),
        uniform,
    )


def slow_nucleus(probabilities: list[float], top_p: float, top_k: int) -> set[int]:
    """Ids that stay: walk down the ranking, stop once what was passed exceeds top_p."""
    ranking = sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i))
    ranking = ranking[:top_k] if top_k else ranking
    total = sum(probabilities[i] for i in ranking)
    kept, passed = set(), 0.0
    for i in ranking:
        if passed > top_p * total:
            break
        kept.add(i)
        passed += probabilities[i]
    return kept


def test_the_token_is_where_the_cumulative_probability_passes_the_uniform():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(5, 3)
    ids, _ = draw(logits, torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81]))
    assert ids.tolist() == [0, 0, 1, 1, 2]


def test_frequencies_follow_the_probabilities_at_a_temperature():
    number = 20_000
    logits = logits_of(1, 7)
    uniform = torch.rand(number, generator=torch.Generator().manual_seed(2))
    ids, _ = draw(logits.expand(number, 7), uniform, temperature=0.7)
    expected = torch.softmax(logits.double() / 0.7, -1)
    observed = torch.bincount(ids, minlength=7) / number
    bound = 5 * (expected * (1 - expected) / number).sqrt() + 1e-4  # five standard errors
    assert ((observed - expected).abs() <= bound).all()


def test_frequencies_under_top_p_are_the_probabilities_of_what_stays_rescaled():
    number = 20_000
    logits = torch.tensor([0.1, 0.4, 0.15, 0.35]).log()
    uniform = torch.rand(number, generator=torch.Generator().manual_seed(3))
    ids, _ = draw(logits.expand(number, 4), uniform, top_p=0.7)
    observed = torch.bincount(ids, minlength=4) / number
    expected = torch.tensor([0.0, 0.4 / 0.75, 0.0, 0.35 / 0.75])
    assert ((observed - expected).abs() < 0.02).all()
    assert observed[0] == observed[2] == 0


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.floats(0.0, 1.0), st.integers(0, 12))
def test_truncation_keeps_what_an_independent_walk_down_the_ranking_keeps(seed, top_p, top_k):
    probabilities = torch.softmax(logits_of(seed, 3, 10), -1)
    out = truncate(probabilities, torch.full((3,), top_p), torch.full((3,), top_k))
    for row, kept in zip(probabilities.double().tolist(), out, strict=True):
        # float32 may put a sum that meets top_p exactly on the other side: both sides are right
        both = (slow_nucleus(row, top_p + e, top_k) for e in (-1e-6, 1e-6))
        assert set(kept.nonzero().flatten().tolist()) in list(both)


def test_the_token_that_crosses_the_line_stays():
    kept = truncate(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([0.6]), torch.tensor([0]))
    assert kept.tolist() == [[0.5, 0.25, 0.0]]


def test_a_token_before_which_exactly_top_p_was_passed_stays():
    kept = truncate(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([0.5]), torch.tensor([0]))
    assert kept.tolist() == [[0.5, 0.25, 0.0]]


def test_equal_probabilities_rank_by_id():
    kept = truncate(torch.full((1, 4), 0.25), torch.tensor([1.0]), torch.tensor([3]))
    assert kept.tolist() == [[0.25, 0.25, 0.25, 0.0]]


def test_top_k_of_one_is_the_most_probable_token():
    logits = logits_of(4, 50, 9)
    ids, _ = draw(logits, torch.rand(50, generator=torch.Generator().manual_seed(5)), top_k=1)
    assert torch.equal(ids, logits.argmax(-1))


def test_a_temperature_of_zero_is_the_most_probable_token_whatever_the_uniform():
    logits = logits_of(6, 50, 9)
    ids, _ = draw(logits, torch.linspace(0, 0.999, 50), temperature=0.0)
    assert torch.equal(ids, logits.argmax(-1))


def test_logprobs_are_those_of_the_untruncated_distribution_at_temperature_one():
    logits = logits_of(7, 6, 9)
    ids, logprobs = draw(logits, torch.linspace(0, 0.9, 6), temperature=0.3, top_p=0.5, top_k=4)
    expected = torch.log_softmax(logits.double(), -1)[torch.arange(6), ids]
    assert torch.allclose(logprobs.double(), expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_row_gives_the_same_bits_alone_as_among_neighbours(seed):
    rows = 9
    generator = torch.Generator().manual_seed(seed)
    logits, uniform = logits_of(seed, rows, 33), torch.rand(rows, generator=generator)
    temperature = torch.tensor([0.0, 0.5, 1.0] * 3)
    top_p = torch.tensor([1.0, 0.9, 0.5, 1.0, 1.0, 0.3, 0.9, 1.0, 0.0])
    top_k = torch.tensor([0, 0, 5, 3, 0, 0, 40, 1, 0])
    together = sample(logits, temperature, top_p, top_k, uniform)
    for i in range(rows):
        one = slice(i, i + 1)
        alone = sample(logits[one], temperature[one], top_p[one], top_k[one], uniform[one])
        assert torch.equal(alone[0], together[0][one])
        assert torch.equal(alone[1], together[1][one])


def test_a_uniform_near_one_never_draws_a_token_of_probability_zero():
    logits = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]])
    for uniform in (1 - 2**-24, math.nextafter(1.0, 0.0), 1.0):  # the last after rounding
        ids, _ = draw(logits, torch.tensor([uniform], dtype=torch.float64))
        assert ids.tolist() == [1]


def test_a_uniform_of_zero_never_draws_a_token_of_probability_zero():
    ids, _ = draw(torch.tensor([[-math.inf, 0.0, 0.0]]), torch.tensor([0.0]))
    assert ids.tolist() == [1]


def test_a_row_that_is_not_finite_is_named():
    logits = torch.zeros(3, 4)
    logits[1, 2] = math.nan
    with pytest.raises(FloatingPointError, match=r"rows \[1\] are not finite"):
        draw(logits, torch.zeros(3))


def test_settings_of_another_number_of_rows_are_refused():
    with pytest.raises(ValueError, match=r"temperature has shape \[2\], logits_rows has \[3\]"):
        sample(torch.zeros(3, 4), *(torch.ones(2) for _ in range(4)))


def test_descending_is_the_sorted_row_and_leaves_its_input():
    x = logits_of(8, 4, 17)
    before = x.clone()
    assert torch.equal(descending(x), x.sort(-1, descending=True).values)
    assert torch.equal(x, before)


def sorting_sample(logits, temperature, top_p, top_k, uniform) -> tuple[Tensor, Tensor]:
    """The same draws with every row sorted whole: what Puna did first, and goes on giving."""
    greedy = temperature <= 0
    scaled = logits / temperature.masked_fill(greedy, 1.0)[:, None]
    probabilities = torch.softmax(scaled, dim=-1)
    ranked = probabilities.sort(dim=-1, descending=True).values
    rank = torch.arange(ranked.shape[1])
    dropped = (top_k[:, None] > 0) & (rank >= top_k[:, None])
    weights = ranked.double().masked_fill(dropped, 0.0)
    cumulative = weights.cumsum(dim=-1)
    kept = (cumulative - weights <= top_p[:, None].double() * cumulative[:, -1:]) & ~dropped
    number = kept.sum(dim=-1, keepdim=True).clamp(min=1)
    least = ranked.gather(1, number - 1)
    above, equal = probabilities > least, probabilities == least
    chosen = above | (equal & (equal.cumsum(dim=-1) <= number - above.sum(-1, keepdim=True)))
    cumulative = torch.where(chosen, probabilities, 0.0).double().cumsum(dim=-1)
    total = cumulative[:, -1]
    target = torch.minimum(uniform.double() * total, torch.nextafter(total, torch.zeros(1)))
    drawn = torch.searchsorted(cumulative, target[:, None].contiguous(), right=True)[:, 0]
    ids = torch.where(greedy, logits.argmax(dim=-1), drawn)
    return ids, torch.log_softmax(logits, dim=-1).gather(1, ids[:, None])[:, 0]


def settings_of(seed: int, rows: int) -> tuple[Tensor, ...]:
    """Temperature, top_p, top_k and uniform of every row, the edges of their ranges included."""
    chance = random.Random(seed)
    columns = (
        [chance.choice([0.0, 0.05, 0.6, 1.0, 1.7, 100.0]) for _ in range(rows)],
        [chance.choice([0.0, 1e-6, 0.1, 0.5, 0.9, 0.999, 1 - 2**-24, 1.0]) for _ in range(rows)],
        [chance.choice([0, 0, 0, 1, 2, 40, 500, 10**6]) for _ in range(rows)],
        [
            chance.choice([0, 1, 2**23, 2**24 - 1, chance.getrandbits(24)]) / 2**24
            for _ in range(rows)
        ],
    )
    return tuple(torch.tensor(column) for column in columns)


@pytest.mark.parametrize("size", [384, SORTED_AT_ONCE + 1, 32000])
@pytest.mark.parametrize("kind", ["spread", "peaked", "flat", "steps", "equal", "forbidden"])
def test_draws_are_bit_for_bit_those_of_sorting_every_row(size, kind):
    for seed in range(3):
        logits = logits_of(seed, 12, size, scale={"peaked": 12.0, "flat": 0.01}.get(kind, 3.0))
        if kind == "steps":
            logits = logits.round()  # many equal probabilities
        elif kind == "equal":
            logits = torch.zeros(12, size)
        elif kind == "forbidden":
            logits[:, size // 50 :] = -math.inf
        values = settings_of(seed, 12)
        expected, found = sorting_sample(logits, *values), sample(logits, *values)
        assert torch.equal(expected[0], found[0])
        assert torch.equal(expected[1], found[1])


def test_where_the_order_of_adding_up_decides_the_row_is_sorted():
    # Largest first, what is below 2**-54 is lost in the sum, which stays below 1; in any order that
    # adds the small ones up first it is above 1. The second token lies exactly between the two.
    large = 0.5 ** torch.arange(1, 42, dtype=torch.float64)
    probabilities = torch.cat([large, torch.full((30000,), 2.0**-55)]).float()[None]
    assert probabilities.sum(dtype=torch.float64) > 1
    kept = truncate(probabilities, torch.tensor([0.5]), torch.tensor([0]))
    assert staying(probabilities, 0.5, 0, 0.0).tolist() == kept[0].nonzero()[:, 0].tolist() == [0]


@pytest.mark.parametrize("size", [16, SORTED_AT_ONCE + 1])
def test_a_sum_that_rounding_could_put_on_either_side_is_decided_as_by_sorting(size):
    logits = torch.full((1, size), -math.inf)
    logits[0, :8] = 0.0  # eight times 1/8, so that the sum of four is top_p exactly
    kept = {
        int(pick(logits, *(torch.tensor([x]) for x in (1.0, 0.5, 0, 0.0, u / 64)))[0])
        for u in range(64)
    }
    assert kept == {0, 1, 2, 3, 4}


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([64, SORTED_AT_ONCE + 100]))
def test_min_p_keeps_what_is_at_least_that_share_of_the_likeliest(seed, size):
    logits, chance = logits_of(seed, 1, size), random.Random(seed)
    min_p, top_p = chance.choice([0.01, 0.1, 0.5, 1.0]), chance.choice([0.7, 1.0])
    uniform = torch.arange(200) / 200
    rows = [torch.full((200,), value) for value in (1.0, top_p)]
    drawn = pick(
        logits.expand(200, size),
        *rows,
        torch.zeros(200, dtype=torch.int64),
        torch.full((200,), min_p),
        uniform,
    )
    probabilities = torch.softmax(logits[0].double(), -1)
    stays = probabilities >= min_p * probabilities.max() * (1 - 1e-6)
    stays &= truncate(torch.softmax(logits, -1), torch.tensor([top_p]), torch.tensor([0]))[0] > 0
    cumulative = (probabilities * stays).cumsum(-1)
    expected = torch.searchsorted(
        cumulative, (uniform.double() + 1e-9) * cumulative[-1], right=True
    )
    assert torch.equal(drawn, expected)


@given(SEEDS, st.integers(1, 30))
def test_the_likeliest_are_the_first_of_a_sorted_list(seed, count):
    values = logits_of(seed, 25).round()  # with equal ones
    ranking = sorted(range(25), key=lambda id: (-float(values[id]), id))
    assert [id for id, _ in likeliest(values, count)] == ranking[:count]
    assert all(value == float(values[id]) for id, value in likeliest(values, count))
