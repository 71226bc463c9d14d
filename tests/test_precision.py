"""Which products a step computes: what the processor can do decides, and a check of the digits."""

from pathlib import Path

import pytest
import torch

from puna import console
from puna.errors import InputError
from puna.numerics import precision
from puna.numerics.optim import OptimConfig
from puna.recipes import steps

SETTING = torch.backends.mkldnn.matmul


@pytest.fixture
def amd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A processor of AMD's with AVX-512, by what the system says of it."""
    said = tmp_path / "cpuinfo"
    said.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\n")
    monkeypatch.setattr(precision, "CPUINFO", said)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(precision, "uses_onednn", precision.uses_onednn.__wrapped__)
    return said


def product_type(kind: precision.Precision) -> torch.dtype:
    """The type in which a product is computed inside."""
    with precision.products(kind):
        return (torch.ones(4, 4) @ torch.ones(4, 4)).dtype


def test_float32_means_float32() -> None:
    assert product_type("float32") == torch.float32


@pytest.mark.parametrize("able", [False, True])
def test_bfloat16_is_computed_only_where_the_processor_does_so(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: able)
    assert product_type("bfloat16") == (torch.bfloat16 if able else torch.float32)


@pytest.mark.parametrize(("flags", "able"), [("fp asimd bf16", True), ("fp asimd", False)])
def test_on_arm_the_system_says_whether_there_is_bfloat16(
    flags: str, able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nFeatures\t: {flags}\n")
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision.platform, "machine", lambda: "aarch64")
    assert precision.computes_bfloat16() == able


def test_on_amd_products_that_prove_exact_go_through_onednn_and_come_back(
    amd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "onednn_error", lambda: 1e-6)
    before = SETTING.fp32_precision
    with precision.products("float32"):
        assert SETTING.fp32_precision == "bf16"
    assert SETTING.fp32_precision == before


def test_products_that_round_their_inputs_are_not_taken_for_float32(
    amd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "onednn_error", lambda: 3e-3)
    with precision.products("float32"):
        assert SETTING.fp32_precision != "bf16"


def test_other_processors_are_not_asked(amd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    amd.write_text("vendor_id\t: GenuineIntel\n")
    monkeypatch.setattr(precision, "onednn_error", lambda: pytest.fail("was measured"))
    assert not precision.uses_onednn()


def test_where_nothing_describes_the_processor_onednn_is_not_used(
    amd: Path,
) -> None:
    amd.unlink()
    assert not precision.uses_onednn()


def test_the_check_tells_rounded_inputs_from_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    mm = torch.Tensor.__matmul__

    def rounding(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.dtype == torch.float32:
            a, b = a.bfloat16().float(), b.bfloat16().float()
        return mm(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    assert precision.onednn_error() > 10 * precision.TOLERANCE


def test_a_step_is_the_same_in_either_precision_where_bfloat16_is_emulated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: False)
    said: list[str] = []
    monkeypatch.setattr(console, "current", lambda: type("C", (), {"note": said.append}))
    steps.announce_precision.cache_clear()
    found = []
    for kind in ("float32", "bfloat16", "bfloat16"):
        torch.manual_seed(0)
        learner = steps.Learner(torch.nn.Linear(8, 8), OptimConfig(precision=kind))
        learner.learn([torch.ones(2, 8)], lambda x, m=learner.module: (m(x).square().sum(), 2), 0.1)
        found.append(learner.module.weight.detach())
    assert torch.equal(found[0], found[1])
    assert len(said) == 1 and "float32 instead of bfloat16" in said[0]


def test_weights_stay_float32_when_products_are_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: True)
    learner = steps.Learner(torch.nn.Linear(8, 8, bias=False), OptimConfig(precision="bfloat16"))
    seen: list[torch.dtype] = []

    def loss(x: torch.Tensor) -> steps.Summed:
        y = learner.module(x)
        seen.append(y.dtype)
        return y.float().sum(), 1

    learner.learn([torch.ones(2, 8)], loss, 0.1)
    assert seen == [torch.bfloat16] and learner.module.weight.dtype == torch.float32


def test_another_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"optim\.precision is 'half'"):
        OptimConfig(precision="half")  # type: ignore[arg-type]
