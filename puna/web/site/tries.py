"""How often somebody may ask, and how long a wrong password makes the next one wait.

All of it is in memory and bounded; a new start forgets it.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from puna.web.failures import ApiError
from puna.web.quotas import Bucket

Clock = Callable[[], float]


@dataclass(frozen=True)
class Rates:
    """Requests a minute, each also the most at once."""

    account: int = 1800  # of somebody who is logged in
    address: int = 600  # of everybody at an address who is not
    reports: int = 60  # CSP reports of an address
    lines: int = 60  # in the audit log, of what one person was denied


class Turnstile:
    """A bucket for everybody who comes; the one who came longest ago is forgotten."""

    def __init__(self, a_minute: int, clock: Clock = time.monotonic, most: int = 10_000) -> None:
        """Room for `most`, each with `a_minute`."""
        self._size, self._clock, self._most = a_minute, clock, most
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def wait(self, who: Hashable) -> float:
        """Take one; seconds to wait if there is none, and then none is taken."""
        bucket = self._buckets.pop(who, None) or Bucket(self._size, 60.0, self._clock)
        self._buckets[who] = bucket
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        wait = bucket.wait(1)
        if not wait:
            bucket.take(1)
        return wait

    def admit(self, who: Hashable) -> None:
        """ApiError 429: too many."""
        if wait := self.wait(who):
            raise too_often(wait)


@dataclass
class _Count:
    failures: int = 0
    until: float = 0.0
    last: float = 0.0


class Tries:
    """Failed log-ins, counted for each name and for each address.

    After FREE of them every further one waits twice as long, until LONGEST. An address from which a
    person came in before counts for itself with that name, so that nobody is shut out at home by a
    stranger who guesses elsewhere. Known names and unknown ones are counted alike.
    """

    FREE = {"name": 5, "address": 20, "pair": 5}  # noqa: RUF012 - read only
    LONGEST = 900.0
    FORGOTTEN = 3600.0  # seconds without a failure after which all is forgotten

    def __init__(self, clock: Clock = time.monotonic, most: int = 10_000) -> None:
        """Nobody failed yet."""
        self._clock, self._most = clock, most
        self._counts: OrderedDict[tuple[str, ...], _Count] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def begin(self, name: str, address: str) -> None:
        """Count a try as failed, before it is known to be, so that many at once are counted.

        ApiError 429: wait first.
        """
        moment = self._clock()
        keys = self._keys(name, address)
        counts = [self._counts.get(key, _Count()) for key in keys]
        if (wait := max(count.until for count in counts) - moment) > 0:
            raise too_often(wait)
        for key, count in zip(keys, counts, strict=True):
            if moment - count.last > self.FORGOTTEN:
                count.failures = 0
            count.failures, count.last = count.failures + 1, moment
            over = count.failures - self.FREE[key[0]]
            count.until = moment + min(2.0 ** min(over, 20), self.LONGEST) if over >= 0 else 0.0
            _keep(self._counts, key, count, self._most)

    def succeeded(self, name: str, address: str) -> None:
        """It was no failure: the name's are forgotten, and the address' is taken back."""
        for key in self._keys(name, address):
            count = self._counts.get(key)
            if count and key[0] == "address":
                count.failures, count.until = count.failures - 1, 0.0
            else:
                self._counts.pop(key, None)
        _keep(self._known, (name, network(address)), None, self._most)

    def _keys(self, name: str, address: str) -> list[tuple[str, ...]]:
        place = network(address)
        if (name, place) in self._known:
            return [("pair", name, place), ("address", place)]
        return [("name", name), ("address", place)]


def network(address: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits, which one customer has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def too_often(wait: float) -> ApiError:
    """Status 429, with the seconds to wait."""
    seconds = max(math.ceil(wait), 1)
    headers = {"retry-after": str(seconds)}
    return ApiError(429, f"too often; try again in {seconds} s", headers=headers)


def _keep(kept: OrderedDict, key: tuple[str, ...], value: object, most: int) -> None:  # type: ignore[type-arg]
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
