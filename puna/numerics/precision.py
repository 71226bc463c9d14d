"""How matrix products of a training step are computed on this processor.

Weights, gradients, losses and the optimiser are float32 always. What can be chosen is the type and
the library of the matrix products:

- "bfloat16" asks for products of bfloat16 numbers (torch's autocast). A processor without
  instructions for them (AVX512_BF16, AMX) emulates them at about a sixth of the speed of float32
  (measured); there the products stay in float32, which is faster and more exact.
- float32 products go through MKL, which does not use AVX-512 on AMD's processors; oneDNN does. It
  is chosen there, where its products prove to be float32.
"""

import contextlib
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]
CPUINFO = Path("/proc/cpuinfo")
TOLERANCE = 2e-5  # relative: float32 products come to about 1e-6, rounded inputs to 4e-3


@contextlib.contextmanager
def products(precision: Precision, device: str = "cpu") -> Iterator[None]:
    """Inside, matrix products on `device` are computed in this precision, as fast as can be."""
    half = precision == "bfloat16" and (device != "cpu" or computes_bfloat16())
    with onednn(device == "cpu" and uses_onednn()):
        with torch.autocast(device, torch.bfloat16) if half else contextlib.nullcontext():
            yield


def computes_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 numbers itself."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" in _flags()  # 64-bit Arm


@cache
def uses_onednn() -> bool:
    """Whether float32 products go through oneDNN: on AMD's AVX-512, if they prove to be float32."""
    suits = "AuthenticAMD" in _vendor() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return suits and torch.backends.mkldnn.is_available() and onednn_error() < TOLERANCE


def onednn_error() -> float:
    """The largest error of oneDNN's products against float64, relative to the largest entry.

    torch sends float32 products to oneDNN only under a setting that allows bfloat16 inputs, which
    some processors take at its word: hence the check. It covers the three products of a layer's
    training at sizes that the setting changes.
    """
    draw = torch.Generator().manual_seed(0)
    worst = 0.0
    for rows, inner, columns in ((256, 512, 512), (512, 288, 768), (1024, 1024, 256)):
        a = torch.randn(rows, inner, generator=draw)
        b = torch.randn(columns, inner, generator=draw)
        c = torch.randn(rows, columns, generator=draw)
        for left, right in ((a, b.T), (c, b), (c.T, a)):
            with onednn(True):
                found = left @ right
            wanted = left.double() @ right.double()
            worst = max(worst, ((found - wanted).abs().max() / wanted.abs().max()).item())
    return worst


@contextlib.contextmanager
def onednn(wanted: bool) -> Iterator[None]:
    """Inside, float32 products on the CPU go through oneDNN if wanted; else nothing changes."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    if wanted:
        setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def _vendor() -> str:
    """The line of /proc/cpuinfo that names the maker; "" where there is none."""
    return _line("vendor_id")


def _flags() -> list[str]:
    """What the processor says it can do, on 64-bit Arm."""
    return _line("Features").split()


def _line(name: str) -> str:
    """The first line of /proc/cpuinfo that begins so; "" where there is none."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(name)), "")
