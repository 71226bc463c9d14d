"""Requests one by one: errors, ends, deadlines, figures, scores, embeddings, guesses."""

import time
from dataclasses import replace

import pytest
import torch

from puna.engine import step as step_module
from puna.engine.engine import Engine, Request
from puna.engine.packing import runner_for
from puna.engine.proposals import ROWS, Draft
from puna.engine.torch_runner import TorchRunner
from puna.errors import InputError
from puna.kernels import native
from puna.model.transformer import ModelArgs
from puna.text.completion import Grammar, SamplingParams
from tests.models import random_model
from tests.workloads import Arrival, FakeRunner, drive, joined

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
DRAWN = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=12, seed=3)
PROMPT = [1, *range(10, 50)]
ARGS = ModelArgs(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=384, multiple_of=16, max_seq_len=96
)


@pytest.fixture
def engine(tiny_tokenizer) -> Engine:
    return Engine(FakeRunner(), tiny_tokenizer, rows=8)


def answers(engine: Engine, *requests: Request) -> dict:
    found = drive(engine, [Arrival(request, 0) for request in requests])
    return {key: joined(outputs) for key, outputs in found.items()}


def last(engine: Engine, request: Request):
    return drive(engine, [Arrival(request, 0)])[request.id, 0][-1]


def test_a_request_is_answered_as_generate_answers_its_prompt(engine):
    [[expected]] = engine.generate_ids([PROMPT], DRAWN)
    drawn, text, finish, *_ = answers(engine, Request("a", PROMPT, DRAWN))["a", 0]
    assert tuple(token.id for token in drawn) == expected.ids
    assert tuple(token.logprob for token in drawn) == expected.logprobs
    assert (text.strip(), finish) == (expected.text, expected.finish)


def test_samples_of_a_request_are_those_of_generate(engine):
    [expected] = engine.generate_ids([PROMPT], DRAWN, n=4)
    found = answers(engine, Request("a", PROMPT, DRAWN, n=4))
    for sample, answer in enumerate(expected):
        assert tuple(token.id for token in found["a", sample][0]) == answer.ids


def test_samples_read_their_prompt_once(engine):
    answers(engine, Request("a", PROMPT, DRAWN, n=4))
    computed = sum(len(row.tokens) for row in engine.runner.rows[0])
    assert computed == len(PROMPT) and len(engine.runner.rows[0]) == 1


def test_a_pass_that_fails_ends_its_batch_and_frees_its_blocks(tiny_tokenizer):
    engine = Engine(FakeRunner(broken=300), tiny_tokenizer)
    found = drive(engine, [Arrival(Request("a", [1, 300], DRAWN, n=2), 0)])
    assert [found["a", k][-1].finish for k in (0, 1)] == ["error"] * 2
    assert isinstance(found["a", 0][-1].error, RuntimeError)
    assert engine.counters["failed"] == 2
    params = replace(DRAWN, logit_bias=((300, -100.0),))
    assert last(engine, Request("b", [1, 5], params)).finish in ("stop", "length")


def test_a_draw_that_fails_ends_its_request_only(engine, monkeypatch):
    draw = step_module.draw

    def failing(logits, rows, eos_id):
        if any(row.params.seed == 666 and len(row.ids) == 3 for row in rows):
            raise ValueError("this one cannot be drawn")
        return draw(logits, rows, eos_id)

    expected = answers(engine, Request("b", PROMPT, DRAWN))["b", 0]
    monkeypatch.setattr(step_module, "draw", failing)
    bad = Request("a", PROMPT, replace(DRAWN, seed=666, ignore_eos=True))
    found = answers(engine, bad, Request("b", PROMPT, DRAWN))
    assert found["a", 0][2] == "error" and len(found["a", 0][0]) == 3
    assert found["b", 0] == expected


