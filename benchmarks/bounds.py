"""What this machine could do: bytes read a second from memory, products a second in matrices.

    python benchmarks/bounds.py

The benchmarks measure these between their rounds, since a shared machine's memory is quicker in one
minute than in the next. Reading is a loop in C over a buffer of the size in question (a model that
fits the cache is held to the cache's speed), compiled on the spot; without a compiler torch sums.
"""

import argparse
import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import peers  # noqa: E402

READ = """
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
typedef uint64_t wide __attribute__((vector_size(64)));
typedef struct { const wide *from; size_t count; int repeats; wide sum; } Part;
static void *read_part(void *given) {
  Part *part = given;
  wide a = {0}, b = {0}, c = {0}, d = {0};
  for (int r = 0; r < part->repeats; r++)
    for (size_t i = 0; i + 4 <= part->count; i += 4) {
      a ^= part->from[i]; b ^= part->from[i + 1];
      c ^= part->from[i + 2]; d ^= part->from[i + 3];
    }
  part->sum = a ^ b ^ c ^ d;
  return 0;
}
uint64_t read_all(const char *from, size_t bytes, int threads, int repeats) {
  pthread_t made[64];
  Part parts[64];
  size_t each = bytes / threads / 64;
  uint64_t sum = 0;
  if (threads > 64) return 0;
  for (int t = 0; t < threads; t++) {
    parts[t] = (Part){(const wide *)from + t * each, each, repeats, {0}};
    if (pthread_create(&made[t], 0, read_part, &parts[t])) return 0;
  }
  for (int t = 0; t < threads; t++) { pthread_join(made[t], 0); sum ^= parts[t].sum[0]; }
  return sum;
}
"""
ABOUT = 1 << 29  # bytes read in one measurement: some 20 ms


@cache
def reader() -> ctypes.CDLL | None:
    """The compiled loop; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    place = peers.cache() / f"read-{os.getpid()}.so"
    place.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-O3", "-march=native", "-shared", "-fPIC", "-pthread", "-x", "c", "-"]
    words = [compiler, "-o", str(place), *flags]
    try:
        made = subprocess.run(words, input=READ, text=True, capture_output=True, check=False)
        if made.returncode:
            return None
        library = ctypes.CDLL(str(place))
    finally:
        place.unlink(missing_ok=True)
    library.read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int]
    library.read_all.restype = ctypes.c_uint64
    return library


@cache
def buffer() -> Tensor:
    """1 GB of written memory in large pages where there are any."""
    memory = mmap.mmap(-1, 1 << 30)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.int64).fill_(1)


def bandwidth(size: int, threads: int) -> float:
    """Bytes a second of reading so many bytes (at most 1 GB) again and again."""
    size = min(size, 1 << 30) // 4096 * 4096
    place, repeats = buffer(), max(1, ABOUT // size)
    read_once(place, size, threads, 1)  # into the cache, if it fits
    started = time.perf_counter()
    read_once(place, size, threads, repeats)
    return size * repeats / (time.perf_counter() - started)


def read_once(place: Tensor, size: int, threads: int, repeats: int) -> None:
    """Read the buffer's beginning `repeats` times."""
    library = reader()
    if library is not None:
        library.read_all(place.data_ptr(), size, threads, repeats)
        return
    for _ in range(repeats):
        place[: size // 8].sum()


def products(size: int = 1024) -> dict[str, float]:
    """Multiply-adds counted twice, a second, of torch's square products in its number types."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(size, size, generator=generator)
    small = torch.randint(-127, 128, (size, size), dtype=torch.int8, generator=generator)
    half = whole.bfloat16()
    return {
        "float32": 2 * size**3 / least(lambda: whole @ whole),
        "bfloat16": 2 * size**3 / least(lambda: half @ half),
        "int8": 2 * size**3 / least(lambda: torch._int_mm(small, small)),
    }


def least(work) -> float:
    """Seconds of the quickest of three runs after one that is not counted."""
    work()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    for megabytes in (16, 64, 128, 256, 1024):
        print(f"read {megabytes} MB: {bandwidth(megabytes << 20, threads) / 1e9:.1f} GB/s")
    for name, rate in products().items():
        print(f"{name} products: {rate / 1e9:.0f} G/s")


if __name__ == "__main__":
    main()
