"""The native decoder against the transformer in torch, and against itself in other batches."""

from dataclasses import dataclass, field
from random import Random

import pytest
import torch
from models import ARGS, normal, random_model
from torch import Tensor

from puna.errors import InputError
from puna.kernels import native, pack
from puna.kernels.decoder import MOST_TOKENS, PLACES, Decoder
from puna.model.transformer import ModelArgs, RopeScaling, Transformer

pytestmark = pytest.mark.skipif(native.library() is None, reason="the kernels are not built")

SMALL = dict(n_layers=2, max_seq_len=64)
SHAPES = {
    "grouped": ModelArgs(dim=32, n_heads=4, n_kv_heads=2, vocab_size=384, multiple_of=16, **SMALL),
    "tied": ModelArgs(
        dim=48, n_heads=4, vocab_size=50, hidden_dim=72, tie_embeddings=True, **SMALL
    ),
    "window": ModelArgs(
        dim=160, n_heads=2, n_kv_heads=1, vocab_size=70, hidden_dim=90, sliding_window=5, **SMALL
    ),
    "odd": ModelArgs(
        dim=60, n_heads=10, n_kv_heads=1, vocab_size=97, hidden_dim=90, norm_eps=1e-3, **SMALL
    ),
    "stretched": ModelArgs(
        dim=64,
        n_heads=1,
        vocab_size=33,
        hidden_dim=64,
        rope_scaling=RopeScaling(original_max_seq_len=16),
        **SMALL,
    ),
}
N_BLOCKS = 24


@dataclass
class Row:
    """New tokens of one sequence."""

    tokens: list[int]
    start: int
    blocks: list[int]
    wanted: int
    adapter: str | None = field(default=None)


def decoder(model: Transformer, kind: str, **options) -> Decoder:
    """The model's native twin."""
    weights = dict(model.state_dict())
    return Decoder(model.args, weights.__getitem__, kind, N_BLOCKS, rope=model.rope, **options)


def rounded(model: Transformer, kind: str) -> Transformer:
    """The transformer with the weights that the decoder's codes stand for."""
    weights = dict(model.state_dict())
    for name, weight in weights.items():
        if weight.ndim == 2:
            edge = kind == "int4" and not name.startswith("layers")
            quantised = pack.quantise(weight, "int8" if edge else kind)
            weights[name] = pack.dense(*quantised)[:, : weight.shape[1]]
    twin = Transformer(model.args)
    twin.load_state_dict(weights)
    return twin.eval()


def expected(model: Transformer, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0]


