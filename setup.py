"""The native kernels, compiled when Puna is installed; without a compiler Puna runs on torch."""

from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent
CPP = HERE / "puna" / "kernels" / "cpp"
# No -march: each instruction set has its own unit, empty on other processors, and these flags serve
# GCC and Clang on all of them. Contraction off: all instruction sets give the same bits.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-g0"]
# GCC 12 about its own AVX-512 headers; Clang about the name of that warning
QUIET = ["-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"]

setup(
    ext_modules=[
        Extension(
            "puna.kernels._native",
            sources=sorted(path.relative_to(HERE).as_posix() for path in CPP.glob("*.cpp")),
            depends=sorted(path.relative_to(HERE).as_posix() for path in CPP.glob("*.h")),
            extra_compile_args=FLAGS + QUIET,
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
    ]
)
