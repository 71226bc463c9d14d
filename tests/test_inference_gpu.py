"""benchmarks/inference_gpu.py: says so without a GPU; its step and its sums, on the CPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from puna.model.transformer import ModelArgs

FILE = Path(__file__).resolve().parent.parent / "benchmarks/inference_gpu.py"
ARGS = ModelArgs(
    dim=64, n_layers=2, n_heads=4, vocab_size=96, multiple_of=32, max_seq_len=512, hidden_dim=96
)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("inference_gpu", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["inference_gpu.py"])
    assert benchmark.main() == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "needs a GPU" in said.err


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4", "fp8"])
def test_a_step_puts_the_most_likely_token_after_each_row(benchmark: ModuleType, kind: str) -> None:
    model = benchmark.random_model(ARGS, kind, "cpu")
    step = benchmark.Step(model, 3)
    with torch.no_grad():
        place = step.positions.clone()
        wanted = model(step.tokens, place, cache=step.cache)[:, -1].argmax(-1)
    step.run()
    assert torch.equal(step.tokens[:, 0], wanted)
    assert torch.equal(step.positions, place + 1)


def test_the_bytes_of_a_step_are_those_of_the_matrices(benchmark: ModuleType) -> None:
    matrices = ARGS.n_layers * (4 * 64 * 64 + 3 * 64 * 96)
    vocabulary = 96 * 64
    found = {k: benchmark.weight_bytes(benchmark.random_model(ARGS, k, "cpu")) for k in
             ("bf16", "int8", "int4")}  # fmt: skip
    assert found["bf16"] == 2 * (matrices + vocabulary)
    assert found["int8"] == (matrices + vocabulary) * 8.5 / 8
    assert found["int4"] == matrices * 4.75 / 8 + vocabulary * 8.5 / 8


def test_the_bounds_are_of_bytes_read_and_operations_done(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "timed", lambda work: 0.5)
    found = benchmark.bounds("cpu", size=1 << 20, side=64)
    assert found["read_gb_s"] == pytest.approx((1 << 20) / 0.5e9)
    assert found["matmul_tflops"] == pytest.approx(2 * 64**3 / 0.5e12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_with_a_gpu_it_measures_a_small_shape(tmp_path: Path) -> None:
    words = ["--shape", "smollm2-135m", "--batches", "1,8", "--out", str(tmp_path / "gpu.json")]
    subprocess.run([sys.executable, str(FILE), *words], check=True)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["kind"] for row in rows} == {"bf16", "int8", "int4", "fp8"}
    assert all(row["tokens_s"] > 0 for row in rows)
