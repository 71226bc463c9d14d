"""Guesses change the speed of an answer and nothing else."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.engine.drawing import Undrawable, draw
from puna.engine.speculation import Lookup, Pace, Shadow, Uniforms, accept, lookup
from puna.text.completion import SamplingParams
from tests.models import normal
from tests.rows import FakeRow

EOS, SIZE = 2, 50
SEEDS = st.integers(0, 2**31)


class FakeModel:
    """Logits that depend on the last two tokens only."""

    def __init__(self, seed: int) -> None:
        self.table = normal(seed, SIZE, SIZE, scale=2.0)

    def logits(self, ids: list[int]) -> torch.Tensor:
        return self.table[ids[-1]] + 0.5 * self.table[ids[-2] if len(ids) > 1 else 0].flip(0)


def run(model: FakeModel, rows: list[FakeRow], steps: int, guess) -> list[list]:
    """Draw at least `steps` tokens of each row with the guesses of `guess(row)`."""
    drawn: list[list] = [[] for _ in rows]

    def push(index, token):
        drawn[index].append(token)
        rows[index].ids.append(token.id)
        return len(drawn[index]) < steps

    while going := [index for index in range(len(rows)) if len(drawn[index]) < steps]:
        guesses = [guess(rows[index]) for index in going]
        logits = []
        for index, guessed in zip(going, guesses, strict=True):
            known = rows[index].prompt_ids + rows[index].ids
            logits += [model.logits(known + guessed[:n]) for n in range(len(guessed) + 1)]
        places = dict(enumerate(going))
        accept(
            torch.stack(logits),
            [rows[index] for index in going],
            guesses,
            lambda place, token, places=places: push(places[place], token),
            EOS,
        )
    return drawn


def rows_of(seed: int) -> list[FakeRow]:
    base = SamplingParams(temperature=0.7, top_p=0.95, logprobs=3)
    params = [base, replace(base, temperature=0.0), replace(base, repetition_penalty=1.2)]
    return [FakeRow(p, [1, 5 + n], seed=seed + n) for n, p in enumerate(params)]


@settings(max_examples=20)
@given(SEEDS)
def test_answers_are_bit_for_bit_those_without_guesses(seed):
    model, wild = FakeModel(seed), random.Random(seed)
    plain = run(model, rows_of(seed), 30, lambda row: [])

    def known(row):  # right guesses, some spoilt
        place, [right] = len(row.ids), [p for p, r in zip(plain, rows, strict=True) if r is row]
        ids = [token.id for token in right[place : place + 5]]
        return [id if wild.random() < 0.8 else wild.randrange(SIZE) for id in ids]

    for guess in (known, lambda row: lookup(row.prompt_ids + row.ids, 4), lambda row: [3] * 3):
        rows = rows_of(seed)
        assert run(model, rows, 30, guess) == plain
        assert [row.used for row in rows] == [30, 30, 30]


def test_tokens_follow_the_models_distribution_under_a_draft_that_is_wrong():
    params, number = SamplingParams(temperature=1.0, top_p=1.0), 500
    weights = torch.tensor([0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.4])
    target, draft = weights.log()[None], weights[[3, 1, 6, 0, 2, 4, 5]].log()[None]
    counts, agreed = torch.zeros(2, 7), 0
    uniforms = [Uniforms(random.Random(seed)) for seed in range(number)]
    rows = [FakeRow(params) for _ in range(number)]
    for row, own in zip(rows, uniforms, strict=True):
        row.uniform = own.take

    def push(index, token):
        rows[index].ids.append(token.id)
        return True

    for _ in range(40):  # 20,000 draws and more
        for row in rows:
            row.ids = []
        shadows = [Shadow(row, u.ahead(1)) for row, u in zip(rows, uniforms, strict=True)]
        guesses = [[token.id] for token in draw(draft.expand(number, 7), shadows, EOS)]
        agreed += sum(accept(target.expand(2 * number, 7), rows, guesses, push, EOS))
        for place in range(2):
            drawn = [row.ids[place] for row in rows if len(row.ids) > place]
            counts[place] += torch.bincount(torch.tensor(drawn), minlength=7)
    assert counts[0].sum() == 20_000
    assert 2_000 < agreed == counts[1].sum() < 18_000  # the draft is wrong, and sometimes right
    for place in counts:
        expected = weights.double() * place.sum()
        assert ((place - expected) ** 2 / expected).sum() < 22.5  # chi-square, 6 degrees, 0.1 %


def test_a_draft_with_the_models_own_logits_is_always_right():
    model, uniforms = FakeModel(1), Uniforms(random.Random(3))
    row = FakeRow(SamplingParams(temperature=1.0), [1, 7])
    row.uniform = uniforms.take
    shadow = Shadow(row, uniforms.ahead(4))
    for _ in range(4):
        [token] = draw(model.logits(shadow.prompt_ids + shadow.ids)[None], [shadow], EOS)
        shadow.push(token.id)
    known = [row.prompt_ids + shadow.ids[:n] for n in range(5)]
    logits = torch.stack([model.logits(ids) for ids in known])
    assert accept(logits, [row], [shadow.ids], lambda _, t: row.ids.append(t.id) or True, EOS) == [
        4
    ]
    assert row.ids[:4] == shadow.ids


def test_a_row_that_ends_draws_no_further():
    rows = [FakeRow(SamplingParams(temperature=0.0))]
    logits = torch.eye(4)[[3, 3, 3]]
    seen = []
    assert accept(logits, rows, [[3, 3]], lambda _, t: seen.append(t.id) or False, EOS) == [1]
    assert seen == [3]
    assert rows[0].used == 1


def test_a_row_that_fails_leaves_the_others_their_tokens():
    rows = [FakeRow(SamplingParams(temperature=0.0)) for _ in range(2)]
    logits = torch.eye(4)[[3, 3, 3, 3]]
    logits[1, 0] = torch.nan
    seen: list[tuple[int, int]] = []
    with pytest.raises(Undrawable) as caught:
        accept(logits, rows, [[3], [3]], lambda i, t: seen.append((i, t.id)) or True, EOS)
    assert list(caught.value.faults) == [0]
    assert sorted(seen) == [(0, 3), (1, 3), (1, 3)]


def scanned(ids: list[int], most: int) -> list[int]:
    """`lookup` by looking everywhere."""
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
    assert lookup(ids, most) == scanned(ids, most)


@given(st.lists(st.integers(0, 3), max_size=40))
def test_an_index_that_grows_finds_what_a_new_one_finds(ids):
    index = Lookup()
    for place, id in enumerate(ids, start=1):
        index.extend([id])
        assert index.propose(5) == lookup(ids[:place], 5)


def test_numbers_looked_at_ahead_are_the_ones_taken():
    uniforms, twin = Uniforms(random.Random(1)), Uniforms(random.Random(1))
    ahead = uniforms.ahead(3)
    assert uniforms.ahead(2) == ahead[:2]
    assert [uniforms.take() for _ in range(5)] == [twin.take() for _ in range(5)]
    assert ahead == [Uniforms(random.Random(1)).take(), *ahead[1:]]


def test_the_pace_rises_with_right_guesses_and_falls_with_wrong_ones():
    pace = Pace(most=8, cost=0.25)
    for _ in range(20):
        pace.learn(pace.length(), pace.length())
    assert pace.length() == 8
    for _ in range(60):
        pace.learn(pace.length(), 0)
    assert [pace.length() for _ in range(32)].count(0) == 30  # one guess in sixteen passes
