"""Matrices in few bits: codes, compensation, the simulated model, and the report."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from puna import cli
from puna.errors import InputError
from puna.kernels import gpu, native, quantise
from puna.kernels.compensate import compensated
from puna.kernels.gpu import QuantisedLinear, quantise_linears, refuse_kind
from puna.model import checkpoint
from puna.model.importance import importances
from puna.model.predictors import Native, Simulation
from puna.model.simulated import Kind, Simulated, bits_of, calibrate, simulate
from puna.model.transformer import ModelArgs, Transformer
from puna.numerics.fidelity import Fidelity
from puna.recipes.quantise import held
from puna.text.files import read_json
from puna.text.tokenizer import Tokenizer
from tests.conftest import SENTENCES
from tests.models import ARGS, new_model, normal, random_model

SHAPES = [(3, 32), (7, 64), (5, 172), (20, 1000)]  # out, in; the last group may be short


def squared_error(codes: quantise.Codes, weight: Tensor) -> float:
    return (quantise.dense(codes) - weight).double().square().sum().item()


def twin_dense(codes: quantise.Codes) -> Tensor:
    """The matrix, weight by weight in Python."""
    rows, columns = codes.codes.shape
    out = torch.zeros(rows, columns)
    for r in range(rows):
        for c in range(columns):
            zero = 0 if codes.zeros is None else int(codes.zeros[r, c // 32]) / 16
            out[r, c] = float(codes.scales[r, c // 32]) * (int(codes.codes[r, c]) - zero)
    return out


def plain_int4(weight: Tensor) -> float:
    """The squared error of a group's plain range: minimum to 0, maximum to 15, all in float64."""
    total = 0.0
    for row in weight.double():
        for group in row.split(32):
            low, high = group.min(), group.max()
            step = (high - low) / 15
            total += (((group - low) / step).round() * step + low - group).square().sum().item()
    return total


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_dense_matrix_is_scale_times_code_minus_zero(
    kind: str, rows: int, columns: int
) -> None:
    codes = quantise.quantise(normal(1, rows, columns), kind)
    torch.testing.assert_close(quantise.dense(codes), twin_dense(codes), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_an_int8_weight_is_off_by_half_a_step_at_most(rows: int, columns: int) -> None:
    weight = normal(2, rows, columns)
    error = (quantise.dense(quantise.quantise(weight, "int8")) - weight).abs()
    step = torch.cat([g.abs().amax(1, keepdim=True).expand_as(g) for g in weight.split(32, 1)], 1)
    assert (error <= step / 127 * 0.5 + step * 2.0**-11).all()  # half a step, and float16's scale


def test_int4_beats_the_plain_range_by_a_tenth() -> None:
    weight = normal(3, 40, 512)
    assert squared_error(quantise.quantise(weight, "int4"), weight) < 0.9 * plain_int4(weight)


def test_int4_keeps_weights_that_have_sixteen_levels() -> None:
    low, step = normal(4, 30, 1).abs() * -0.5, 0.05 + normal(5, 30, 1).abs()
    levels = torch.arange(32) % 16
    weight = low * step * 10 + step * levels  # a group each: 16 levels, any offset
    error = quantise.dense(quantise.quantise(weight, "int4")) - weight
    inside = ((weight.amin(1) <= 0) & (weight.amax(1) >= 0))[:, None]
    assert (error.abs() <= step / 16)[inside.expand_as(error)].all()  # a sixteenth of a code


def test_groups_of_one_sign_of_zeros_and_of_tiny_weights_stay_close() -> None:
    weight = torch.cat((normal(6, 1, 32).abs() + 3, -normal(6, 1, 32).abs() - 3))
    error = (quantise.dense(quantise.quantise(weight, "int4")) - weight).abs().amax(1)
    assert (error <= weight.abs().amax(1) / 15).all()
    assert (quantise.dense(quantise.quantise(torch.zeros(2, 64), "int4")) == 0).all()
    tiny = normal(7, 2, 32, scale=1e-9)
    assert quantise.dense(quantise.quantise(tiny, "int4")).abs().max() < 1e-6


def test_errors_move_to_the_inputs_that_matter_little() -> None:
    weight, importance = normal(8, 60, 128), torch.ones(128)
    importance[::2] = 50
    plain, aware = (quantise.quantise(weight, "int4", i) for i in (None, importance))
    even = [(quantise.dense(c) - weight)[:, ::2].square().sum() for c in (plain, aware)]
    assert even[1] < 0.95 * even[0]


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_rows_in_parts_give_the_same_codes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(9, 37, 96)
    whole = quantise.quantise(weight, kind)
    monkeypatch.setattr(quantise, "CHUNK", 96 * 5)
    parts = quantise.quantise(weight, kind)
    assert torch.equal(quantise.dense(whole), quantise.dense(parts))


def test_fp8_is_off_by_a_sixteenth_at_most() -> None:
    weight = normal(10, 9, 200)
    error = (quantise.dense(quantise.quantise(weight, "fp8")) - weight).abs()
    least = weight.abs().amax(1, keepdim=True) / 448 * 2.0**-6  # below it e4m3 has even steps
    assert (error <= (weight.abs() / 16).maximum(least / 8)).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_weight_that_cannot_be_stored_is_refused(kind: str, value: float) -> None:
    weight = normal(11, 4, 64)
    weight[2, 5] = value
    with pytest.raises(InputError, match="cannot be stored"):
        quantise.quantise(weight, kind)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(InputError, match="'int3', expected one of int8, int4, fp8"):
        quantise.quantise(normal(0, 2, 32), "int3")


def test_inputs_are_rounded_to_255_levels_in_each_group() -> None:
    x = normal(12, 3, 70)
    for row, seen in zip(x, quantise.rounded_inputs(x), strict=True):
        for group, rounded in zip(row.split(32), seen.split(32), strict=True):
            steps = rounded / (group.abs().max() / 127)
            assert (steps - steps.round()).abs().max() < 1e-4
            assert (rounded - group).abs().max() <= group.abs().max() / 254 * 1.0001


def test_compensated_codes_keep_the_products_better() -> None:
    mixing = normal(13, 128, 128) / 8
    x = normal(14, 2000, 128) @ mixing  # inputs that go together
    weight, moments = normal(15, 50, 128), x.T @ x / len(x)
    wanted = F.linear(x, weight)
    plain = F.linear(x, quantise.dense(quantise.quantise(weight, "int4"))) - wanted
    better = F.linear(x, quantise.dense(compensated(weight, "int4", moments))) - wanted
    assert better.square().mean() < 0.6 * plain.square().mean()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_compensation_agrees_with_one_column_at_a_time(kind: str) -> None:
    """Against float64: after each input the others take the best of its error, by a fresh solve."""
    x = normal(16, 300, 44) @ normal(17, 44, 44)
    weight, moments = normal(18, 6, 44), (x.T @ x / len(x)).double()
    codes = compensated(weight, kind, moments.float())
    damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(44, dtype=torch.float64)
    rest, fixed = weight.double(), quantise.dense(codes).double()
    for i in range(43):
        error = rest[:, i] - fixed[:, i]
        behind = damped[i + 1 :, i + 1 :]
        rest[:, i + 1 :] += (
            torch.linalg.solve(behind, damped[i + 1 :, i : i + 1]).T * error[:, None]
        )
        step = codes.scales[:, (i + 1) // 32].double()
        free = (codes.codes[:, i + 1] > (0 if kind == "int4" else -127)) & (
            codes.codes[:, i + 1] < (15 if kind == "int4" else 127)
        )
        off = (rest[:, i + 1] - fixed[:, i + 1]).abs() / step
        assert (off[free] <= 0.5 + 1e-3).all()  # the nearest code to what is left over


def test_silent_inputs_leave_the_plain_codes() -> None:
    weight = normal(19, 5, 64)
    codes = compensated(weight, "int4", torch.zeros(64, 64))
    assert torch.equal(codes.codes, quantise.quantise(weight, "int4").codes)


def test_int4_codes_go_into_bytes_and_back() -> None:
    codes = torch.randint(0, 16, (7, 100), dtype=torch.uint8)
    assert torch.equal(gpu.unpack(gpu.pack(codes), 100), codes)


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_of_quantised_layers_computes_with_its_dense_matrices(
    kind: str, tied: bool
) -> None:
    args = ModelArgs(dim=64, n_layers=2, n_heads=4, vocab_size=96, tie_embeddings=tied)
    model, tokens = random_model(args), torch.randint(0, 96, (2, 9))
    twin = random_model(args)
    quantise_linears(model, kind)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantisedLinear)}
    assert len(layers) == 2 * 7 + 1
    assert layers["output"].kind == ("int8" if kind == "int4" else kind)
    with torch.no_grad():
        for name, layer in layers.items():
            if name == "output":
                twin.output = torch.nn.Linear(64, 96, bias=False)
            twin.get_submodule(name).weight.copy_(layer.dense())
        torch.testing.assert_close(model(tokens), twin(tokens))


