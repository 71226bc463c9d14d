"""The GPU's kernels against their references: on a GPU, else in Triton's interpreter.

Without Triton, which comes with PyTorch for CUDA, they are left out.
"""

import os

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are first imported
pytest.importorskip("triton")

from puna.kernels.gpu import QuantisedLinear  # noqa: E402
from puna.kernels.quantise import quantise  # noqa: E402
from tests.models import normal  # noqa: E402

KINDS = ("int8", "int4", "fp8")
SHAPES = [(5, 32), (70, 96), (33, 172), (48, 1120), (64, 2048)]  # out, in


def layer(kind: str, n_out: int, n_in: int, invariant: bool = False) -> QuantisedLinear:
    weight = normal(n_out, n_out, n_in, scale=0.1) + 0.02
    return QuantisedLinear(quantise(weight, kind), invariant).to(DEVICE)


def inputs(count: int, n_in: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return normal(count, count, n_in).to(DEVICE, dtype)


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found.float() - wanted.float()).norm() / wanted.float().norm()).item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_a_row_kernel_gives_the_product_with_the_dense_matrix(
    kind: str, n_out: int, n_in: int
) -> None:
    linear, x = layer(kind, n_out, n_in), inputs(1, n_in)
    assert relative(linear.row(x), F.linear(x, linear.dense())) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
@pytest.mark.parametrize("count", [1, 3, 19])
def test_tiles_give_the_product_with_the_dense_matrix(
    kind: str, n_out: int, n_in: int, count: int
) -> None:
    linear, x = layer(kind, n_out, n_in), inputs(count, n_in)
    assert relative(linear.tiles(x), F.linear(x, linear.dense())) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_in_16_bits_lose_no_more_than_their_type(kind: str, dtype: torch.dtype) -> None:
    linear = layer(kind, 40, 256)
    x = inputs(4, 256, dtype)
    wanted = F.linear(x.float(), linear.dense())
    if DEVICE == "cuda" or dtype == torch.float16:  # the interpreter has no dot of bfloat16
        assert relative(linear.tiles(x), wanted) < 2 * torch.finfo(dtype).eps
    assert relative(linear.row(x[:1].contiguous()), wanted[:1]) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_give_an_input_the_same_bits_alone_and_in_company(kind: str) -> None:
    linear, x = layer(kind, 48, 1120), inputs(21, 1120)
    together = linear.tiles(x)
    for number in (0, 15, 16, 20):
        assert torch.equal(linear.tiles(x[number : number + 1].contiguous())[0], together[number])


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 8])
def test_a_cuda_graph_holds_the_kernels(kind: str, count: int) -> None:
    linear, x = layer(kind, 64, 2048), inputs(count, 2048, torch.bfloat16)
    wanted = linear(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = linear(x)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, wanted)
