"""Adapters: what they compute, what they share, what they leave untouched, what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from puna.errors import InputError
from puna.model import lora, memory
from puna.model.heads import RewardModel, ValueModel
from puna.model.lora import LoraConfig
from puna.model.quantised import BLOCK, Int8Linear, Nf4Linear, nf4_book, quantise, stored_bytes
from puna.model.transformer import ModelArgs, Transformer
from puna.numerics.optim import OptimConfig, adamw
from tests.models import ARGS, generator, new_model, normal

CONFIG = LoraConfig(rank=4, alpha=8)
TOKENS = torch.arange(40).view(2, 20)


def adapted(seed: int = 0, config: LoraConfig = CONFIG) -> Transformer:
    """A model with adapters that do something: B is not zero."""
    model = lora.attach(new_model(seed), config, generator(seed + 1))
    for number, tensor in enumerate(lora.adapter_tensors(model).values()):
        tensor.data.copy_(normal(100 * seed + number, *tensor.shape, scale=0.1))
    return model


def pointers(model: nn.Module) -> set[int]:
    """Where the frozen tensors of a model are in memory."""
    return {p.data_ptr() for p in model.parameters() if not p.requires_grad}


def train(model: Transformer, steps: int = 3) -> None:
    optimizer = adamw(model, OptimConfig(lr=1e-2))
    for _ in range(steps):
        model(TOKENS).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


# --- what an adapter computes


def test_a_new_adapter_changes_nothing():
    model = lora.attach(new_model(), CONFIG, generator(1))
    assert torch.equal(model(TOKENS), new_model()(TOKENS))


def test_an_adapted_layer_adds_the_scaled_product_of_its_matrices():
    base = nn.Linear(6, 5, bias=False)
    layer = lora.LoraLinear(base, LoraConfig(rank=2, alpha=3), generator())
    layer.lora_b.data.copy_(normal(1, 5, 2))
    x = normal(2, 7, 6)
    a, b, w = (t.detach().double().numpy() for t in (layer.lora_a, layer.lora_b, base.weight))
    wide = x.double().numpy()
    wanted = wide @ w.T + 1.5 * (wide @ a.T) @ b.T
    assert np.abs(layer(x).detach().numpy() - wanted).max() < 1e-6


def test_a_is_drawn_evenly_up_to_one_over_the_root_of_the_width_and_b_is_zero():
    base = nn.Linear(400, 10, bias=False)
    layer = lora.LoraLinear(base, LoraConfig(rank=64), generator())
    bound = 1 / math.sqrt(400)  # Kaiming's uniform with a = sqrt(5)
    assert layer.lora_a.abs().max() <= bound
    assert layer.lora_a.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not layer.lora_b.any()


def test_the_same_generator_draws_the_same_adapter():
    one, two = (lora.attach(new_model(), CONFIG, generator(5)) for _ in range(2))
    a, b = lora.adapter_tensors(one), lora.adapter_tensors(two)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_only_the_named_matrices_get_an_adapter():
    config = LoraConfig(rank=2, targets=("wq", "w2"))
    names = set(lora.adapter_tensors(lora.attach(new_model(), config, generator())))
    assert names == {
        f"layers.{i}.{place}.lora_{which}"
        for i in range(2)
        for place in ("attention.wq", "feed_forward.w2")
        for which in "ab"
    }


def test_only_the_adapters_are_trained():
    model = lora.attach(new_model(), CONFIG, generator(1))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    train(model)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(lora.adapter_tensors(model))


def test_adapters_are_in_float32_on_a_trunk_in_half_precision():
    model = lora.attach(new_model().bfloat16(), CONFIG, generator(1))
    assert {t.dtype for t in lora.adapter_tensors(model).values()} == {torch.float32}
    assert model.hidden(TOKENS).dtype == torch.bfloat16
    train(model)
    assert all(torch.isfinite(t).all() for t in lora.adapter_tensors(model).values())


def test_the_head_of_a_reward_model_on_a_frozen_half_precision_trunk_is_in_float32():
    model = RewardModel(lora.attach(new_model().bfloat16(), CONFIG, generator(1)), generator(2))
    assert model.head.weight.dtype == torch.float32
    adamw(model, OptimConfig())  # refuses what is not float32


def test_the_gradient_of_an_adapter_is_that_of_differences():
    layer = lora.LoraLinear(nn.Linear(5, 4, bias=False), LoraConfig(rank=2), generator()).double()
    layer.lora_b.data.copy_(normal(1, 4, 2))
    x = normal(2, 3, 5).double()

    def loss(a, b):
        added = (x @ a.T) @ b.T * layer.config.scale
        return (x @ layer.base.weight.detach().T + added).square().sum()

    layer(x).square().sum().backward()
    a, b = layer.lora_a.detach().requires_grad_(), layer.lora_b.detach().requires_grad_()
    loss(a, b).backward()
    torch.testing.assert_close(layer.lora_a.grad, a.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.lora_b.grad, b.grad, rtol=1e-9, atol=1e-9)


# --- sharing


def test_shared_models_have_the_same_frozen_memory_and_adapters_of_their_own():
    one = adapted()
    two = lora.share(one)
    assert pointers(one) == pointers(two)
    assert torch.equal(one(TOKENS), two(TOKENS))
    mine, others = lora.adapter_tensors(one), lora.adapter_tensors(two)
    assert all(mine[n].data_ptr() != others[n].data_ptr() for n in mine)


def test_training_one_of_two_shared_models_leaves_the_other_as_it_was():
    one = adapted()
    two = lora.share(one)
    before = two(TOKENS).detach()
    train(one)
    assert torch.equal(two(TOKENS), before)
    assert not torch.equal(one(TOKENS), before)


def test_a_frozen_reference_still_has_adapters_of_its_own():
    policy = adapted()
    reference = lora.share(policy).requires_grad_(False)
    again = lora.share(reference)
    mine = {t.data_ptr() for t in lora.adapter_tensors(reference).values()}
    assert not mine & {t.data_ptr() for t in lora.adapter_tensors(again).values()}


def test_two_different_adapters_stand_on_one_trunk():
    trunk = lora.freeze(new_model())
    one, two = (lora.attach(lora.share(trunk), CONFIG, generator(i)) for i in (1, 2))
    assert pointers(one) == pointers(two) == pointers(trunk)
    train(one)
    assert not torch.equal(one(TOKENS), two(TOKENS))


def test_tied_embeddings_stay_tied_in_a_shared_model():
    tied = Transformer(replace(ARGS, tie_embeddings=True)).init_weights(generator())
    model = lora.share(lora.attach(tied, CONFIG, generator()))
    assert model.output.weight is model.tok_embeddings.weight is tied.tok_embeddings.weight


def test_the_whole_of_a_model_without_frozen_tensors_is_copied():
    one = new_model()
    two = lora.share(one)
    train(one)
    assert torch.equal(two(TOKENS), new_model()(TOKENS))


# --- merging


def test_a_merged_model_gives_the_same_logits_as_plain_layers():
    model = adapted()
    wanted = model(TOKENS)
    merged = lora.merge(model)
    assert merged.state_dict().keys() == new_model().state_dict().keys()
    assert (merged(TOKENS) - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_merged_matrix_is_base_plus_scaled_product_in_float64():
    model = adapted()
    layer = model.layers[1].attention.wk
    w, a, b = (t.detach().double() for t in (layer.base.weight, layer.lora_a, layer.lora_b))
    lora.merge(model)
    found = model.layers[1].attention.wk.weight
    assert (found - (w + 2.0 * b @ a)).abs().max() < 1e-7


def test_merging_leaves_the_shared_trunk_as_it_was():
    trunk = lora.freeze(new_model())
    model = lora.attach(lora.share(trunk), CONFIG, generator())
    train(model)
    lora.merge(model)
    assert torch.equal(trunk(TOKENS), new_model()(TOKENS))


def test_unmerging_gives_the_same_bits_back():
    model = adapted()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    after = lora.unmerge(lora.merge(model, keep=True)).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_was_merged_without_being_kept_cannot_be_unmerged():
    with pytest.raises(InputError, match=r"merged without being kept"):
        lora.unmerge(lora.merge(adapted()))
    with pytest.raises(InputError, match=r"no merged adapters"):
        lora.unmerge(new_model())


def test_a_merged_model_can_get_new_adapters():
    model = lora.attach(lora.merge(adapted()), CONFIG, generator(3))
    wanted = lora.merge(adapted())(TOKENS)
    assert torch.equal(model(TOKENS), wanted)


# --- adapters put in


def test_a_loaded_adapter_gives_the_same_logits():
    model = adapted()
    other = lora.load_adapter(new_model(), lora.adapter_tensors(model), CONFIG)
    assert torch.equal(other(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.popitem(), r"has no layers\.1\.feed_forward\.w3\.lora_b"),
        (lambda t: t.update(x=torch.zeros(2)), r"holds x, which its settings"),
        (
            lambda t: t.update({"layers.0.attention.wq.lora_a": torch.zeros(4, 64)}),
            r"another base: layers\.0\.attention\.wq\.lora_a has shape \[4, 64\]",
        ),
        (
            lambda t: t["layers.0.attention.wq.lora_a"].data.fill_(math.nan),
            r"layers\.0\.attention\.wq\.lora_a holds a number that is not finite",
        ),
    ],
    ids=["missing", "unknown", "shape", "nan"],
)
def test_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(change, said):
    tensors = lora.adapter_tensors(adapted())
    change(tensors)
    model = new_model()
    with pytest.raises(InputError, match=said):
        lora.load_adapter(model, tensors, CONFIG)
    assert lora.config_of(model) is None
    assert all(p.requires_grad for p in model.parameters())


def test_adapters_on_adapters_are_refused():
    with pytest.raises(InputError, match=r"has adapters already"):
        lora.attach(adapted(), CONFIG, generator())


def test_an_adapter_of_rank_0_is_refused():
    with pytest.raises(InputError, match=r"lora\.rank is 0"):
        lora.attach(new_model(), LoraConfig(), generator())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": -1}, r"lora\.rank is -1, expected 0 \(no adapters\) or more"),
        ({"rank": 10**9}, r"lora\.rank is 1000000000"),
        ({"alpha": math.nan}, r"lora\.alpha is nan, expected a positive number"),
        ({"alpha": 0.0}, r"lora\.alpha is 0\.0, expected a positive number"),
        ({"alpha": math.inf}, r"lora\.alpha is inf"),
        ({"targets": ("wq", "q_proj")}, r"lora\.targets is 'wq,q_proj', expected some of wq,wk"),
        ({"targets": ()}, r"lora\.targets is ''"),
        ({"targets": ("wq", "wq")}, r"lora\.targets is 'wq,wq'"),
        ({"base": "int4"}, r"lora\.base is 'int4', expected none, int8 or nf4"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name_and_value(given, said):
    with pytest.raises(InputError, match=said):
        LoraConfig(**given)


# --- quantised trunks


def test_the_values_of_nf4_are_those_that_bitsandbytes_publishes():
    published = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    published += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    assert (nf4_book() - torch.tensor(published)).abs().max() < 1e-6


def nearest(weight: np.ndarray) -> np.ndarray:
    """NF4 the slow way, in float64: each weight against all sixteen values of its block's scale."""
    flat, book = weight.astype(np.float64).ravel(), nf4_book().double().numpy()
    out = np.empty_like(flat)
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        scale = np.abs(block).max()
        out[start : start + BLOCK] = scale * book[np.abs(block[:, None] / scale - book).argmin(1)]
    return out.reshape(weight.shape)


