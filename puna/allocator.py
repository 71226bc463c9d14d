"""The C library's allocator, told to keep what a training step frees.

A step allocates and frees the same large tensors again and again. glibc gives each block above its
threshold (at most 32 MiB) back to the kernel when it is freed, and the next step pays for every
page anew: the kernel clears it and maps it. On a 15M model with 32000 tokens that is a fifth of a
step and more. So a run keeps freed memory until it ends. The price is memory that stays resident
between steps; `release` gives it back. Only glibc on Linux is touched, elsewhere nothing happens.
"""

import ctypes
import os
from collections.abc import Mapping

# Names of mallopt's parameters in glibc's malloc.h, and what a run sets them to.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
KEEP = {
    MMAP_MAX: 0,  # no block gets a mapping of its own, which would end with it
    TRIM_THRESHOLD: -1,  # the top of the heap is never given back unasked
    TOP_PAD: 64 << 20,  # bytes by which the heap grows beyond what is asked for
}


def keep_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep freed memory for the next allocation from here on; True if the allocator was set.

    A user who has set the allocator by MALLOC_..._ or GLIBC_TUNABLES keeps his settings.
    """
    if chosen_by_user(environment):
        return False
    library = glibc()
    return library is not None and all([library.mallopt(name, n) for name, n in KEEP.items()])


def release() -> bool:
    """Give free memory back to the system; True if there was any."""
    library = glibc()
    return library is not None and bool(library.malloc_trim(0))


def chosen_by_user(environment: Mapping[str, str]) -> bool:
    """Whether the environment sets glibc's allocator."""
    named = any(name.startswith("MALLOC_") and name.endswith("_") for name in environment)
    return named or "glibc.malloc." in environment.get("GLIBC_TUNABLES", "")


def glibc() -> ctypes.CDLL | None:
    """The C library of this process if it is glibc, else None (musl, macOS, Windows)."""
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return None
    except (AttributeError, ValueError):  # no confstr, or a C library that does not know the name
        return None
    library = ctypes.CDLL(None)
    library.mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    library.malloc_trim.argtypes = (ctypes.c_size_t,)
    return library
