"""Hostile and ordinary `.pth` files made by hand, and how much memory reading them takes."""

import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def zipped(path: Path, code: bytes, members: dict[str, bytes] | None = None, **kinds) -> Path:
    """A zip with a data.pkl (None: without) and other members, as torch.save would lay it out."""
    with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        file.writestr("archive/data.pkl", code, **kinds)
        for name, content in (members or {"archive/data/0": bytes(16)}).items():
            file.writestr(zipfile.ZipInfo(name), content)
    return path


def tensor_code(
    size: int = 4, shape: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85", offset: int = 0
) -> bytes:
    """A data.pkl of one float32 tensor "w" in data/0, its parts as given."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"
    return (
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"J%btQJ%b" % (struct.pack("<i", size), struct.pack("<i", offset))
        + shape
        + stride
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


def growth(action: Callable[[], object]) -> int:
    """By how many bytes the process grew at the peak of an action."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        pytest.skip("needs Linux's /proc")

    def figure(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    before = figure("VmRSS")
    action()
    return figure("VmHWM") - before


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., object], *args: object):
        self.called = (function, args)

    def __reduce__(self):
        return self.called


def attacks(marker: Path) -> dict[str, bytes]:
    """data.pkl files that leave a file if something runs them."""
    touch = f"touch {marker}"
    python = f"open({str(marker)!r}, 'w').close()"
    text = b"X" + struct.pack("<I", len(touch)) + touch.encode()
    tensor = tensor_code()
    inside = pickle.dumps(Call(os.system, touch), protocol=2)[2:-1]
    return {
        "os.system": pickle.dumps({"w": Call(os.system, touch)}, protocol=2),
        "eval": pickle.dumps(Call(eval, python), protocol=2),
        "exec": pickle.dumps([Call(exec, python)], protocol=2),
        "torch.load": pickle.dumps(Call(torch.load, str(marker)), protocol=2),
        "torch.hub": b"\x80\x02ctorch.hub\nload\n" + text + b"\x85R.",
        "getattr": b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\n\x86R.",
        "partial": b"\x80\x02cfunctools\npartial\ncos\nsystem\n\x85R" + text + b"\x85R.",
        "protocol 0": pickle.dumps(Call(os.system, touch), protocol=0),
        "protocol 4": pickle.dumps(Call(os.system, touch), protocol=4),
        "stack global": b"\x80\x02X\x02\0\0\0osX\x06\0\0\0system\x93" + text + b"\x85R.",
        "inst": b"\x80\x02(" + text + b"ios\nsystem\n.",
        "obj": b"\x80\x02(cos\nsystem\n" + text + b"o.",
        "newobj": b"\x80\x02cos\nsystem\n" + text + b"\x85\x81.",
        "extension": b"\x80\x02\x82\x01" + text + b"\x85R.",
        "behind the tensors": tensor[:-1] + inside + b"0.",
        "after the end": tensor + inside,
        "in the metadata": tensor[:-1] + inside + b"b.",
        "as a hook": tensor.replace(b"ccollections\nOrderedDict\n)R", inside),
        "as a shape": tensor.replace(b"K\x04\x85", inside),
        "as a storage": tensor.replace(b"X\x07\0\0\0storage", inside),
        "storage from a file": b"\x80\x02ctorch\nFloatStorage\n" + text + b"\x85R.",
        "dotted name": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        "ordered dict of a call": b"\x80\x02ccollections\nOrderedDict\n" + inside + b"\x85R.",
    }