def test_fp8_on_a_cpu_is_refused_and_names_int8() -> None:
    with pytest.raises(InputError, match="expected int8"):
        refuse_kind("fp8", "cpu")
    refuse_kind("fp8", "cuda")
    refuse_kind("int4", "cpu")


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4", "fp8"])
def test_a_simulated_model_is_close_and_as_close_as_its_bits_allow(kind: str) -> None:
    model, twin = random_model(ARGS), random_model(ARGS)
    tokens = torch.randint(0, 384, (3, 32))
    simulate(model, kind)  # type: ignore[arg-type]
    with torch.no_grad():
        wanted = twin(tokens)
        error = ((model(tokens) - wanted).norm() / wanted.norm()).item()
    bounds = {"float32": 0.0, "bfloat16": 0.02, "int8": 0.05, "int4": 0.4, "fp8": 0.15}
    assert error <= bounds[kind]
    assert kind == "float32" or error > 1e-4


def test_a_calibrated_model_is_closer_than_a_plain_one() -> None:
    args = ModelArgs(dim=64, n_layers=2, n_heads=4, vocab_size=96)
    tokens = torch.randint(0, 96, (24, 32), generator=torch.Generator().manual_seed(0))
    errors = []
    for calibrated in (False, True):
        model, twin = random_model(args), random_model(args)
        if calibrated:
            calibrate(model, "int4", tokens[:20], lambda _: None)
        else:
            simulate(model, "int4")
        assert isinstance(model.layers[1].get_submodule("attention.wo"), Simulated)
        with torch.no_grad():
            errors.append((model(tokens[20:]) - twin(tokens[20:])).norm().item())
    assert errors[1] < 0.9 * errors[0]


