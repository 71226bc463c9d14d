"""Guesses change the speed of an answer and nothing else."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from puna.engine.engine import Engine, Request
from puna.engine.runner import Row
from puna.engine.speculation import Lookup, Pace
from puna.text.completion import SamplingParams
from tests.workloads import Arrival, drive, joined

WEIGHTS = torch.tensor([0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.4])
DRAWN = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=40, ignore_eos=True)


class Urn:
    """A model that says the same of every text."""

    n_blocks, block_size, context = 64, 16, 256
    adapters = ()

    def __init__(self, weights: Tensor) -> None:
        self.weights, self.vocab_size = weights, len(weights)

    def forward(self, rows: Sequence[Row]) -> Tensor:
        return self.weights.log().repeat(sum(row.wanted for row in rows), 1)

    def copy_block(self, source: int, target: int) -> None:
        pass


def drawn(engine: Engine, number: int, speculate: bool) -> tuple[dict, Tensor]:
    """The tokens of many answers, and how often each was drawn."""
    requests = [
        Request(str(seed), [1, 2], replace(DRAWN, seed=seed), speculate=speculate)
        for seed in range(number)
    ]
    found = drive(engine, [Arrival(request, 0) for request in requests])
    ids = {key: [token.id for token in joined(parts)[0]] for key, parts in found.items()}
    return ids, torch.bincount(torch.tensor(list(ids.values())).flatten(), minlength=7)


@pytest.mark.parametrize("drafted", [False, True])
def test_tokens_follow_the_models_distribution_under_guesses_that_are_wrong(
    tiny_tokenizer, drafted
):
    draft = Urn(WEIGHTS[[3, 1, 6, 0, 2, 4, 5]]) if drafted else None
    engine = Engine(Urn(WEIGHTS), tiny_tokenizer, rows=4, draft=draft)
    ids, counts = drawn(engine, 150, speculate=True)
    assert counts.sum() == 6000
    counters = engine.counters
    assert 300 < counters["accepted"] < 0.9 * counters["proposed"]  # sometimes right, often wrong
    expected = WEIGHTS.double() * 6000
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # chi-square, 6 degrees, 0.1 %
    assert drawn(engine, 150, speculate=False)[0] == ids


def test_a_draft_with_the_models_own_logits_is_always_right(tiny_tokenizer):
    engine = Engine(Urn(WEIGHTS), tiny_tokenizer, rows=4, draft=Urn(WEIGHTS))
    drawn(engine, 4, speculate=True)
    assert engine.counters["proposed"] == engine.counters["accepted"] > 100


def scanned(ids: list[int], most: int) -> list[int]:
    """`Lookup` by looking everywhere."""
    for size in (4, 3, 2):
        tail, text = ids[-size:], list(ids)
        for end in range(len(ids) - 1, size - 1, -1):
            if len(tail) == size and ids[end - size : end] == tail:
                for place in range(most):
                    text.append(text[end + place])
                return text[len(ids) :]
    return []


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 6))
def test_lookup_finds_what_a_scan_of_the_whole_text_finds(ids, most):
    assert Lookup(ids).propose(most) == scanned(ids, most)


@given(st.lists(st.integers(0, 3), max_size=40))
def test_an_index_that_grows_finds_what_a_new_one_finds(ids):
    index = Lookup()
    for place, id in enumerate(ids, start=1):
        index.extend([id])
        assert index.propose(5) == Lookup(ids[:place]).propose(5)


def test_the_pace_rises_with_right_guesses_and_falls_with_wrong_ones():
    pace = Pace(most=8, cost=0.25)
    for _ in range(20):
        pace.learn(pace.length(), pace.length())
    assert pace.length() == 8
    for _ in range(60):
        pace.learn(pace.length(), 0)
    assert [pace.length() for _ in range(32)].count(0) == 30  # one guess in sixteen passes
