"""The kernels of aarch64: compiled for it, run there or in an emulator, compared bit by bit."""

import ast
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from puna.kernels import native

ROOT = Path(__file__).resolve().parent.parent
CPP, DRIVER = ROOT / "puna" / "kernels" / "cpp", ROOT / "tests" / "kernels_neon.cpp"
HERE = platform.machine() in ("aarch64", "arm64")
COMPILER = shutil.which("c++" if HERE else "aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")
SECONDS = 600

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not COMPILER or not (HERE or EMULATOR),
        reason="needs an aarch64, or aarch64-linux-gnu-g++ and qemu-aarch64",
    ),
]


def flags() -> list[str]:
    """What `setup.py` gives the compiler."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    found = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
    return [*ast.literal_eval(found["FLAGS"]), *ast.literal_eval(found["QUIET"]), f"-I{CPP}"]


def run(*command: str | Path) -> str:
    """What a program prints; its faults, where it ends with another status than 0."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """The library and `kernels_neon.cpp` as one program for aarch64."""
    to = tmp_path_factory.mktemp("neon") / "driver"
    link = [] if HERE else ["-static"]
    run(COMPILER, *flags(), *link, DRIVER, *sorted(CPP.glob("*.cpp")), "-o", to)
    return to


@pytest.fixture(scope="module")
def printed(driver) -> str:
    """What the program says on a processor with all extensions."""
    return run(driver) if HERE else run(EMULATOR, "-cpu", "max", driver)


def lines(printed: str, word: str) -> list[str]:
    """The rest of the lines that begin with that word."""
    return [line.removeprefix(word + " ") for line in printed.splitlines() if line.startswith(word)]


def test_neon_gives_the_bits_of_the_plain_kernels(printed) -> None:
    assert lines(printed, "isa")[-2:] == ["neon", "plain"]
    assert len(lines(printed, "digest")) == 10
    assert not lines(printed, "fault")


@pytest.mark.skipif(HERE, reason="the processor cannot be chosen")
def test_dot_products_are_used_only_where_the_processor_has_them(driver, printed) -> None:
    assert lines(printed, "isa") == ["dotprod", "neon", "plain"]
    older = run(EMULATOR, "-cpu", "cortex-a53", driver)
    assert lines(older, "isa") == ["neon", "plain"]
    assert lines(older, "digest") == lines(printed, "digest")


@pytest.mark.skipif(HERE or native.library() is None, reason="no library of another machine")
def test_another_processor_computes_the_same_bits(printed, tmp_path) -> None:
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("needs a compiler for this machine")
    library = Path(native.loaded()._name)
    to = tmp_path / "driver"
    run(compiler, *flags(), DRIVER, library, f"-Wl,-rpath,{library.parent}", "-o", to)
    assert lines(run(to), "digest") == lines(printed, "digest")