def test_bits_and_bytes_are_those_of_the_codes() -> None:
    args = ModelArgs(dim=64, n_layers=1, n_heads=4, vocab_size=96, tie_embeddings=True)
    model = Transformer(args)
    total = 0
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            total += 4 * weight.numel()
            continue
        stored = quantise.quantise(weight + 1e-3, "int8" if "tok" in name else "int4")
        size = weight.numel() // (1 if stored.zeros is None else 2)
        total += size + 2 * stored.scales.numel()
        total += 0 if stored.zeros is None else stored.zeros.numel()
    assert bits_of(args, "int4") == (4.75, total)


def test_fidelity_of_two_known_distributions() -> None:
    reference, logits = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75]] * 2)
    found = Fidelity()
    found.add(logits.log(), reference.log(), torch.tensor([0, 1]))
    figures = found.figures()
    first = 0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(2 / 3).log()
    second = 0.9 * torch.tensor(3.6).log() + 0.1 * torch.tensor(0.1 / 0.75).log()
    assert figures["kl"] == pytest.approx(((first + second) / 2).item(), rel=1e-5)
    assert figures["perplexity"] == pytest.approx((0.25 * 0.75) ** -0.5, rel=1e-5)
    assert (figures["tokens"], figures["top1"]) == (2, 0.0)  # of equals the first is meant


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("quantise")
    checkpoint.save(folder / "model", new_model(), tiny_tokenizer)
    (folder / "text.txt").write_text(" ".join(SENTENCES), encoding="utf-8")
    return folder


def report(place: Path, name: str, *words: str) -> int:
    run = ["--run", str(place / name), "--window", "16"]
    text = ["--text", str(place / "text.txt")]
    return cli.main(["quantise", str(place / "model"), *text, *run, *words])


def test_the_report_has_a_row_for_each_kind(place: Path, capsys: pytest.CaptureFixture) -> None:
    text = str(place / "text.txt")
    assert report(place, "all", "--calibrate", text, "--save", "true") == 0
    found = read_json(place / "all/quantisation.json")["kinds"]
    assert list(found) == ["float32", "bfloat16", "int8", "int4", "int4 calibrated"]
    assert found["bfloat16"]["kl"] < 1e-9 < found["int8"]["kl"] < found["int4"]["kl"]
    assert [one["bits"] for one in found.values()] == [32, 16, 8.5, 4.75, 4.75]
    page = (place / "all/quantisation.md").read_text(encoding="utf-8")
    shown = capsys.readouterr().out
    for kind in found:
        assert f"| {kind} |" in page and kind in shown


