"""The training benchmark: its help, its parts without peers, its verdict on loss curves."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import training_cpu
from puna.recipes import steps
from tests.models import converted, random_model

SCRIPT = Path(training_cpu.__file__)


def test_the_help_names_every_arm() -> None:
    words = [sys.executable, str(SCRIPT), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert all(arm in done.stdout for arm in training_cpu.ARMS)


def test_a_measurement_has_the_same_losses_with_and_without_kept_memory(tmp_path: Path) -> None:
    shape = training_cpu.Shape(16, 1, 2, 32, vocab=64, seq=8, rows=2)
    training_cpu.prepare(shape, 3, tmp_path)
    found = [
        training_cpu.measure(arm, vars(shape), "float32", 2, str(tmp_path))
        for arm in ("returning", "puna")
    ]
    assert found[0]["losses"] == found[1]["losses"]
    assert len(found[0]["losses"]) == 3 and len(found[0]["seconds"]) == 2
    assert abs(found[0]["losses"][0] - math.log(64)) < 0.5  # a new model guesses
    assert training_cpu.largest_gap(found) == 0


def test_a_curve_that_differs_is_called_different(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"seconds": [1.0], "computed": "float32", "peak_mb": 1.0, "kept_mb": 1.0}
    result |= {"float32_peak": 1e9, "bfloat16_peak": 1e9}
    found = {
        "puna": [result | {"losses": [4.0, 3.0]}],
        "litgpt": [result | {"losses": [4.0, 3.01], "seconds": [2.0]}],
    }
    assert not training_cpu.show("quick", training_cpu.SHAPES["quick"], "float32", found)
    assert training_cpu.show("quick", training_cpu.SHAPES["quick"], "bfloat16", found)
    shown = capsys.readouterr().out
    assert "DIFFERENT" in shown and "2.00" in shown


def test_transformers_gets_the_weights_that_the_tests_of_the_model_give_it() -> None:
    model = random_model(training_args())
    found = training_cpu.for_transformers(dict(model.named_parameters()), model.args.n_heads)
    wanted = converted(model)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_litgpt_gets_query_key_and_value_in_one_matrix() -> None:
    model = random_model(training_args())
    found = training_cpu.for_litgpt(dict(model.named_parameters()), model.args.n_heads)
    wanted = converted(model)
    place = "model.layers.1.self_attn."
    parts = [wanted[f"{place}{name}_proj.weight"] for name in "qkv"]
    assert torch.equal(found["transformer.h.1.attn.qkv.weight"], torch.cat(parts))
    held = sum(tensor.numel() for tensor in found.values())
    assert held == sum(p.numel() for p in model.parameters())


def test_the_flops_of_a_step_are_those_the_recipe_counts() -> None:
    shape = training_cpu.SHAPES["quick"]
    model = random_model(training_args())
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    each = steps.flops_per_token(model, shape.seq) - 6 * norms
    assert shape.flops() == each * shape.seq * shape.rows


def training_args():
    """The quick shape as the model's own settings."""
    from puna.model.transformer import ModelArgs

    s = training_cpu.SHAPES["quick"]
    shape = {"dim": s.dim, "n_layers": s.n_layers, "n_heads": s.n_heads, "hidden_dim": s.ffn}
    return ModelArgs(**shape, vocab_size=s.vocab, max_seq_len=s.seq)
