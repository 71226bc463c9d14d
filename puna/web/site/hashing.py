"""Passwords beside the event loop, few at a time: each needs 64 MiB and a tenth of a second."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from puna.store.passwords import Passwords
from puna.web.failures import unavailable

AT_ONCE, WAITING = 2, 30

T = TypeVar("T")


class Hashing:
    """Makes and checks hashes in threads of its own; who would wait too long is sent away (503)."""

    def __init__(self, passwords: Passwords | None = None, at_once: int = AT_ONCE) -> None:
        """At most `at_once` hashes run at the same time."""
        self.passwords = passwords or Passwords()
        self._threads = ThreadPoolExecutor(at_once, "hash")
        self._most, self._running = at_once + WAITING, 0

    async def hashed(self, password: str) -> str:
        """The hash to keep."""
        return await self._beside(lambda: self.passwords.hashed(password))

    async def matches(self, kept: str | None, password: str) -> bool:
        """Whether this is the password; as much work where none is kept."""
        return await self._beside(lambda: self.passwords.matches(kept, password))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    async def _beside(self, job: Callable[[], T]) -> T:
        if self._running >= self._most:
            raise unavailable("too many people log in at this moment", 2)
        self._running += 1
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, job)
            return await asyncio.shield(running)
        finally:
            self._running -= 1
