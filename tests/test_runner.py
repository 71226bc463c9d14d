"""Runners against the model's own pass without a cache: pages, rows of any shape, adapters."""

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.engine.engine import Engine
from puna.engine.packing import LiveDecoder, runner_for, tensor_of
from puna.engine.runner import Row
from puna.engine.torch_runner import TorchRunner, moves
from puna.errors import InputError
from puna.kernels import native
from puna.kernels.decoder import Decoder
from puna.model import lora
from puna.model.quantised import Int8Linear
from puna.model.transformer import ModelArgs
from puna.text.completion import SamplingParams
from tests.models import generator, random_model

ARGS = ModelArgs(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=96, multiple_of=16, max_seq_len=96
)
LARGER = dataclasses.replace(ARGS, vocab_size=384)  # for a tokenizer's ids
NATIVE = native.available() is not None
needs_native = pytest.mark.skipif(not NATIVE, reason="needs the native kernels")


@pytest.fixture(scope="module")
def model():
    return random_model(ARGS, seed=4)


def tokens(seed: int, count: int) -> list[int]:
    return torch.randint(ARGS.vocab_size, (count,), generator=generator(seed)).tolist()


@torch.no_grad()
def expected(model, text: list[int], wanted: int) -> torch.Tensor:
    return model(torch.tensor([text]))[0, len(text) - wanted :]


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.dtype == torch.float32 and torch.allclose(found, wanted, atol=2e-4, rtol=1e-3)


def runners(model) -> list:
    return [TorchRunner(model, 24), *([runner_for(model, "float32", 24, 1)] if NATIVE else [])]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_texts_computed_in_any_pieces_and_company_have_the_model_s_logits(model, seed):
    draw = random.Random(seed)
    texts = [tokens(seed + k, draw.randint(2, 60)) for k in range(4)]
    table = list(range(24))
    draw.shuffle(table)
    blocks = [table[6 * k : 6 * k + 4] for k in range(4)]
    names = [draw.choice([0, k + 1]) for k in range(4)]
    for runner in runners(model):
        done = [0] * 4
        while any(count < len(text) for count, text in zip(done, texts, strict=True)):
            rows, owners = [], []
            for k, text in enumerate(texts):
                left = len(text) - done[k]
                if left == 0 or draw.random() < 0.3:
                    continue
                count = draw.choice([1, 1, 1, min(3, left), draw.randint(1, left)])
                piece = text[done[k] : done[k] + count]
                wanted = draw.randint(0, count)
                rows.append(Row(piece, done[k], blocks[k], wanted, owner=names[k]))
                owners.append(k)
            if not rows:
                continue
            order = list(range(len(rows)))
            draw.shuffle(order)
            rows, owners = [rows[i] for i in order], [owners[i] for i in order]
            found = runner.forward(rows).split([row.wanted for row in rows])
            for row, k, part in zip(rows, owners, found, strict=True):
                done[k] += len(row.tokens)
                assert close(part, expected(model, texts[k][: done[k]], row.wanted))


def test_a_wrong_guess_is_overwritten(model):
    for runner in runners(model):
        text, wrong = tokens(1, 20), [5, 6, 7]
        runner.forward([Row(text[:10], 0, [3, 5], 1, owner=1)])
        runner.forward([Row([text[10], *wrong], 10, [3, 5], 4, owner=1)])
        for place in range(11, 20):
            found = runner.forward([Row([text[place]], place, [3, 5], 1, owner=1)])
            assert close(found, expected(model, text[: place + 1], 1))


def test_a_copied_block_goes_its_own_way(model):
    for runner in runners(model):
        text = tokens(2, 30)
        runner.forward([Row(text[:20], 0, [0, 1], 1)])
        runner.copy_block(1, 2)
        rows = [Row(text[20:], 20, [0, 1], 1, owner=1), Row([9, 9], 20, [0, 2], 1, owner=2)]
        found = runner.forward(rows)
        assert close(found[:1], expected(model, text, 1))
        assert close(found[1:], expected(model, [*text[:20], 9, 9], 1))


def test_a_row_at_the_end_of_the_context_stands_beside_longer_ones(model):
    text, other = tokens(3, 96), tokens(4, 40)
    for runner in runners(model):
        first, second = list(range(6)), list(range(6, 9))
        runner.forward([Row(text[:94], 0, first, 0), Row(other[:30], 0, second, 0)])
        rows = [Row([text[94]], 94, first, 1, owner=1), Row(other[30:34], 30, second, 4, owner=2)]
        found = runner.forward(rows)
        assert close(found[:1], expected(model, text[:95], 1))
        assert close(found[1:], expected(model, other[:34], 4))
        rows = [Row([text[95]], 95, first, 1, owner=1), Row([other[34]], 34, second, 1, owner=2)]
        found = runner.forward(rows)
        assert close(found[:1], expected(model, text, 1))
        assert close(found[1:], expected(model, other[:35], 1))


def test_what_stood_in_a_block_before_cannot_be_seen_even_if_it_was_not_a_number(model):
    runner = TorchRunner(model, 4)
    with torch.inference_mode():
        runner.pages.fill_(float("nan"))
    text = tokens(5, 20)
    runner.forward([Row(text[:18], 0, [0, 1], 1, owner=1)])
    found = runner.forward([Row(text[18:19], 18, [0, 1], 1, owner=1)])
    assert close(found, expected(model, text[:19], 1))


def test_embeddings_are_the_hidden_states_before_the_output_matrix(model):
    for runner in runners(model):
        text = tokens(6, 12)
        found = runner.embed([Row(text, 0, [1], 12)])
        with torch.no_grad():
            wanted = model.hidden(torch.tensor([text]))[0]
        assert close(found, wanted)