@pytest.mark.parametrize("shape", [(32, 64), (7, 30), (1, 1)])
def test_nf4_stores_each_weight_as_the_nearest_value_of_its_block(shape):
    weight = normal(3, *shape)
    linear = nn.Linear(shape[1], shape[0], bias=False)
    linear.weight.data.copy_(weight)
    found = Nf4Linear(linear.weight).dense(torch.float32)
    assert np.abs(found.numpy() - nearest(weight.numpy())).max() < 1e-6


def test_int8_stores_each_weight_within_half_a_step_of_its_row():
    weight = normal(3, 40, 50)
    step = weight.abs().amax(1, keepdim=True) / 127
    error = (Int8Linear(weight).dense(torch.float32) - weight).abs()
    assert (error <= step / 2 * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("kind", "most", "least"), [("int8", 0.01, 0.002), ("nf4", 0.11, 0.06)], ids=["int8", "nf4"]
)
def test_the_error_of_a_quantised_product_is_of_the_expected_size(kind, most, least):
    linear = nn.Linear(512, 256, bias=False)
    linear.weight.data.copy_(normal(1, 256, 512))
    x = normal(2, 64, 512)
    exact = x.double() @ linear.weight.double().T
    found = quantise(linear, kind)(x)
    error = ((found - exact).norm() / exact.norm()).item()
    assert least < error < most


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_layer_passes_the_gradient_of_its_dense_matrix_to_the_input_only(kind):
    linear = nn.Linear(96, 16, bias=False)
    linear.weight.data.copy_(normal(1, 16, 96))
    stored = quantise(linear, kind)
    x = normal(2, 3, 96).requires_grad_()
    (stored(x) * normal(3, 3, 16)).sum().backward()
    wanted = normal(3, 3, 16).double() @ stored.dense(torch.float32).double()
    assert (x.grad - wanted).abs().max() < 1e-5
    assert all(p.grad is None and not p.requires_grad for p in stored.parameters())


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_row_of_zeros_stays_zero(kind):
    linear = nn.Linear(64, 2, bias=False)
    linear.weight.data.zero_()
    assert not quantise(linear, kind).dense(torch.float32).any()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_matrix_with_a_nan_is_not_quantised(kind):
    linear = nn.Linear(64, 2, bias=False)
    linear.weight.data.fill_(math.nan)
    with pytest.raises(InputError, match=rf"not finite, it cannot be stored in {kind}"):
        quantise(linear, kind)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_bytes_of_a_quantised_matrix_are_those_of_its_tensors(kind):
    for rows, columns in ((40, 64), (7, 30)):
        stored = quantise(nn.Linear(columns, rows, bias=False), kind)
        real = sum(p.nbytes for p in stored.parameters())
        assert stored_bytes(rows, columns, kind, 4) == real


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_adapters_on_a_quantised_trunk_learn_and_merge(kind):
    model = lora.attach(new_model(), replace(CONFIG, base=kind), generator(1))
    before = model(TOKENS).square().mean().item()
    train(model, 5)
    logits = model(TOKENS)
    assert logits.square().mean() < before
    assert (lora.merge(model)(TOKENS) - logits).abs().max() < 1e-5