def prompt(random: Random, args: ModelArgs, length: int) -> list[int]:
    return [random.randrange(args.vocab_size) for _ in range(length)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", native.KINDS)
def test_logits_are_those_of_the_transformer(shape: str, kind: str) -> None:
    model = random_model(SHAPES[shape])
    ids = prompt(Random(1), model.args, 50)
    found = decoder(model, kind).forward([Row(ids, 0, [9, 3, 20, 1], 50)])
    wanted = expected(rounded(model, kind), ids)
    # beside the weights' rounding: that of the cache (half), and of the activations (8 bits)
    bound = {"float32": 1e-5, "bfloat16": 2e-3}.get(kind, 0.1)
    assert float((found - wanted).norm() / wanted.norm()) < bound


@pytest.mark.parametrize("kind", native.KINDS)
@pytest.mark.parametrize("shape", ["grouped", "window", "odd"])
def test_a_token_has_the_same_bits_in_every_batch_and_cut(kind: str, shape: str) -> None:
    model, random = random_model(SHAPES[shape]), Random(2)
    ids = prompt(random, model.args, 60)
    whole = decoder(model, kind, threads=1, isa="plain").forward([Row(ids, 0, [0, 1, 2, 3], 60)])
    for isa in native.offered():
        runner = decoder(model, kind, threads=random.choice([1, 2, 3]), isa=isa)
        table = random.sample(range(N_BLOCKS), N_BLOCKS)
        found, at = [], 0
        while at < len(ids):
            count = min(len(ids) - at, random.choice([1, 1, 2, 5, 17, 30]))
            row = Row(ids[at : at + count], at, table[:4], count)
            others = [
                Row(prompt(random, model.args, length), 0, table[4 + 4 * n : 8 + 4 * n], 1)
                for n, length in enumerate(random.sample([1, 3, 20, 50], random.randrange(4)))
            ]
            found.append(runner.forward([*others, row])[len(others) :])
            at += count
        assert torch.equal(torch.cat(found), whole)


def test_long_rows_are_cut_into_several_calls() -> None:
    args = ModelArgs(
        dim=32, n_layers=1, n_heads=2, vocab_size=40, hidden_dim=32, max_seq_len=MOST_TOKENS + 64
    )
    model = random_model(args)
    runner = Decoder(args, model.state_dict().__getitem__, "int8", 80, rope=model.rope)
    ids = prompt(Random(3), args, MOST_TOKENS + 40)
    once = runner.forward([Row([1], 0, [79], 1), Row(ids, 0, list(range(70)), 45)])[1:]
    runner.forward([Row(ids[:-45], 0, list(range(70)), 0)])
    again = runner.forward([Row(ids[-45:], len(ids) - 45, list(range(70)), 45)])
    assert torch.equal(once, again)


def test_embeddings_are_the_hidden_states_after_the_last_norm() -> None:
    model = random_model(ARGS)
    ids = prompt(Random(4), ARGS, 20)
    found = decoder(model, "float32").embed([Row(ids, 0, [5, 6], 3)])
    with torch.no_grad():
        wanted = model.hidden(torch.tensor([ids]))[0, -3:]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_copied_block_serves_as_the_original() -> None:
    runner = decoder(random_model(ARGS), "bfloat16")
    ids = prompt(Random(5), ARGS, 20)
    runner.forward([Row(ids[:18], 0, [0, 1], 0)])
    runner.copy_block(1, 7)
    runner.copy_block(0, 8)
    one = runner.forward([Row(ids[18:], 18, [0, 1], 2)])
    assert torch.equal(runner.forward([Row(ids[18:], 18, [8, 7], 2)]), one)


def lora_pairs(args: ModelArgs, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of rank 3 for every matrix of every layer."""
    shapes = {
        name.removesuffix(".weight"): weight.shape
        for name, weight in Transformer(args).state_dict().items()
        if name.removesuffix(".weight").split(".", 2)[-1] in PLACES
    }
    return {
        name: (normal(seed + n, 3, cols, scale=0.2), normal(seed - n, rows, 3, scale=0.2))
        for n, (name, (rows, cols)) in enumerate(shapes.items())
    }


@pytest.mark.parametrize("shape", ["grouped", "odd"])
def test_adapted_rows_are_those_of_the_merged_model_and_others_stay(shape: str) -> None:
    model = random_model(SHAPES[shape])
    ids, pairs = prompt(Random(6), model.args, 20), lora_pairs(model.args, 50)
    merged = {**model.state_dict()}
    for name, (a, b) in pairs.items():
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + b @ a
    twin = Transformer(model.args)
    twin.load_state_dict(merged)
    runner = decoder(model, "float32", threads=2)
    base = runner.forward([Row(ids, 0, [0, 1], 20)])
    runner.add_adapter("other", lora_pairs(model.args, 90))
    runner.add_adapter("mine", pairs)
    rows = [Row(ids, 0, [2 * n, 2 * n + 1], 20, a) for n, a in enumerate(("mine", None, "other"))]
    adapted, plain, _ = runner.forward(rows).split(20)
    assert torch.equal(plain, base)
    torch.testing.assert_close(adapted, expected(twin.eval(), ids), rtol=1e-4, atol=1e-4)
    runner.remove_adapter("other")
    assert torch.equal(runner.forward([Row(ids, 0, [4, 5], 20, "mine")]), adapted)
    with pytest.raises(InputError, match="adapter is 'other'"):
        runner.forward([Row(ids, 0, [4, 5], 20, "other")])
    with pytest.raises(InputError, match="adapted matrix is 'output'"):
        runner.add_adapter("head", {"output": (torch.ones(1, 2), torch.ones(2, 1))})
    with pytest.raises(ValueError, match=r"expected \[rank"):
        runner.add_adapter("odd", {"layers.0.attention.wq": (torch.ones(1, 2), torch.ones(2, 1))})


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Row([384], 0, [0], 1), "token id is 384, expected 0..383"),
        (Row([-1], 0, [0], 1), "token id is -1"),
        (Row([1], 0, [N_BLOCKS], 1), "block id"),
        (Row([1], 0, [-1], 1), "block id"),
        (Row([1], 16, [0], 1), "1 blocks do not hold 17 tokens"),
        (Row([1] * 40, 0, [0, 1, 2], 1), "40 tokens, expected at most 32"),
        (Row([1], -1, [0], 1), "from -1 on"),
        (Row([], 0, [0], 0), "row of 0 tokens"),
        (Row([1], 0, [0], 2), "wants 2"),
    ],
)
def test_a_row_that_cannot_be_is_refused(row: Row, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        decoder(random_model(ARGS), "int8").forward([row])


def test_weights_of_another_shape_are_refused() -> None:
    model = random_model(ARGS)
    weights = {**model.state_dict(), "norm.weight": torch.ones(31)}
    with pytest.raises(ValueError, match=r"norm.weight has shape \[31\], expected \[32\]"):
        Decoder(ARGS, weights.__getitem__, "int8", 4, rope=model.rope)
