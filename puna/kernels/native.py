"""The compiled library: found, checked, called through ctypes.

It is compiled when Puna is installed (`setup.py`), contains no Python and no torch, and holds the
kernels for several instruction sets, each in a unit of its own that is empty on other processors:

    avx512   x86-64 with AVX-512 F, BW, VL, DQ and VNNI
    avx2     x86-64 with AVX2, FMA and F16C
    dotprod  aarch64 with the dotprod extension (Apple M1, Graviton 2 and later)
    neon     every aarch64
    plain    any machine, and the yardstick of the others

The best one that the machine says it has (cpuid, the kernel's hwcap, macOS's sysctl) is used, after
a small product has shown that it gives the same bits as the plain one; `PUNA_ISA` asks for a lower
one. Without the library `available()` is None, and one warning is logged.

ctypes releases the interpreter's lock during a call. The records below are those of `cpp/types.h`
and `cpp/decoder.h`.
"""

import ctypes
import logging
import os
import sys
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from puna.errors import InputError

LOG = logging.getLogger(__name__)
ISAS = ("avx512", "avx2", "dotprod", "neon", "plain")  # the library's numbers, best first
KINDS = ("float32", "bfloat16", "int8", "int4")  # the library's numbers
VERSION = 3  # of the records and calls; the library says its own
GROUP = 32  # inputs that share a scale
LANES = 16  # rows side by side in a packed matrix, tokens in a block of the cache
MAX_QUERIES = 8
CPUS = Path("/sys/devices/system/cpu")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


class MatrixRecord(Structure):
    """`Matrix` of cpp/types.h."""

    _fields_ = (
        ("kind", c_int32),
        ("rows", c_int32),
        ("cols", c_int32),
        ("blocks", c_int32),
        ("groups", c_int32),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
    )


class QueriesRecord(Structure):
    """`Queries` of cpp/types.h."""

    _fields_ = (
        ("count", c_int32),
        ("q", c_void_p * MAX_QUERIES),
        ("out", c_void_p * MAX_QUERIES),
        ("last", c_int32 * MAX_QUERIES),
        ("head_dim", c_int32),
        ("wide", c_int32),
        ("window", c_int32),
        ("half_cache", c_int32),
        ("cache", c_void_p),
        ("block_bytes", c_int64),
        ("blocks", c_void_p),
        ("scores", c_void_p),
        ("score_stride", c_int64),
    )


class ConfigRecord(Structure):
    """`Config` of cpp/decoder.h."""

    _fields_ = (
        *((name, c_int32) for name in ("dim", "layers", "heads", "kv_heads", "head_dim", "ffn")),
        *((name, c_int32) for name in ("vocab", "context", "window", "kind", "n_blocks")),
        ("threads", c_int32),
        ("eps", c_float),
        ("rope", c_void_p),
        ("embedding", POINTER(MatrixRecord)),
        ("output", POINTER(MatrixRecord)),
        ("matrices", POINTER(MatrixRecord)),
        ("norms", POINTER(c_void_p)),
        ("cache", c_void_p),
    )


class BatchRecord(Structure):
    """`Batch` of cpp/decoder.h."""

    _fields_ = (
        ("rows", c_int32),
        *((name, POINTER(c_int32)) for name in ("tokens", "lengths", "starts", "wanted")),
        *((name, POINTER(c_int32)) for name in ("adapters", "blocks", "block_counts")),
    )


class LowRankRecord(Structure):
    """`LowRank` of cpp/decoder.h."""

    _fields_ = (("rank", c_int32), ("a", c_void_p), ("b", c_void_p))


SIGNATURES = {
    "puna_version": (c_int, ()),
    "puna_isa_name": (c_char_p, (c_int,)),
    "puna_multiply": (c_int, (c_int, c_int, POINTER(MatrixRecord), c_void_p, c_int, c_void_p)),
    "puna_read_rows": (None, (POINTER(MatrixRecord), c_void_p, c_int, c_void_p)),
    "puna_swiglu": (None, (c_int, c_void_p, c_void_p, c_int, c_void_p)),
    "puna_norm": (None, (c_int, c_void_p, c_void_p, c_int, c_float, c_void_p)),
    "puna_attend": (None, (c_int, POINTER(QueriesRecord))),
    "puna_decoder_new": (c_void_p, (c_int, POINTER(ConfigRecord))),
    "puna_decoder_free": (None, (c_void_p,)),
    "puna_decoder_forward": (c_int, (c_void_p, POINTER(BatchRecord), c_int, c_void_p)),
    "puna_decoder_copy_block": (None, (c_void_p, c_int, c_int)),
    "puna_decoder_set_adapter": (c_int, (c_void_p, c_int, POINTER(LowRankRecord))),
}


