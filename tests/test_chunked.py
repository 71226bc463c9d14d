"""The cross-entropy in chunks against the whole one, and a slow twin; its memory."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from puna.numerics import losses
from puna.recipes import pretrain, steps
from tests.models import ARGS, random_model


def case(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32, seed: int = 0):
    """hidden [2, rows, 8], weight, targets, mask of a random case."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, rows, 8, generator=draw, dtype=dtype).requires_grad_()
    weight = torch.randn(vocabulary, 8, generator=draw, dtype=dtype).requires_grad_()
    targets = torch.randint(vocabulary, (2, rows), generator=draw)
    mask = torch.rand(2, rows, generator=draw) < 0.7
    return hidden, weight, targets, mask


def slow_twin(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> float:
    """The sum, token by token, in Python's own numbers."""
    hidden, weight, total = hidden.detach().double(), weight.detach().double(), 0.0
    for row, wanted, counts in zip(
        hidden.flatten(0, 1), targets.flatten(), mask.flatten(), strict=True
    ):
        if counts:
            logits = [float(row @ column) for column in weight]
            most = max(logits)
            total -= logits[wanted] - most
            total += torch.tensor([x - most for x in logits]).double().exp().sum().log().item()
    return total


@given(st.integers(1, 9), st.integers(2, 40), st.integers(1, 200), st.integers(0, 99))
def test_the_chunked_loss_is_that_of_its_slow_twin(
    rows: int, vocabulary: int, most: int, seed: int
) -> None:
    hidden, weight, targets, mask = case(rows, vocabulary, seed=seed)
    found, count = losses.chunked_cross_entropy(hidden, weight, targets, mask, most)
    assert found.item() == pytest.approx(slow_twin(hidden, weight, targets, mask), rel=1e-5)
    assert count == mask.sum()


@pytest.mark.parametrize("most", [1, 100, 333, 10**6])
def test_loss_and_gradients_are_those_of_the_whole_loss(most: int) -> None:
    hidden, weight, targets, mask = case(40, 97)
    whole, _ = losses.cross_entropy(hidden @ weight.T, targets, mask)
    chunked, _ = losses.chunked_cross_entropy(hidden, weight, targets, mask, most)
    assert chunked.item() == pytest.approx(whole.item(), rel=1e-6)
    wanted = torch.autograd.grad(whole * 0.3, (hidden, weight))
    found = torch.autograd.grad(chunked * 0.3, (hidden, weight))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))


@pytest.mark.parametrize("most", [1, 25, 10**6])
def test_the_gradients_are_those_of_differences(most: int) -> None:
    hidden, weight, targets, mask = case(3, 11, torch.float64)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return losses.chunked_cross_entropy(hidden, weight, targets, mask, most)[0]

    assert torch.autograd.gradcheck(loss, (hidden, weight))


def test_a_frozen_output_gets_no_gradient_and_the_hidden_states_the_same() -> None:
    hidden, weight, targets, mask = case(6, 30)
    losses.chunked_cross_entropy(hidden, weight, targets, mask)[0].backward()
    wanted, hidden.grad = hidden.grad, None
    frozen = weight.detach()
    losses.chunked_cross_entropy(hidden, frozen, targets, mask)[0].backward()
    assert frozen.grad is None and torch.equal(hidden.grad, wanted)


def test_without_gradients_the_loss_is_the_same_number() -> None:
    hidden, weight, targets, mask = case(6, 30)
    wanted, _ = losses.chunked_cross_entropy(hidden, weight, targets, mask, 50)
    with torch.no_grad():
        found, _ = losses.chunked_cross_entropy(hidden, weight, targets, mask, 50)
    assert torch.equal(found, wanted) and not found.requires_grad


def test_no_answer_token_costs_nothing() -> None:
    hidden, weight, targets, mask = case(4, 10)
    loss, count = losses.chunked_cross_entropy(hidden, weight, targets, mask & False)
    loss.backward()
    assert loss == 0 and count == 0 and not weight.grad.any()


def test_targets_of_any_value_may_stand_where_the_mask_is_false() -> None:
    hidden, weight, targets, mask = case(9, 10)
    wanted, _ = losses.chunked_cross_entropy(hidden, weight, targets, mask)
    strange = targets.masked_fill(~mask, -1)
    assert torch.equal(losses.chunked_cross_entropy(hidden, weight, strange, mask)[0], wanted)


def test_a_mask_of_another_shape_is_refused() -> None:
    hidden, weight, targets, mask = case(5, 10)
    with pytest.raises(ValueError, match="mask"):
        losses.chunked_cross_entropy(hidden, weight, targets, mask[:, 1:])


def test_under_autocast_only_the_products_are_rounded() -> None:
    hidden, weight, targets, mask = case(50, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = losses.chunked_cross_entropy(hidden, weight, targets, mask, 640)
        whole, _ = losses.cross_entropy(torch.nn.functional.linear(hidden, weight), targets, mask)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(whole.item(), rel=1e-6)
    wanted = torch.autograd.grad(whole, (hidden, weight))
    for a, b in zip(torch.autograd.grad(found, (hidden, weight)), wanted, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < 0.01 * b.norm()


def test_half_precision_weights_get_gradients_of_their_type_from_float32_statistics() -> None:
    hidden, weight, targets, mask = case(30, 40)
    h, w = (t.detach().bfloat16().requires_grad_() for t in (hidden, weight))
    found, _ = losses.chunked_cross_entropy(h, w, targets, mask, 400)
    whole, _ = losses.cross_entropy(h @ w.T, targets, mask)
    found.backward()
    assert found.item() == pytest.approx(whole.item(), rel=1e-6)
    assert h.grad.dtype == w.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("tied", [False, True])
def test_pretraining_learns_by_the_gradient_of_the_whole_loss(tied: bool) -> None:
    model = random_model(replace(ARGS, tie_embeddings=tied)).train()
    batch = torch.randint(model.args.vocab_size, (3, 17), generator=steps.generator("batch"))
    everywhere = torch.ones(3, 16, dtype=torch.bool)
    whole, _ = losses.cross_entropy(model(batch[:, :-1]), batch[:, 1:], everywhere)
    whole.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss, count = pretrain.token_loss(model, batch)
    loss.backward()
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6) and count == 48
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-5)


MEMORY = """
import re, sys, torch
from puna.numerics import losses
h, w = torch.randn(4096, 16, requires_grad=True), torch.randn(8192, 16, requires_grad=True)
t, m = torch.zeros(4096, dtype=torch.int64), torch.ones(4096, dtype=torch.bool)
losses.cross_entropy(h[:8] @ w.T, t[:8], m[:8])[0].backward()
held = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before = held()
if sys.argv[1] == "whole":
    losses.cross_entropy(h @ w.T, t, m)[0].backward()
else:
    losses.chunked_cross_entropy(h, w, t, m, 1 << 20)[0].backward()
print(held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_all_logits_are_never_held() -> None:
    all_logits = 4096 * 8192 * 4 / 2**20  # 128 MiB; a chunk has 4
    used = {
        kind: float(
            subprocess.run(
                [sys.executable, "-c", MEMORY, kind], capture_output=True, text=True, check=True
            ).stdout
        )
        for kind in ("whole", "chunked")
    }
    assert used["whole"] > all_logits > 3 * used["chunked"]