def test_a_trunk_in_int8_is_not_taken_for_one_in_nf4():
    trunk = lora.freeze(new_model(), "int8")
    with pytest.raises(InputError, match=r"is stored in int8 already, not in nf4"):
        lora.attach(trunk, replace(CONFIG, base="nf4"), generator())


# --- the memory plan

WIDE = ModelArgs(
    dim=64, n_layers=3, n_heads=4, n_kv_heads=2, vocab_size=300, multiple_of=16, max_seq_len=64
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_plan_counts_the_bytes_that_models_on_one_trunk_really_hold(dtype, kind, tied):
    args = replace(WIDE, tie_embeddings=tied)
    config = LoraConfig(rank=3, targets=("wq", "wk", "w2"), base=kind)
    whole = Transformer(args).init_weights(generator())
    trunk = lora.freeze(whole.bfloat16() if dtype == torch.bfloat16 else whole, kind)
    policy, other = (lora.attach(lora.share(trunk), config, generator()) for _ in range(2))
    reward = RewardModel(other, generator())
    unique = {p.data_ptr(): p.nbytes for m in (policy, reward) for p in m.parameters()}
    optimizers = [adamw(m, OptimConfig()) for m in (policy, reward)]
    policy(TOKENS).sum().backward()
    reward(TOKENS, torch.tensor([19, 19])).sum().backward()
    grads = [p.grad.nbytes for m in (policy, reward) for p in m.parameters() if p.grad is not None]
    for optimizer in optimizers:
        optimizer.step()
    moments = [t.nbytes for o in optimizers for s in o.state.values() for t in s.values() if t.ndim]
    found = memory.plan(args, config, models=2, trained=2, heads=1, trained_heads=1, dtype=dtype)
    assert found.trunk + 2 * found.adapter + found.heads == sum(unique.values())
    assert (found.gradients, found.optimizer) == (sum(grads), sum(moments))


def test_the_plan_counts_the_engine_s_cache_and_its_dense_copy():
    from puna.engine.torch_runner import Dense, TorchRunner

    runner = TorchRunner(Transformer(WIDE), 5 * 3)
    dense = Dense(WIDE, runner.pages).room(5, 48)
    found = memory.plan(WIDE, CONFIG, rows=2 * 5, length=48)
    assert found.cache == runner.pages.nbytes + dense.nbytes


def test_the_plan_of_a_7b_model_in_nf4_is_4_gb_and_not_28():
    args = ModelArgs()
    whole = memory.plan(args, LoraConfig(rank=16), models=4, trained=2)
    small = memory.plan(
        args, LoraConfig(rank=16, base="nf4"), models=4, trained=2, dtype=torch.half
    )
    assert whole.trunk == 4 * 6_738_415_616
    assert small.trunk == pytest.approx(4.17e9, rel=0.01)
    assert small.adapter == 4 * 39_976_960  # as PEFT counts for all seven matrices at rank 16


def test_the_plan_is_told_in_one_line():
    config = LoraConfig(rank=16)
    args = ModelArgs(
        dim=576, n_layers=30, n_heads=9, n_kv_heads=3, vocab_size=49152, hidden_dim=1536,
        tie_embeddings=True, max_seq_len=2048,
    )  # fmt: skip
    found = memory.plan(args, config, models=5, trained=2, heads=3, rows=64, length=256)
    assert found.line() == (
        "memory: trunk 538 MB (shared by 5) + adapters 5 x 19.5 MB + heads 6.9 kB "
        "+ gradients 39.1 MB + optimiser 78.2 MB + cache 755 MB = 1.51 GB, and activations"
    )


def test_a_value_model_on_a_shared_trunk_costs_its_adapter_and_head_only():
    policy = adapted()
    critic = ValueModel(lora.share(policy), generator())
    own = [p for p in critic.parameters() if p.data_ptr() not in pointers(policy)]
    adapter = sum(t.numel() for t in lora.adapter_tensors(policy).values())
    assert sum(p.numel() for p in own) == adapter + ARGS.dim