def test_each_row_is_computed_by_its_adapter(model):
    adapted = lora.attach(lora.share(model), lora.LoraConfig(rank=2), generator(1))
    with torch.no_grad():
        for name, tensor in lora.adapter_tensors(adapted).items():
            if name.endswith("lora_b"):
                tensor.normal_(generator=generator(2))
    runner = TorchRunner(model, 8)
    runner.add_adapter("cat", adapted)
    text = tokens(7, 20)
    tables = {None: [0, 1], "cat": [2, 3]}
    runner.forward([Row(text[:18], 0, table, 0, name) for name, table in tables.items()])
    for place in (18, 19):
        rows = [
            Row([text[place]], place, t, 1, name, k)
            for k, (name, t) in enumerate(tables.items(), 1)
        ]
        found = runner.forward(rows)
        assert close(found[:1], expected(model, text[: place + 1], 1))
        assert close(found[1:], expected(adapted, text[: place + 1], 1))
    runner.remove_adapter("cat")
    assert list(runner.adapters) == []


def test_an_adapter_of_another_shape_is_refused(model):
    with pytest.raises(InputError, match="adapter cat: made for a model of another shape"):
        other = random_model(ModelArgs(**{**vars(ARGS), "n_layers": 1}))
        TorchRunner(model, 4).add_adapter("cat", other)


def test_a_sliding_window_is_kept():
    args = ModelArgs(**{**vars(ARGS), "sliding_window": 8})
    model = random_model(args, seed=2)
    text = tokens(8, 40)
    runner = TorchRunner(model, 4)
    runner.forward([Row(text[:30], 0, [0, 1, 2], 1)])
    for place in range(30, 40):
        found = runner.forward([Row([text[place]], place, [0, 1, 2], 1, owner=1)])
        assert close(found, expected(model, text[: place + 1], 1))


def test_a_cache_that_grows_keeps_what_it_holds(model):
    runner = TorchRunner(model)
    runner.reserve(2)
    text = tokens(9, 30)
    runner.forward([Row(text[:20], 0, [1, 0], 0)])
    runner.reserve(3)
    found = runner.forward([Row(text[20:], 20, [1, 0], 1)])
    assert close(found, expected(model, text, 1))


@pytest.mark.parametrize("base", ["none", "int8", "nf4"])
@needs_native
def test_an_adapted_or_quantised_model_is_packed_as_it_computes(base):
    model = lora.attach(random_model(ARGS), lora.LoraConfig(rank=2, base=base), generator(1))
    with torch.no_grad():
        for tensor in lora.adapter_tensors(model).values():
            tensor.normal_(std=0.2, generator=generator(2))
    text = tokens(10, 20)
    runner = runner_for(model, "float32", 4, 1)
    assert isinstance(runner, Decoder)
    assert close(runner.forward([Row(text, 0, [0, 1], 20)]), expected(model, text, 20))


def test_a_weight_is_found_by_meta_s_name(model):
    name = "layers.1.feed_forward.w2.weight"
    assert torch.equal(tensor_of(model, name), model.layers[1].feed_forward.w2.weight)


def test_a_module_in_training_computes_itself(model):
    runner = runner_for(model)
    assert isinstance(runner, TorchRunner) and runner.elastic


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_what_the_processor_does(model):
    text = tokens(11, 40)
    runner = TorchRunner(random_model(ARGS, seed=4).cuda(), 8)
    runner.forward([Row(text[:20], 0, [0, 1, 2], 0, owner=1)])
    for place in range(20, 40):
        found = runner.forward([Row([text[place]], place, [0, 1, 2], 1, owner=1)]).cpu()
        assert torch.allclose(found, expected(model, text[: place + 1], 1), atol=1e-3)


@given(st.lists(st.booleans(), max_size=30))
def test_moves_leave_every_running_row_in_the_first_places(ended):
    rows = list(range(len(ended)))
    finished = [row for row in rows if ended[row]]
    alive = [row for row in rows if not ended[row]]
    for source, target in moves(finished, len(rows)):
        rows[target] = source
    assert sorted(rows[: len(alive)]) == alive


@needs_native
def test_a_module_in_training_is_packed_anew_for_each_call(tiny_tokenizer):
    model, other = random_model(LARGER, seed=1), random_model(LARGER, seed=2)
    engine = Engine(model, tiny_tokenizer, rows=4)
    assert isinstance(engine.runner, LiveDecoder)
    prompts, params = [[1, 5, 9], [1, 7]], SamplingParams(temperature=0, max_tokens=8)
    before = engine.generate_ids(prompts, params)
    with torch.no_grad():
        for weight, target in zip(model.parameters(), other.parameters(), strict=True):
            weight.copy_(target)
    wanted = Engine(other, tiny_tokenizer, rows=4).generate_ids(prompts, params)
    assert engine.generate_ids(prompts, params) == wanted != before


@needs_native
def test_a_quantised_trunk_in_training_is_not_packed(tiny_tokenizer):
    model = random_model(LARGER, seed=1)
    model.layers[0].feed_forward.w1 = Int8Linear(model.layers[0].feed_forward.w1.weight)
    assert isinstance(Engine(model, tiny_tokenizer).runner, TorchRunner)


@needs_native
def test_a_cache_that_is_resized_keeps_what_was_there(model):
    runner = runner_for(model, "float32", 2, 1)
    whole = runner_for(model, "float32", 4, 1).forward([Row(range(1, 30), 0, [0, 1], 1)])
    runner.forward([Row(range(1, 29), 0, [0, 1], 0)])
    runner.resize(9)
    assert torch.equal(runner.forward([Row([29], 28, [0, 1], 1)]), whole)
