"""How much each key may ask: token buckets for requests and tokens, and requests at one time.

A bucket fills evenly and holds one period's worth. A request takes its prompt and the answer it
asks for; what it did not use it gets back.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from puna.web.failures import ApiError
from puna.web.keys import Key

MINUTE, DAY = 60.0, 86400.0

Clock = Callable[[], float]


class Bucket:
    """`size` units that come back evenly over `period` seconds."""

    def __init__(self, size: int, period: float, clock: Clock = time.monotonic) -> None:
        """A full bucket."""
        self.size, self.period, self._clock = size, period, clock
        self._left, self._seen = float(size), clock()

    @property
    def left(self) -> float:
        """Units there are now."""
        now = self._clock()
        grown = (now - self._seen) * self.size / self.period
        self._left, self._seen = min(self._left + grown, self.size), now
        return self._left

    def wait(self, units: float) -> float:
        """Seconds until `units` are there (0: they are); as if a full bucket were always enough."""
        short = min(units, self.size) - self.left
        return max(short, 0.0) * self.period / self.size

    def take(self, units: float) -> None:
        """Remove units; a negative number puts them back. The bucket may owe."""
        self._left = min(self.left - units, self.size)


@dataclass
class Ticket:
    """What one request took from its key's quota; `settle` once when it is over."""

    quota: "Quota"
    tokens: int
    open: bool = True

    def settle(self, used: int) -> None:
        """Give back what was not used, and the place among the requests at one time."""
        if self.open:
            self.open = False
            self.quota.running -= 1
            for bucket in self.quota.token_buckets:
                bucket.take(used - self.tokens)


class Quota:
    """The buckets of one key."""

    def __init__(self, key: Key, clock: Clock = time.monotonic) -> None:
        """Full buckets of the key's sizes; none where the key has no limit."""
        self.running = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.daily: Bucket | None = None
        self.follow(key, clock)

    def follow(self, key: Key, clock: Clock) -> None:
        """Take the key's limits as they are now; what was used stays used."""
        self.key = key
        self.requests = _bucket(key.requests_per_minute, MINUTE, clock, self.requests)
        self.tokens = _bucket(key.tokens_per_minute, MINUTE, clock, self.tokens)
        self.daily = _bucket(key.tokens_per_day, DAY, clock, self.daily)

    @property
    def token_buckets(self) -> list[Bucket]:
        """The buckets that tokens are taken from."""
        return [bucket for bucket in (self.tokens, self.daily) if bucket]

    def admit(self, tokens: int) -> Ticket:
        """Take one request of so many tokens. ApiError 429 with the seconds to wait."""
        if self.key.concurrent is not None and self.running >= self.key.concurrent:
            raise self._refusal(f"{self.key.concurrent} requests at the same time", 1)
        for bucket, units, name in (
            (self.requests, 1, "requests a minute"),
            (self.tokens, tokens, "tokens a minute"),
            (self.daily, tokens, "tokens a day"),
        ):
            if bucket and (wait := bucket.wait(units)) > 0:
                raise self._refusal(f"{bucket.size} {name}", wait)
        if self.requests:
            self.requests.take(1)
        for bucket in self.token_buckets:
            bucket.take(tokens)
        self.running += 1
        return Ticket(self, tokens)

    def headers(self) -> Iterator[tuple[str, str]]:
        """`x-ratelimit-*` as OpenAI's server names them, for the buckets by the minute."""
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket:
                yield f"x-ratelimit-limit-{name}", str(bucket.size)
                yield f"x-ratelimit-remaining-{name}", str(max(math.floor(bucket.left), 0))
                yield f"x-ratelimit-reset-{name}", f"{bucket.wait(bucket.size):.3f}s"

    def _refusal(self, limit: str, wait: float) -> ApiError:
        headers = dict(self.headers()) | {"retry-after": str(max(math.ceil(wait), 1))}
        return ApiError(429, f"this key is limited to {limit}", headers=headers)


class Quotas:
    """The quota of every key that has asked."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """No key has asked yet."""
        self._clock = clock
        self._quotas: dict[str, Quota] = {}

    def of(self, key: Key) -> Quota:
        """The key's quota."""
        if key.name not in self._quotas:
            self._quotas[key.name] = Quota(key, self._clock)
        quota = self._quotas[key.name]
        if quota.key != key:
            quota.follow(key, self._clock)
        return quota


def _bucket(
    size: int | None, period: float, clock: Clock, before: Bucket | None
) -> Bucket | None:
    if size is None or (before and before.size == size):
        return before if size is not None else None
    found = Bucket(size, period, clock)
    if before:
        found.take(before.size - before.left)
    return found