def test_logits_that_are_not_finite_end_their_request_only(tiny_tokenizer):
    class Half(FakeRunner):
        def forward(self, rows):
            found = super().forward(rows)
            for place, row in enumerate(rows):
                found[place] += float("nan") if 77 in row.tokens else 0.0
            return found

    params = replace(DRAWN, logit_bias=((77, -100.0),))
    engine = Engine(Half(), tiny_tokenizer)
    found = answers(engine, Request("a", [1, 77], params), Request("b", [1, 5], params))
    alone = answers(Engine(FakeRunner(), tiny_tokenizer), Request("b", [1, 5], params))
    assert found["a", 0][2] == "error" and found["b", 0] == alone["b", 0]


def test_generate_raises_what_ended_an_answer_and_the_engine_goes_on(tiny_tokenizer):
    engine = Engine(FakeRunner(broken=300), tiny_tokenizer)
    with pytest.raises(RuntimeError, match="the pass failed"):
        engine.generate_ids([[1, 300], [1, 5]], replace(DRAWN, logit_bias=((300, -100.0),)))
    assert engine.idle and engine.blocks.used == 0


def test_a_deadline_ends_an_answer_that_runs_and_one_that_waits(tiny_tokenizer):
    engine = Engine(FakeRunner(), tiny_tokenizer, rows=1)
    params = replace(DRAWN, max_tokens=200, ignore_eos=True)
    for id in ("a", "b"):
        engine.add(Request(id, PROMPT, params, deadline=time.monotonic() + 0.05))
    outputs = engine.step()
    while not engine.idle:
        outputs += engine.step()
    assert {o.id: o.finish for o in outputs if o.finish} == {"a": "deadline", "b": "deadline"}
    assert engine.blocks.used == 0


def test_a_cancelled_request_says_nothing_more(engine):
    engine.add(Request("a", PROMPT, DRAWN, n=2))
    engine.step()
    assert [o.finish for o in engine.cancel("a")] == ["cancelled"] * 2
    assert engine.idle and engine.step() == [] and engine.cancel("a") == []


def test_an_id_can_be_used_again_when_its_request_is_over(engine):
    engine.add(Request("a", PROMPT, DRAWN))
    with pytest.raises(InputError, match="id 'a' is in use"):
        engine.add(Request("a", PROMPT, DRAWN))
    engine.cancel("a")
    assert answers(engine, Request("a", PROMPT, DRAWN))["a", 0][2] in ("stop", "length")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt_ids": []}, "prompt: no tokens"),
        ({"prompt_ids": [1] * 256}, "prompt: 256 tokens, expected fewer than the model's context"),
        ({"prompt_ids": [384]}, "prompt: holds a token that is not one of 0 to 383"),
        ({"prompt_ids": [-1]}, "prompt: holds a token that is not one of 0 to 383"),
        ({"n": 0}, "n: 0 given"),
        ({"adapter": "cat"}, "adapter 'cat' is unknown, expected other"),
        ({"prompt_logprobs": 21}, "prompt_logprobs: 21 given, expected 0 to 20"),
        ({"params": SamplingParams(stop_ids=(384,))}, "stop_ids: id 384"),
        ({"params": SamplingParams(grammar=Grammar("regex", "("))}, "invalid regex"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_in_one_line(engine, change, message):
    with pytest.raises(InputError, match=message) as caught:
        engine.add(Request(**{"id": "a", "prompt_ids": PROMPT, "params": DRAWN, **change}))
    assert "\n" not in str(caught.value) and engine.idle


def test_a_prompt_larger_than_the_cache_is_refused(tiny_tokenizer):
    engine = Engine(FakeRunner(2), tiny_tokenizer)
    with pytest.raises(InputError, match="prompt: 32 tokens, expected fewer than the cache's 32"):
        engine.add(Request("a", [1] * 32, DRAWN))


def test_a_grammar_holds(engine, tiny_tokenizer):
    params = replace(DRAWN, grammar=Grammar("regex", "(tea|coffee) please"), max_tokens=40)
    found = answers(engine, Request("a", PROMPT, params, n=3))
    assert {found["a", k][1].strip() for k in range(3)} <= {"tea please", "coffee please"}
    assert all(found["a", k][2] == "stop" for k in range(3))


def test_prompt_logprobs_are_those_of_a_full_pass_however_the_prompt_is_cut(tiny_tokenizer):
    model = random_model(ARGS)
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT]))[0].log_softmax(-1)
    for chunk in (5, 16, 100):
        engine = Engine(TorchRunner(model, 30), tiny_tokenizer, chunk=chunk)
        answers(engine, Request("before", PROMPT, DRAWN))  # its cached blocks are of no use
        [[first, *scored]] = answers(engine, Request("a", PROMPT, DRAWN, prompt_logprobs=2))[
            "a", 0
        ][4]
        assert first is None and [token.id for token in scored] == PROMPT[1:]
        for row, token in zip(expected[:-1], scored, strict=True):
            assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
            assert [id for id, _ in token.tops] == row.topk(2).indices.tolist()


