"""The transformer against transformers' Llama, its cache, its heads, and the sizes of the paper."""

import dataclasses

import pytest
import torch
from torch import Tensor

from puna.errors import InputError
from puna.model.heads import RewardModel, ValueModel
from puna.model.presets import PRESETS, cache_bytes_per_token, parameter_count, preset
from puna.model.transformer import Cache, ModelArgs, Transformer
from tests.models import generator, random_model, their_llama

ARGS = ModelArgs(
    dim=64, n_layers=3, n_heads=8, n_kv_heads=2, vocab_size=97, multiple_of=16, max_seq_len=64
)


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, ARGS.vocab_size, (rows, length), generator=generator(seed))


# --- against transformers


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kv_heads", [None, 2, 1], ids=["mha", "gqa", "mqa"])
def test_logits_are_those_of_transformers_llama(kv_heads):
    args = dataclasses.replace(ARGS, n_kv_heads=kv_heads)
    ours = random_model(args)
    theirs = their_llama(ours)
    batch = tokens(3, 40)
    with torch.no_grad():
        difference = (ours(batch) - theirs(batch).logits).abs().max().item()
        spread = ours(batch).std().item()
    assert spread > 0.5, "logits that hardly vary would prove nothing"
    assert difference <= 1e-4


# --- properties of the forward pass


def test_logits_of_a_token_do_not_depend_on_what_follows():
    model, batch = random_model(ARGS), tokens(2, 20)
    changed = batch.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % ARGS.vocab_size
    with torch.no_grad():
        assert torch.allclose(model(batch)[:, :12], model(changed)[:, :12], atol=1e-5)
        assert not torch.allclose(model(batch)[:, 12:], model(changed)[:, 12:], atol=1e-2)


def test_positions_shift_together_without_changing_the_logits():
    model, batch = random_model(ARGS), tokens(2, 10)
    positions = torch.arange(10).expand(2, 10)
    with torch.no_grad():
        assert torch.allclose(model(batch), model(batch, positions + 30), atol=1e-4)


def test_decoding_token_by_token_from_a_cache_equals_the_full_forward():
    model, batch = random_model(ARGS), tokens(3, 16)
    cache = Cache(ARGS, rows=3, length=16)
    with torch.no_grad():
        full = model(batch)
        steps = [model(batch[:, t : t + 1], torch.full((3, 1), t), cache=cache) for t in range(16)]
    assert torch.allclose(torch.cat(steps, dim=1), full, atol=1e-4)


def test_a_prompt_in_one_pass_and_then_single_tokens_equals_the_full_forward():
    model, batch = random_model(ARGS), tokens(2, 16)
    cache = Cache(ARGS, rows=2, length=24)
    with torch.no_grad():
        full = model(batch)
        prompt = model(batch[:, :10], torch.arange(10).expand(2, 10), cache=cache)
        rest = [
            model(batch[:, t : t + 1], torch.full((2, 1), t), cache=cache) for t in range(10, 16)
        ]
    assert torch.allclose(torch.cat([prompt, *rest], dim=1), full, atol=1e-4)


def test_rows_of_a_cache_may_stand_at_different_positions_and_be_chosen():
    model, batch = random_model(ARGS), tokens(2, 12)
    cache = Cache(ARGS, rows=5, length=16)
    with torch.no_grad():
        full = model(batch)
        for row, index, length in ((4, 0, 5), (1, 1, 9)):  # prompts of 5 and 9 tokens
            cache.rows = torch.tensor([row])
            place = torch.arange(length)[None]
            model(batch[index : index + 1, :length], place, cache=cache)
        cache.rows, cache.used = torch.tensor([4, 1]), 10
        next_tokens = torch.stack([batch[0, 5:6], batch[1, 9:10]])
        out = model(next_tokens, torch.tensor([[5], [9]]), cache=cache)
    assert torch.allclose(out[0, 0], full[0, 5], atol=1e-4)
    assert torch.allclose(out[1, 0], full[1, 9], atol=1e-4)


def test_packed_documents_under_a_mask_give_the_logits_of_each_alone():
    model = random_model(ARGS)
    lengths = (7, 4, 9)
    documents = [tokens(1, n, seed) for seed, n in enumerate(lengths)]
    number = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    causal = torch.ones(20, 20, dtype=torch.bool).tril()
    mask = (causal & (number[:, None] == number[None]))[None, None]
    with torch.no_grad():
        packed = model(torch.cat(documents, dim=1), positions, mask)
        alone = torch.cat([model(document) for document in documents], dim=1)
    assert torch.allclose(packed, alone, atol=1e-4)