@cache
def library() -> ctypes.CDLL | None:
    """The library with its signatures, or None (one warning) where it is missing or another's."""
    found = sorted(Path(__file__).parent.glob("_native*"))
    why = "were not built"
    for path in found:
        try:
            native = ctypes.CDLL(str(path))
            if native.puna_version() != VERSION:
                why = f"are of another version than Puna ({path.name})"
                continue
        except (OSError, AttributeError) as error:
            why = f"cannot be loaded ({error})"
            continue
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(native, name)
            function.restype, function.argtypes = result, arguments
        return native
    LOG.warning(
        "the native kernels %s, torch answers instead, slowly: "
        "install a C++ compiler, then Puna again (pip install --force-reinstall --no-deps)",
        why,
    )
    return None


def loaded() -> ctypes.CDLL:
    """The library, where `available()` has shown that it is there."""
    native = library()
    if native is None:
        raise InputError("the native kernels were not built, expected a library in puna/kernels")
    return native


def offered() -> list[str]:
    """The instruction sets that this machine and this build have, best first."""
    native = library()
    if native is None:
        return []
    return [name for number, name in enumerate(ISAS) if native.puna_isa_name(number)]


@cache
def available() -> str | None:
    """The instruction set in use, or None where there is no library."""
    names = offered()
    if not names:
        return None
    wish = os.environ.get("PUNA_ISA", "")
    if wish:
        if wish not in names:
            raise InputError(f"PUNA_ISA is {wish!r}, expected one of {', '.join(names)}")
        names = names[names.index(wish) :]
    for name in names:
        if agrees(name):
            return name
        LOG.warning("the %s kernels miscalculate on this machine: the next ones are used", name)
    return None


def agrees(isa: str) -> bool:
    """Whether a small product of every kind has the bits of the plain kernels."""
    from puna.kernels.matrix import Matrix

    source = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, 96, generator=source) for n in (40, 5))
    matrices = [Matrix.pack(weight, kind) for kind in KINDS]
    return all(
        torch.equal(m.matmul(x, threads=1, isa=isa), m.matmul(x, threads=1, isa="plain"))
        for m in matrices
    )


def number(isa: str | None) -> int:
    """The library's number of an instruction set (None: the one in use)."""
    name = available() if isa is None else isa
    if name not in offered():
        raise InputError(f"isa is {name!r}, expected one of {', '.join(offered())}")
    return ISAS.index(name)


@cache
def cores() -> int:
    """Physical cores that this process may use: two threads of one core share its arithmetic.

    OMP_NUM_THREADS, by which PyTorch is bounded, bounds them too, and so does a container's share.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    most = int(said) if said.isdecimal() and int(said) else sys.maxsize
    return min(most, physical_cores(), granted_cores())


def granted_cores() -> int:
    """The processor time of a container's limit in whole cores (control groups v2), or no bound.

    More threads than that would be stopped together for the rest of each period.
    """
    try:
        time, period = QUOTA.read_text(encoding="ascii").split()
        return max(1, -(-int(time) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return sys.maxsize


def physical_cores() -> int:
    """The cores of this process's processors, each counted once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is None:
        return os.cpu_count() or 1
    siblings = set()
    for cpu in allowed:
        path = CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        try:
            siblings.add(path.read_text(encoding="ascii"))
        except OSError:
            siblings.add(str(cpu))
    return max(1, len(siblings))


def floats(x: Tensor, what: str) -> Tensor:
    """The tensor as contiguous float32 on the processor; a ValueError for another type."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(f"{what} is {x.dtype} on {x.device}, expected float32 on cpu")
    return x.contiguous()


def check(status: int) -> None:
    """MemoryError where a call says that memory has run out."""
    if status:
        raise MemoryError("the native kernels found no memory")