def test_timings_and_counters_say_what_was_done(engine):
    last(engine, Request("a", PROMPT, GREEDY))
    timings = last(engine, Request("b", PROMPT, GREEDY)).timings
    assert (timings["prompt_tokens"], timings["cached_tokens"]) == (41, 32)
    parts = timings["queue_seconds"] + timings["prompt_seconds"]
    assert 0 <= parts == pytest.approx(timings["first_token_seconds"])
    assert timings["first_token_seconds"] <= timings["seconds"]
    counters = engine.counters
    assert counters["finished"] == 2 and counters["cached_tokens"] == 32
    assert counters["blocks"] == counters["blocks_free"] + counters["blocks_cached"] == 64


def test_guesses_are_accepted_where_a_text_repeats_itself(engine):
    params = replace(GREEDY, max_tokens=200, ignore_eos=True)
    plain = answers(engine, Request("a", [7], params, speculate=False))["a", 0]
    steps = engine.counters["steps"]
    assert answers(engine, Request("b", [7], params))["b", 0] == plain
    assert engine.counters["accepted"] > 60
    assert engine.counters["steps"] - steps < 0.7 * steps


def test_a_draft_that_agrees_saves_most_steps(tiny_tokenizer):
    engine = Engine(FakeRunner(), tiny_tokenizer, draft=FakeRunner())
    params = replace(DRAWN, max_tokens=90, ignore_eos=True)
    plain = Engine(FakeRunner(), tiny_tokenizer)
    expected = answers(plain, Request("a", PROMPT, params, speculate=False))
    assert answers(engine, Request("a", PROMPT, params)) == expected
    assert engine.counters["proposed"] == engine.counters["accepted"] > 60


def test_a_draft_that_fails_costs_no_answer(tiny_tokenizer, capsys):
    engine = Engine(FakeRunner(), tiny_tokenizer, draft=FakeRunner(broken=PROMPT[0]))
    expected = answers(Engine(FakeRunner(), tiny_tokenizer), Request("a", PROMPT, DRAWN))
    assert answers(engine, Request("a", PROMPT, DRAWN)) == expected
    assert "the draft model failed" in capsys.readouterr().err


def test_a_draft_of_another_vocabulary_is_refused(tiny_tokenizer):
    other = FakeRunner()
    other.vocab_size = 100
    with pytest.raises(
        InputError, match="draft: a vocabulary of 100 ids, expected the model's 384"
    ):
        Engine(FakeRunner(), tiny_tokenizer, draft=other)


def test_a_large_batch_is_not_guessed_for(engine):
    params = replace(GREEDY, max_tokens=60, ignore_eos=True)
    requests = [Request(str(k), [7 + k], params) for k in range(ROWS + 1)]
    answers(engine, *requests)
    assert engine.counters["proposed"] == 0


