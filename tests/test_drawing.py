"""Drawing by each answer's own settings, in any company the same."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.engine.drawing import Undrawable, draw, shape
from puna.errors import InputError
from puna.numerics.sampling import sample
from puna.text.completion import SamplingParams
from tests.models import normal
from tests.rows import FakeRow

EOS = 2
SEEDS = st.integers(0, 2**31)


def shaped(logits, row):
    """The logits of one row after its settings."""
    own = logits.clone()
    shape(own, row, EOS)
    return own.tolist()


def random_row(seed: int, size: int) -> FakeRow:
    """An answer with settings of every kind."""
    chance = random.Random(seed)
    pick = chance.choice
    params = SamplingParams(
        temperature=pick([0.0, 0.6, 1.0, 2.0]),
        top_p=pick([0.5, 0.9, 1.0]),
        top_k=pick([0, 0, 3, 50]),
        min_p=pick([0.0, 0.0, 0.1]),
        repetition_penalty=pick([1.0, 1.0, 1.3]),
        presence_penalty=pick([0.0, 0.0, 0.7]),
        frequency_penalty=pick([0.0, 0.0, -0.3]),
        logit_bias=pick([(), ((3, 5.0), (size - 1, -100.0))]),
        min_tokens=pick([0, 10]),
        logprobs=pick([None, 0, 5]),
    )
    tokens = [chance.randrange(size) for _ in range(12)]
    return FakeRow(params, tokens[:6], tokens[6:], seed=seed)


@pytest.mark.parametrize("size", [40, 3000])
@settings(max_examples=25)
@given(seed=SEEDS)
def test_a_row_is_drawn_alone_bit_for_bit_as_among_neighbours(size, seed):
    logits = normal(seed, 9, size, scale=4.0)
    together = draw(logits, [random_row(seed + i, size) for i in range(9)], EOS)
    alone = [draw(logits[i : i + 1], [random_row(seed + i, size)], EOS)[0] for i in range(9)]
    backwards = draw(logits.flip(0), [random_row(seed + 8 - i, size) for i in range(9)], EOS)
    assert together == alone == backwards[::-1]


@pytest.mark.parametrize("size", [40, 3000])
def test_plain_rows_are_drawn_as_sample_draws_them(size):
    params = SamplingParams(temperature=0.7, top_p=0.8, top_k=30)
    logits, twins = normal(1, 8, size, scale=3.0), [FakeRow(params, seed=i) for i in range(8)]
    uniform = torch.tensor([twin.uniform() for twin in twins])
    values = (torch.full((8,), x) for x in (0.7, 0.8, 30))
    ids, logprobs = sample(logits, *values, uniform)
    drawn = draw(logits, [FakeRow(params, seed=i) for i in range(8)], EOS)
    assert [token.id for token in drawn] == ids.tolist()
    assert [token.logprob for token in drawn] == logprobs.tolist()


def test_bias_is_added_before_the_penalties_divide_and_subtract():
    params = SamplingParams(
        logit_bias=((4, 1.0),),
        repetition_penalty=2.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
    )
    row = FakeRow(params, prompt_ids=[3, 6], ids=[4, 4, 5])
    logits = torch.tensor([1.0, 1.0, 1.0, -1.0, 3.0, -1.0, 1.0])
    #   in the prompt: times 2; twice in the answer: (3 + 1) / 2 - 0.5 - 2 * 0.25; once: -2 - 0.75
    assert shaped(logits, row) == [1.0, 1.0, 1.0, -2.0, 1.0, -2.75, 0.5]


def test_greedy_takes_the_likeliest_after_the_penalties():
    logits = torch.tensor([[0.0, 2.0, 1.9, 0.0]])
    params = SamplingParams(temperature=0.0, presence_penalty=0.5)
    [drawn] = draw(logits, [FakeRow(params, ids=[1])], EOS)
    assert drawn.id == 2
    assert math.isclose(drawn.logprob, float(torch.log_softmax(logits, -1)[0, 2]), abs_tol=1e-6)


def test_no_end_before_min_tokens():
    params = SamplingParams(temperature=0.0, min_tokens=2, stop_ids=(3,))
    logits = torch.tensor([[0.0, 1.0, 9.0, 8.0]])
    drawn = [draw(logits, [FakeRow(params, ids=[0] * n)], EOS)[0].id for n in range(4)]
    assert drawn == [1, 1, 2, 2]


def test_the_likeliest_tokens_are_the_models_own_before_all_settings():
    params = SamplingParams(logprobs=2, logit_bias=((0, -100.0),), temperature=0.3)
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    [drawn] = draw(logits, [FakeRow(params)], EOS)
    expected = torch.log_softmax(logits.double(), -1)[0]
    assert [id for id, _ in drawn.tops] == [0, 1]
    assert all(abs(value - float(expected[id])) < 1e-6 for id, value in drawn.tops)


def test_each_draw_uses_one_random_number_whatever_the_settings():
    rows = [random_row(seed, 40) for seed in range(20)]
    draw(normal(0, 20, 40), rows, EOS)
    assert {row.used for row in rows} == {1}


@pytest.mark.parametrize("size", [40, 3000])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_only_a_row_that_is_not_finite_fails(size, wrong):
    logits = normal(3, 4, size)
    expected = draw(logits, [FakeRow(SamplingParams(), seed=i) for i in range(4)], EOS)
    logits[2, 7] = wrong
    with pytest.raises(Undrawable, match="row 2: the model's logits are not finite") as caught:
        draw(logits, [FakeRow(SamplingParams(), seed=i) for i in range(4)], EOS)
    assert caught.value.drawn == [*expected[:2], None, expected[3]]
    assert isinstance(caught.value.faults[2], FloatingPointError)


def test_a_grammar_that_fails_fails_its_row_only():
    class Failing:
        def mask(self):
            raise InputError("grammar: costs too much")

    rows = [FakeRow(SamplingParams(), grammar=Failing()), FakeRow(SamplingParams())]
    with pytest.raises(Undrawable) as caught:
        draw(normal(0, 2, 40), rows, EOS)
    assert isinstance(caught.value.faults[0], InputError)
    assert caught.value.drawn[1]


def test_drawing_leaves_the_logits_as_they_are():
    logits = normal(5, 6, 40)
    before = logits.clone()
    draw(logits, [random_row(seed, 40) for seed in range(6)], EOS)
    assert torch.equal(logits, before)


def test_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="logits of 2 rows, expected 1"):
        draw(torch.zeros(2, 4), [FakeRow(SamplingParams())], EOS)