def test_the_saved_model_is_the_calibrated_one(place: Path) -> None:
    text = str(place / "text.txt")
    assert report(place, "saved", "--calibrate", text, "--save", "true", "--kinds", "[]") == 0
    model, _ = checkpoint.load(place / "saved/checkpoint")
    plain, _ = checkpoint.load(place / "model")
    assert torch.equal(model.tok_embeddings.weight, plain.tok_embeddings.weight)
    weight = model.layers[0].get_submodule("feed_forward.w2").get_parameter("weight")
    for group in weight.split(32, 1):
        assert all(len(row.unique()) <= 16 for row in group)


@pytest.mark.skipif(native.available() is None, reason="the native kernels are not compiled")
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_the_native_kernels_and_the_simulation_agree(kind: Kind) -> None:
    model = random_model(ModelArgs(dim=64, n_layers=2, n_heads=4, vocab_size=96, hidden_dim=96))
    tensors = {name: partial(held, weight) for name, weight in model.state_dict().items()}
    tokens = torch.randint(0, 96, (40,), generator=torch.Generator().manual_seed(1))
    counts = importances(model.args, lambda name: tensors[name](), tokens.tolist())
    ours, theirs = (way(model.args, tensors, kind, counts) for way in (Native, Simulation))
    found, wanted = (way.logits(way.hidden(tokens)) for way in (ours, theirs))
    difference = ((found - wanted).norm() / wanted.norm()).item()
    assert difference < (1e-4 if kind == "float32" else 2e-2)  # an input near a half rounds over


def test_calibrated_weights_in_int4_have_their_codes_again() -> None:
    x = normal(30, 400, 128) @ normal(31, 128, 128)
    codes = compensated(normal(32, 60, 128), "int4", x.T @ x / 400)
    weight = quantise.dense(codes)
    again = quantise.dense(quantise.quantise(weight, "int4"))
    assert ((again - weight).norm() / weight.norm()).item() < 0.02  # the codes' own error is 0.15


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--save", "true"], "--calibrate"),
        (["--window", "64"], "window=64"),
        (["--kinds", '["int5"]'], "int5"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    place: Path, words: list[str], fault: str, capsys: pytest.CaptureFixture
) -> None:
    assert report(place, "refused", *words) == 2
    assert fault in capsys.readouterr().err


def test_a_text_that_is_too_short_is_refused(
    place: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("No.", encoding="utf-8")
    assert report(place, "short", "--text", str(tmp_path / "short.txt")) == 2
    assert "expected at least 16 (window)" in capsys.readouterr().err


def test_importance_is_the_mean_square_of_what_comes_in() -> None:
    model, ids = random_model(ARGS), list(range(5, 25))
    found = importances(model.args, model.state_dict().__getitem__, ids)
    wanted: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "output":

            def keep(_, given, name=name):  # type: ignore[no-untyped-def]
                wanted[f"{name}.weight"] = sum(x.square() for x in given[0][0]) / len(ids)

            module.register_forward_pre_hook(keep)
    with torch.no_grad():
        model(torch.tensor([ids]))
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name])


def test_a_model_that_was_shown_a_page_keeps_its_large_inputs() -> None:
    """One input of the second half of a feed-forward layer is far larger than the others."""
    args = ModelArgs(dim=64, n_layers=2, n_heads=4, vocab_size=96, hidden_dim=96)
    tokens = torch.randint(0, 96, (8, 32), generator=torch.Generator().manual_seed(3))

    def outlying() -> Transformer:
        model = random_model(args)
        for layer in model.layers:
            up = layer.get_submodule("feed_forward.w3").get_parameter("weight")
            with torch.no_grad():
                up[7] *= 100
        return model

    twin, errors = outlying(), []
    counts = importances(args, twin.state_dict().__getitem__, tokens[0].tolist())
    for importance in (None, counts):
        model = simulate(outlying(), "int4", importance)
        with torch.no_grad():
            errors.append((model(tokens[1:]) - twin(tokens[1:])).norm().item())
    assert errors[1] < 0.9 * errors[0]
