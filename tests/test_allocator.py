"""What a run does to the C library's allocator, seen from outside by page faults and memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from puna import allocator
from puna.run import Run
from tests.test_run import Config

ROOT = Path(__file__).resolve().parent.parent
ON_GLIBC = pytest.mark.skipif(allocator.glibc() is None, reason="glibc only")

# 20 times: take 64 MiB, touch every page, give it back; the page faults of the last ten.
FAULTS = """
import ctypes, resource, sys
from puna import allocator
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
print(allocator.keep_memory() if sys.argv[1] == "keep" else None)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for n in range(20):
    before = faults() if n == 10 else before if n else 0
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
print(faults() - before)
held = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
print(held()); print(allocator.release()); print(held())
"""


def faults(kind: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, kind],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "MALLOC_TRIM_THRESHOLD_"} | environment,
    )
    assert done.stderr == ""
    return done.stdout.split()


@ON_GLIBC
def test_memory_that_is_kept_is_not_mapped_again() -> None:
    pages = 10 * (64 << 20) // 4096
    _, plain, *_ = faults("plain")
    was_set, kept, *_ = faults("keep")
    assert was_set == "True"
    assert int(plain) > 0.9 * pages and int(kept) < 0.01 * pages


@ON_GLIBC
def test_kept_memory_is_given_back_on_release() -> None:
    *_, before, found, after = faults("keep")
    assert found == "True" and int(before) - int(after) >= 60


@ON_GLIBC
@pytest.mark.parametrize(
    "chosen", [{"MALLOC_MMAP_THRESHOLD_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}]
)
def test_a_user_who_has_set_the_allocator_keeps_his_settings(chosen: dict[str, str]) -> None:
    was_set, count, *_ = faults("keep", **chosen)
    assert was_set == "False" and int(count) > 100_000


@pytest.mark.parametrize("fault", [AttributeError, ValueError])
def test_another_c_library_is_left_alone(
    fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def confstr(name: str) -> str:
        raise fault(name)

    monkeypatch.setattr(os, "confstr", confstr)
    assert not allocator.keep_memory({}) and not allocator.release()


def test_every_run_keeps_memory_and_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(allocator, "keep_memory", lambda: seen.append("keep"))
    monkeypatch.setattr(allocator, "release", lambda: seen.append("release"))
    run = Run.start(tmp_path / "a", Config())
    assert seen == ["keep"]
    run.finish()
    assert seen == ["keep", "release"]
    Run.start(tmp_path / "a", Config())  # finished: nothing to do
    assert seen == ["keep", "release"]
