"""The native kernels against plain torch, and against themselves on every instruction set."""

import ctypes
import logging
import os
import subprocess
import sys

import pytest
import torch
from models import generator, normal
from torch import Tensor

from puna.errors import InputError
from puna.kernels import native, pack, reference
from puna.kernels.matrix import Matrix
from puna.kernels.native import KINDS, MAX_QUERIES, QueriesRecord

SIZES = ((40, 96), (33, 50), (128, 320), (16, 31), (1, 1))
BUILT = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")


def distance(a: Tensor, b: Tensor) -> float:
    """|a - b| relative to |b|."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_laid_out_weights_come_back(kind: str, rows: int, cols: int) -> None:
    codes, scales, zeros = pack.quantise(normal(1, rows, cols), kind)
    back = Matrix.laid(kind, cols, codes, scales, zeros).separate()
    assert torch.equal(back[0], codes.float())
    for given, found in ((scales, back[1]), (zeros, back[2])):
        assert (given is None and found is None) or torch.equal(given, found)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rounding_errs_by_less_than_the_range_over_its_steps(kind: str) -> None:
    weight = normal(2, 64, 256)
    dense = pack.dense(*pack.quantise(weight, kind))
    groups = weight.unflatten(1, (-1, 32))
    span = (groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)).repeat_interleave(32, 1)
    assert distance(dense, weight) < (0.006 if kind == "int8" else 0.09)
    assert ((dense - weight).abs() < span * (0.01 if kind == "int8" else 0.5)).all()


def test_four_bits_spend_error_where_it_matters_least() -> None:
    weight, importance = normal(3, 64, 128), torch.tensor([100.0, 0.01]).repeat(64)
    plain = pack.dense(*pack.quantise(weight, "int4")) - weight
    aware = pack.dense(*pack.quantise(weight, "int4", importance)) - weight
    assert (aware.square() * importance).sum() < (plain.square() * importance).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zero_stay_zero(kind: str) -> None:
    assert not Matrix.pack(torch.zeros(5, 40), kind).dense().any()


@BUILT
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_a_product_is_that_of_torch(kind: str, rows: int, cols: int) -> None:
    quantised = pack.quantise(normal(4, rows, cols), kind)
    matrix = Matrix.laid(kind, cols, *quantised)
    assert torch.equal(matrix.dense(), pack.dense(*quantised)[:, :cols])
    for tokens in (1, 2, 5, 16, 33):
        x = normal(tokens, tokens, cols)
        expected = reference.product(x, *quantised)
        torch.testing.assert_close(matrix.matmul(x), expected, rtol=1e-5, atol=2e-5)


@BUILT
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isa", native.offered())
def test_a_product_has_the_same_bits_everywhere(kind: str, isa: str) -> None:
    for seed, (rows, cols) in enumerate(SIZES):
        matrix, x = Matrix.pack(normal(seed, rows, cols), kind), 3 * normal(seed + 9, 35, cols)
        expected = matrix.matmul(x, threads=1, isa="plain")
        assert torch.equal(matrix.matmul(x, threads=2, isa=isa), expected)
        for first, last in ((0, 1), (3, 5), (1, 18)):
            part = matrix.matmul(x[first:last], threads=3, isa=isa)
            assert torch.equal(part, expected[first:last])


@BUILT
@pytest.mark.parametrize("isa", native.offered())
def test_extreme_weights_and_activations_are_exact_in_whole_numbers(isa: str) -> None:
    codes = torch.randint(0, 2, (32, 64), generator=generator(5)) * 254 - 127
    ones = torch.ones(32, 2, dtype=torch.float16)
    matrix = Matrix.laid("int8", 64, codes.to(torch.int8), ones, None)
    x = torch.randint(0, 2, (3, 64), generator=generator(6)).float() * 254 - 127
    assert torch.equal(matrix.matmul(x, isa=isa), x @ codes.float().T)
    four = (codes > 0).to(torch.uint8) * 15
    zeros = torch.full((32, 2), 15 * 16, dtype=torch.uint8)
    matrix = Matrix.laid("int4", 64, four, ones, zeros)
    assert torch.equal(matrix.matmul(x, isa=isa), x @ (four.float() - 15).T)


@BUILT
@pytest.mark.parametrize("isa", native.offered())
def test_swiglu_and_norm_are_those_of_torch(isa: str) -> None:
    call, number = native.loaded(), native.number(isa)
    gate = torch.cat([20 * normal(7, 1000), torch.tensor([0.0, -0.0, 88, -88, 1e4, -1e4, 1, -1])])
    up, out, plain = normal(8, 1008), torch.empty(1008), torch.empty(1008)
    call.puna_swiglu(number, gate.data_ptr(), up.data_ptr(), 1008, out.data_ptr())
    call.puna_swiglu(
        native.ISAS.index("plain"), gate.data_ptr(), up.data_ptr(), 1008, plain.data_ptr()
    )
    torch.testing.assert_close(out, reference.swiglu(gate, up), rtol=1e-6, atol=1e-30)
    assert torch.equal(out, plain)
    call.puna_norm(number, gate.data_ptr(), up.data_ptr(), 1008, 1e-5, out.data_ptr())
    torch.testing.assert_close(out, reference.norm(gate, up, 1e-5), rtol=1e-6, atol=1e-7)


def attend(isa: str, half: bool, heads: Tensor, last: list[int], window: int, head_dim: int):
    """(library's, torch's) attention of queries [n, head_dim] over a cache of noise."""
    wide = -(-head_dim // 16) * 16
    size, dtype = (2, torch.float16) if half else (4, torch.float32)
    keys, values = normal(11, 8, head_dim, 16).to(dtype), normal(12, 8, 16, wide).to(dtype)
    values[..., head_dim:] = 0
    cache = torch.cat([keys.flatten(1), values.flatten(1)], 1).contiguous()
    cache[3] = torch.nan  # a block that is not in the table
    blocks = torch.tensor([6, 1, 7, 0, 2, 5], dtype=torch.int32)
    scaled, out = heads / head_dim**0.5, torch.empty(len(heads), wide)
    scores = torch.empty(MAX_QUERIES, 96)
    pad = [0] * (MAX_QUERIES - len(heads))
    pointers = ctypes.c_void_p * MAX_QUERIES
    record = QueriesRecord(
        len(heads),
        pointers(*(row.data_ptr() for row in scaled), *pad),
        pointers(*(row.data_ptr() for row in out), *pad),
        (ctypes.c_int32 * MAX_QUERIES)(*last, *pad),
        *(head_dim, wide, window, half, cache.data_ptr(), cache.shape[1] * size),
        *(blocks.data_ptr(), scores.data_ptr(), 96),
    )
    native.loaded().puna_attend(native.number(isa), ctypes.byref(record))
    table = [*blocks.tolist()]
    pairs = zip(heads, last, strict=True)
    expected = [
        reference.attention(q, keys, values[..., :head_dim], table, at, window) for q, at in pairs
    ]
    return out[:, :head_dim], torch.stack(expected)


@BUILT
@pytest.mark.parametrize("isa", native.offered())
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("head_dim", [2, 48, 64, 80, 128])
def test_attention_is_that_of_torch_and_a_query_does_not_see_its_tile(
    isa: str, half: bool, head_dim: int
) -> None:
    for window in (0, 1, 20):
        heads, last = normal(13, 8, head_dim), [0, 5, 15, 16, 40, 41, 41, 90]
        tile, expected = attend(isa, half, heads, last, window, head_dim)
        torch.testing.assert_close(tile, expected, rtol=1e-5, atol=1e-5)
        for n in range(0, 8, 3):
            alone, _ = attend("plain", half, heads[n : n + 1], last[n : n + 1], window, head_dim)
            assert torch.equal(tile[n], alone[0])


@BUILT
def test_wrong_shapes_are_refused() -> None:
    matrix = Matrix.pack(normal(1, 8, 40), "int8")
    for x in (torch.ones(2, 41), torch.ones(40), torch.ones(2, 40).double()):
        with pytest.raises(ValueError, match="x "):
            matrix.matmul(x)
    for ids in ([-1], [8]):
        with pytest.raises(ValueError, match="ids"):
            matrix.embed(torch.tensor(ids))
    with pytest.raises(InputError, match="kind is 'int3'"):
        Matrix.pack(normal(1, 8, 40), "int3")
    with pytest.raises(ValueError, match="not finite"):
        Matrix.pack(torch.full((2, 2), torch.nan), "int8")
    codes, scales, _ = pack.quantise(normal(1, 8, 40), "int8")
    with pytest.raises(ValueError, match="do not make int8"):
        Matrix.laid("int8", 40, codes, None, None)
    with pytest.raises(ValueError, match="codes are"):
        Matrix.laid("int8", 80, codes, scales, None)
    assert matrix.matmul(torch.empty(0, 40)).shape == (0, 8)


@BUILT
def test_the_environment_may_ask_for_a_lower_instruction_set(monkeypatch) -> None:
    for isa in native.offered():
        monkeypatch.setenv("PUNA_ISA", isa)
        native.available.cache_clear()
        assert native.available() == isa
    monkeypatch.setenv("PUNA_ISA", "mmx")
    native.available.cache_clear()
    with pytest.raises(InputError, match="PUNA_ISA is 'mmx', expected one of"):
        native.available()
    monkeypatch.delenv("PUNA_ISA")
    native.available.cache_clear()


@BUILT
def test_kernels_that_miscalculate_are_left_out(monkeypatch, caplog) -> None:
    native.available.cache_clear()
    monkeypatch.setattr(native, "agrees", lambda isa: isa == "plain")
    assert native.available() == "plain"
    assert len(caplog.records) == len(native.offered()) - 1
    native.available.cache_clear()


def test_without_the_library_there_is_one_warning_and_torch_computes(monkeypatch, caplog) -> None:
    monkeypatch.setattr(native, "__file__", "/nowhere/native.py")
    for cached in (native.library, native.available):
        cached.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert native.available() is None and native.available() is None
        quantised = pack.quantise(normal(1, 9, 40), "int4")
        matrix, x = Matrix.laid("int4", 40, *quantised), normal(2, 3, 40)
        assert torch.equal(matrix.matmul(x), reference.product(x, *quantised))
        assert torch.equal(matrix.dense(), pack.dense(*quantised)[:, :40])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for cached in (native.library, native.available):
        cached.cache_clear()


@BUILT
def test_a_forked_child_makes_its_own_threads() -> None:
    code = """
import os, torch
from puna.kernels.matrix import Matrix
matrix, x = Matrix.pack(torch.randn(512, 512), "int8"), torch.randn(4, 512)
y = matrix.matmul(x, threads=3)
child = os.fork()
if not child:
    os._exit(0 if torch.equal(matrix.matmul(x, threads=3), y) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(matrix.matmul(x, threads=3), y)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, env={**os.environ})
    assert done.returncode == 0