def test_init_weights_gives_the_same_model_for_the_same_seed():
    one, two, other = (Transformer(ARGS).init_weights(generator(s)) for s in (1, 1, 2))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name])
    assert not torch.equal(one.output.weight, other.output.weight)


def test_init_weights_makes_the_first_loss_that_of_a_uniform_guess():
    model, batch = Transformer(ARGS).init_weights(generator()), tokens(4, 32)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten())
    assert loss.item() == pytest.approx(torch.tensor(97.0).log().item(), abs=0.1)


# --- heads


def test_a_reward_is_a_line_through_the_last_hidden_state():
    model = RewardModel(random_model(ARGS), generator(3))
    batch, last = tokens(2, 8), torch.tensor([3, 7])
    with torch.no_grad():
        model.head.bias.fill_(0.25)
        hidden = model.transformer.hidden(batch).double()
        expected = [(hidden[i, t] * model.head.weight[0]).sum() + 0.25 for i, t in enumerate(last)]
        scores = model(batch, last)
    assert scores.shape == (2,)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx([x.item() for x in expected], abs=1e-5)


def test_a_reward_with_peaks_adds_the_largest_value_of_each_feature_up_to_the_last_token():
    model = RewardModel(random_model(ARGS), generator(3), "last+max")
    batch, last = tokens(2, 8), torch.tensor([3, 7])
    with torch.no_grad():
        hidden = model.transformer.hidden(batch).double()
        read = [hidden[i, t] + hidden[i, : t + 1].max(dim=0).values for i, t in enumerate(last)]
        expected = [(x * model.head.weight[0]).sum().item() for x in read]
        assert model(batch, last).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pool", ["last", "last+max"])
def test_a_reward_does_not_see_the_padding_after_the_last_token(pool):
    model = RewardModel(random_model(ARGS), generator(3), pool)
    batch, last = tokens(2, 8), torch.tensor([3, 5])
    padded = torch.cat([batch, tokens(2, 4, seed=9)], dim=1)
    padded[0, 4:] = 0
    with torch.no_grad():
        assert torch.allclose(model(batch, last), model(padded, last), atol=1e-5)


def test_a_new_head_is_small_has_mean_zero_and_comes_from_its_generator():
    wide = dataclasses.replace(ARGS, dim=1024, n_layers=1)
    one, two = (RewardModel(Transformer(wide), generator(1)).head for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    assert one.weight.std().item() == pytest.approx(1 / 1025**0.5, rel=0.1)
    assert abs(one.weight.mean().item()) < 4 / 1025
    assert one.bias.item() == 0


def test_a_head_without_a_generator_is_zero():
    model = ValueModel(random_model(ARGS))
    assert torch.equal(model(tokens(2, 5)), torch.zeros(2, 5))


def test_values_are_given_for_every_token_and_have_no_bias():
    model = ValueModel(random_model(ARGS), generator(4))
    with torch.no_grad():
        values = model(tokens(2, 6))
        hidden = model.transformer.hidden(tokens(2, 6))
    assert torch.allclose(values, (hidden * model.head.weight[0]).sum(-1), atol=1e-4)
    assert model.head.bias is None


def test_a_last_index_beyond_the_row_is_refused():
    model = RewardModel(random_model(ARGS))
    with pytest.raises(ValueError, match=r"last is \[3, 8\], rows are 8 tokens long"):
        model(tokens(2, 8), torch.tensor([3, 8]))


# --- sizes of the paper


@pytest.mark.parametrize(
    ("name", "parameters", "width", "cache"),
    [
        ("llama2-7b", 6_738_415_616, 11008, 524_288),
        ("llama2-13b", 13_015_864_320, 13824, 819_200),
        ("llama2-34b", 33_743_970_304, 22016, 196_608),
        ("llama2-70b", 68_976_648_192, 28672, 327_680),
    ],
)
def test_a_preset_has_the_size_of_the_released_model(name, parameters, width, cache):
    args = preset(name)
    assert parameter_count(args) == parameters
    assert args.ffn_dim == width
    assert args.head_dim == 128
    assert args.max_seq_len == 4096
    assert cache_bytes_per_token(args) == cache


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_count_is_the_number_of_weights_of_the_built_model(name):
    with torch.device("meta"):
        model = Transformer(preset(name))
    assert sum(p.numel() for p in model.parameters()) == parameter_count(preset(name))


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(InputError, match=r"unknown model size 'llama3', expected one of llama1-7b"):
        preset("llama3")
