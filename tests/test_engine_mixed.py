"""An answer is bit for bit the same alone and in any company, on a runner that is exact."""

import functools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from puna.engine.engine import Engine
from puna.engine.packing import runner_for
from puna.kernels import native
from puna.model import lora
from puna.model.transformer import ModelArgs
from tests.models import generator, normal, random_model
from tests.workloads import Answers, Arrival, FakeRunner, Workload, drive, joined, random_workload

CONTEXT = 256


def engine_of(work: Workload, tokenizer, runner=None, draft=None) -> Engine:
    runner = runner or FakeRunner(work.blocks, CONTEXT)
    return Engine(runner, tokenizer, work.rows, chunk=work.chunk, draft=draft)


def compare(work: Workload, mixed: Answers, alone) -> int:
    """Every answer of the mix against the same request alone; how many were compared."""
    for arrival in work.arrivals:
        expected = alone(Arrival(arrival.request, 0))
        for sample in range(arrival.request.n):
            key = (arrival.request.id, sample)
            if key not in mixed:
                assert arrival.cancelled is not None
                continue
            drawn, text, finish, *rest = joined(mixed[key])
            its_drawn, its_text, its_finish, *its_rest = joined(expected[key])
            if finish == "cancelled":
                assert drawn == its_drawn[: len(drawn)] and its_text.startswith(text)
            else:
                assert (drawn, text, finish, rest) == (its_drawn, its_text, its_finish, its_rest)
    return len(mixed)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=SLOW) for part in range(1, 8))])
def test_200_random_workloads_answer_as_each_request_alone(part, tiny_tokenizer):
    seen: Counter[str] = Counter()
    for seed in range(part * 25, part * 25 + 25):
        work = random_workload(seed, CONTEXT)
        engine = engine_of(work, tiny_tokenizer)
        mixed = drive(engine, work.arrivals)
        seen += Counter(engine.counters)
        compare(work, mixed, lambda one, work=work: drive(engine_of(work, tiny_tokenizer), [one]))
    # each of what could go wrong has happened
    for name in ("preemptions", "cancelled", "cached_tokens", "accepted", "blocks_evicted"):
        assert seen[name] > 0, name


@given(seed=st.integers(1000, 10**9))
@settings(max_examples=15)
def test_a_draft_model_changes_no_answer(tiny_tokenizer, seed):
    work = random_workload(seed, CONTEXT)
    engine = engine_of(work, tiny_tokenizer, draft=FakeRunner(20, 100))
    mixed = drive(engine, work.arrivals)
    compare(work, mixed, lambda one: drive(engine_of(work, tiny_tokenizer), [one]))
    assert engine.guesses.draft.blocks.used == 0 and engine.guesses.draft.failures == 0


def native_runner(kind: str, blocks: int):
    """A small model, packed, with an adapter that says something else."""
    args = ModelArgs(
        dim=64, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=384, multiple_of=32, max_seq_len=256
    )
    model = random_model(args, seed=1)
    runner = runner_for(model, kind, blocks, threads=1)
    adapted = lora.attach(model, lora.LoraConfig(rank=2), generator(3))
    pairs: dict[str, list[Tensor]] = {}
    for name, tensor in lora.adapter_tensors(adapted).items():
        place, _, which = name.rpartition(".")
        drawn = tensor if which == "lora_a" else normal(len(pairs), *tensor.shape)
        pairs.setdefault(place, []).append(drawn.detach())
    runner.add_adapter("other", {place: (a, b) for place, (a, b) in pairs.items()})
    return runner


@pytest.mark.skipif(native.available() is None, reason="needs the native kernels")
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=SLOW) for part in range(1, 25))])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_the_native_decoder_answers_random_workloads_as_each_request_alone(
    kind, part, tiny_tokenizer
):
    packed = functools.cache(lambda blocks: native_runner(kind, blocks))

    for seed in range(8 * part, 8 * part + 8):
        work = random_workload(seed, CONTEXT)
        mixed = drive(engine_of(work, tiny_tokenizer, packed(work.blocks)), work.arrivals)
        fresh = functools.partial(engine_of, work, tiny_tokenizer, packed(work.blocks))
        compare(work, mixed, lambda one, fresh=fresh: drive(fresh(), [one]))
