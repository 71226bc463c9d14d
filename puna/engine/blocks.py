"""Who holds which block of the key/value cache: counts, sharing, and prefixes found again.

The cache is a pool of blocks of 16 tokens. A block is free, referenced by one or more answers, or
cached: referenced by nobody, but full, and kept because a later prompt may begin with the same
tokens. A full block is found by a chained hash of its tokens and of all before them, which begins
with the tenant and the adapter: what one tenant wrote is never found by another.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

BLOCK = 16  # tokens a block


def blocks_for(tokens: int) -> int:
    """The blocks that so many tokens need."""
    return -(-tokens // BLOCK)


def root_key(tenant: str, adapter: str | None) -> bytes:
    """The key before the first block: equal only for the same tenant and the same adapter."""
    names = f"{len(tenant)}:{tenant}/{'' if adapter is None else '=' + adapter}"
    return hashlib.blake2b(names.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def next_key(before: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full block of tokens behind the block (or root) with the key `before`."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


class OutOfBlocks(Exception):
    """No block is free and none can be evicted."""


class Blocks:
    """The accounts of a pool of `count` blocks; the blocks themselves are a runner's.

    The prefix cache evicts the block that was let go longest ago.
    """

    def __init__(self, count: int):
        self.count = 0
        self.references: list[int] = []
        self.keys: list[bytes | None] = []  # of a full block that may be found again
        self.free: list[int] = []
        self.cached: OrderedDict[int, None] = OrderedDict()  # oldest first
        self.found: dict[bytes, int] = {}
        self.evicted = 0  # blocks so far
        self.grow(count)

    @property
    def available(self) -> int:
        """Blocks that can be taken now: the free and the cached ones."""
        return len(self.free) + len(self.cached)

    @property
    def used(self) -> int:
        """Blocks that answers refer to."""
        return self.count - self.available

    def grow(self, count: int) -> None:
        """Make the pool `count` blocks large; those that are there stay as they are."""
        more = range(self.count, count)
        self.references += [0] * len(more)
        self.keys += [None] * len(more)
        self.free[:0] = reversed(more)  # the lowest numbers are taken first
        self.count = max(self.count, count)

    def take(self) -> int:
        """A block for one more owner, empty. OutOfBlocks if all are referenced."""
        if self.free:
            block = self.free.pop()
        elif self.cached:
            block, _ = self.cached.popitem(last=False)
            self.evicted += 1
            self.unname(block)
        else:
            raise OutOfBlocks(f"all {self.count} blocks are in use")
        self.references[block] = 1
        return block

    def share(self, blocks: Iterable[int]) -> None:
        """One more owner for each of these blocks, which have one or are cached."""
        for block in blocks:
            if self.references[block] == 0:
                del self.cached[block]  # KeyError: nobody may share a free block
            self.references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One owner fewer; without any, a block that has a key is kept, another is free.

        The last blocks of a text are let go first, so that its beginning is kept longest.
        """
        for block in reversed(blocks):
            assert self.references[block] > 0, f"block {block} was released twice"
            self.references[block] -= 1
            if self.references[block]:
                continue
            if self.keys[block] is None:
                self.free.append(block)
            else:
                self.cached[block] = None

    def shared(self, block: int) -> bool:
        """Whether somebody else would see what is written into the block."""
        return self.references[block] > 1

    def name(self, block: int, key: bytes) -> None:
        """A full block that is referenced can be found by its key from now on.

        Where another block has the key already, that one stays the one that is found.
        """
        if key not in self.found and self.keys[block] is None:
            self.found[key] = block
            self.keys[block] = key

    def unname(self, block: int) -> None:
        """The block is found no more."""
        key = self.keys[block]
        if key is not None:
            del self.found[key]
            self.keys[block] = None

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks of the longest run of these keys that is there, not yet shared."""
        blocks = []
        for key in keys:
            block = self.found.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def forget(self) -> None:
        """Find nothing again: the weights have changed. Owners keep their blocks."""
        for block in list(self.found.values()):
            self.unname(block)
        self.free += self.cached
        self.cached.clear()

    def check(self, owners: Iterable[Sequence[int]]) -> None:
        """AssertionError unless every block is free, cached, or referenced as `owners` say."""
        counts = [0] * self.count
        for blocks in owners:
            for block in blocks:
                counts[block] += 1
        assert counts == self.references, "the counts differ from what is referenced"
        idle = {block for block, number in enumerate(counts) if number == 0}
        kinds = [*self.free, *self.cached]
        assert len(kinds) == len(idle) and set(kinds) == idle, "a block is lost or there twice"
        assert all(self.keys[block] is None for block in self.free), "a free block has a key"
        assert all(self.keys[block] is not None for block in self.cached), "a cached one has none"
        named = {key: block for block, key in enumerate(self.keys) if key is not None}
        assert named == self.found, "keys and blocks differ"