def test_embeddings_are_the_model_s_hidden_states(tiny_tokenizer):
    model = random_model(ARGS)
    engine = Engine(model, tiny_tokenizer, chunk=7)
    prompts = [PROMPT, [1, 5]]
    found = engine.embed(prompts), engine.embed(prompts, pool="mean")
    for place, prompt in enumerate(prompts):
        with torch.no_grad():
            hidden = model.hidden(torch.tensor([prompt]))[0]
        assert torch.allclose(found[0][place], hidden[-1], atol=1e-4)
        assert torch.allclose(found[1][place], hidden.mean(0), atol=1e-4)
    assert engine.blocks.used == 0


def test_a_stream_that_is_left_gives_its_blocks_back(engine):
    stream = engine.stream(PROMPT, DRAWN)
    next(stream)
    assert engine.blocks.used > 0
    stream.close()
    assert engine.blocks.used == 0 and engine.idle


def test_a_stream_and_requests_do_not_take_each_other_s_tokens(engine):
    params = replace(DRAWN, ignore_eos=True)
    alone = list(engine.stream(PROMPT, params))
    expected = answers(engine, Request("a", [1, 9], params))
    engine.add(Request("a", [1, 9], params))
    assert list(engine.stream(PROMPT, params)) == alone
    outputs = []
    while not engine.idle:
        outputs += engine.step()
    assert joined(outputs) == expected["a", 0]


def test_weights_cannot_change_while_an_answer_runs(tiny_tokenizer):
    engine = Engine(random_model(ARGS), tiny_tokenizer)
    engine.add(Request("a", PROMPT, DRAWN))
    with pytest.raises(RuntimeError, match="weights cannot change"):
        engine.load(random_model(ARGS, 1))
    engine.cancel("a")


@pytest.mark.parametrize("packed", [False, True])
def test_other_weights_find_no_prefix_of_the_old_ones(tiny_tokenizer, packed):
    if packed and native.available() is None:
        pytest.skip("needs the native kernels")
    first, second = random_model(ARGS), random_model(ARGS, 1)
    runner = runner_for(first, "float32", 20, 1) if packed else TorchRunner(first, 20)
    engine = Engine(runner, tiny_tokenizer)
    answers(engine, Request("a", PROMPT, GREEDY))
    engine.load(second)
    output = last(engine, Request("b", PROMPT, GREEDY))
    assert output.timings["cached_tokens"] == 0
    fresh = Engine(second, tiny_tokenizer).generate_ids([PROMPT], GREEDY)[0][0]
    found = engine.generate_ids([PROMPT], GREEDY)[0][0]
    assert found.ids == fresh.ids


def test_a_draft_reads_a_long_prompt_piece_by_piece(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("puna.engine.proposals.CHUNK", 16)
    engine = Engine(FakeRunner(), tiny_tokenizer, draft=FakeRunner())
    params = replace(DRAWN, max_tokens=30, ignore_eos=True)
    answers(engine, Request("a", PROMPT, params))
    assert isinstance(engine.guesses.draft, Draft)
    lengths = [len(row.tokens) for rows in engine.guesses.draft.runner.rows for row in rows]
    assert max(lengths) == 16 and engine.counters["accepted"] > 0


@pytest.mark.parametrize("tokens", [2, 5, 12])
def test_guesses_are_counted_up_to_the_step_that_ends_the_answer(tiny_tokenizer, tokens):
    engine = Engine(FakeRunner(), tiny_tokenizer, draft=FakeRunner())
    params = replace(DRAWN, max_tokens=tokens, ignore_eos=True)
    timings = last(engine, Request("a", PROMPT, params)).timings
    checked = [row for [row] in engine.runner.rows[1:]]  # behind the prompt's own pass
    guessed = sum(len(row.tokens) - 1 for row in checked)
    steps = len(engine.runner.rows)
    assert (timings["proposed"], timings["accepted"]) == (guessed, tokens - steps)
    assert engine.counters["proposed"] == guessed == engine.counters["accepted"]
