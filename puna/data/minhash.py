"""Near duplicates among texts by MinHash and locality-sensitive hashing, in NumPy.

Broder (1997): the chance that two sets have the same minimum under a random permutation is their
Jaccard similarity. A signature of 128 minima is cut into 32 bands of 4; two texts that agree in a
whole band become candidates, and each candidate's similarity is then counted exactly. A pair of
similarity 0.7 becomes a candidate with probability 1 - (1 - 0.7^4)^32 = 0.9998.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from puna.errors import InputError

SHINGLE = 3  # words; two words changed among 40 leave (38 - 6) / (38 + 6) = 0.73 of the 3-grams
BANDS, ROWS = 32, 4
REACH = 64  # in a crowded bucket each text is compared with this many of the next ones
CHUNK = 1 << 17  # candidate pairs looked at together, for bounded memory

U64 = NDArray[np.uint64]
Indices = NDArray[np.int64]
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ShingleSets:
    """The distinct shingles of N texts, end to end.

    Text i owns `values[starts[i] : starts[i + 1]]`.
    """

    values: U64  # [S] 64-bit hashes, ascending inside each text
    starts: Indices  # [N + 1]

    @property
    def sizes(self) -> Indices:
        """Number of distinct shingles of each text, [N]."""
        return self.starts[1:] - self.starts[:-1]


def shingle_sets(texts: Sequence[str], width: int = SHINGLE) -> ShingleSets:
    """The set of word `width`-grams of each text; case and punctuation do not count.

    A text shorter than `width` words is padded, so that every text has at least one shingle.
    """
    codes: dict[str, int] = {}
    flat: list[int] = []
    lengths: list[int] = []
    for text in texts:
        words = _WORD.findall(text.casefold())
        for word in words:
            if word not in codes:
                codes[word] = _code(word)
        flat.extend([codes[word] for word in words])
        flat.extend([0] * (width - len(words)))
        lengths.append(max(len(words), width))
    return _distinct(np.array(flat, dtype=np.uint64), np.array(lengths, dtype=np.int64), width)


def _code(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _distinct(words: U64, lengths: Indices, width: int) -> ShingleSets:
    """Hash the windows of `words` [W] that stay inside one text, and sort out repeats."""
    owner = np.repeat(np.arange(len(lengths)), lengths)  # [W]
    inside = _offsets(lengths) <= lengths[owner] - width  # the window starts here and fits
    at = np.flatnonzero(inside)
    hashes = np.zeros(len(at), dtype=np.uint64)
    for k in range(width):
        hashes = _mix(hashes ^ words[at + k])
    owner = owner[at]
    order = np.lexsort((hashes, owner))
    owner, hashes = owner[order], hashes[order]
    first = np.ones(len(at), dtype=bool)
    first[1:] = (owner[1:] != owner[:-1]) | (hashes[1:] != hashes[:-1])
    sizes = np.bincount(owner[first], minlength=len(lengths))
    return ShingleSets(hashes[first], np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _offsets(lengths: Indices) -> Indices:
    """0, 1, ..., l - 1 for each length l, end to end."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(starts, lengths)


def _mix(x: U64) -> U64:
    """The finaliser of SplitMix64: a bijection of 64 bits in which every bit moves every other."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def signatures(sets: ShingleSets, seed: int = 0) -> NDArray[np.uint32]:
    """MinHash signatures, [N, BANDS * ROWS]: minima under seeded permutations a x + b mod 2^64."""
    rng = np.random.default_rng(seed)
    count = BANDS * ROWS
    scale = rng.integers(0, 1 << 63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    shift = rng.integers(0, 1 << 63, count, dtype=np.uint64)
    result = np.empty((len(sets.sizes), count), dtype=np.uint32)
    for k in range(count):
        hashed = sets.values * scale[k] + shift[k]
        result[:, k] = np.minimum.reduceat(hashed, sets.starts[:-1]) >> np.uint64(32)
    return result


def candidates(signature: NDArray[np.uint32]) -> Indices:
    """Pairs (later, earlier) of texts that agree in a whole band, [P, 2], sorted and distinct."""
    count = len(signature)
    found: list[Indices] = []
    for band in range(BANDS):
        key = np.zeros(count, dtype=np.uint64)
        for row in range(ROWS):
            key = _mix(key ^ signature[:, band * ROWS + row].astype(np.uint64))
        order = np.argsort(key, kind="stable")  # inside a bucket the order of the texts stays
        key = key[order]
        first = np.searchsorted(key, key)  # a crowd's copies all meet its first text
        found.append(order * count + order[first])
        for step in range(1, min(REACH, count - 1) + 1):
            same = np.flatnonzero(key[step:] == key[:-step])
            if not len(same):
                break  # no bucket holds more than `step` texts
            found.append(order[same + step] * count + order[same])
    later, earlier = np.divmod(np.unique(np.concatenate(found)), count)
    pairs: Indices = np.stack([later, earlier], axis=1)[later != earlier]
    return pairs


def jaccard(sets: ShingleSets, pairs: Indices) -> NDArray[np.float64]:
    """Exact |A and B| / |A or B| of the shingle sets of each pair [P, 2] -> [P]."""
    sizes = sets.sizes
    distinct, ids = np.unique(sets.values, return_inverse=True)
    keys = np.repeat(np.arange(len(sizes)), sizes) * len(distinct) + ids  # [S], ascending
    shared = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(pairs), CHUNK):
        left, right = pairs[start : start + CHUNK].T
        lengths = sizes[left]
        at = np.repeat(sets.starts[left], lengths) + _offsets(lengths)
        wanted = np.repeat(right, lengths) * len(distinct) + ids[at]
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        owner = np.repeat(np.arange(len(left)), lengths)
        shared.append(np.bincount(owner[keys[place] == wanted], minlength=len(left)))
    both = np.concatenate(shared)
    result: NDArray[np.float64] = both / (sizes[pairs].sum(axis=1) - both)
    return result


def near_duplicates(texts: Sequence[str], threshold: float = 0.7, seed: int = 0) -> Indices:
    """For each text, the index of the earlier kept text it nearly repeats, or -1: [N].

    A text is a near duplicate when its shingles' Jaccard similarity with a kept text before it is
    at least `threshold`; similarities are exact, only the search for pairs is probabilistic.

    Raises:
        InputError: the threshold is not in (0, 1].
    """
    if not 0.0 < threshold <= 1.0:
        raise InputError(f"threshold: {threshold}, expected a similarity in (0, 1]")
    twins = np.full(len(texts), -1, dtype=np.int64)
    if len(texts) < 2:
        return twins
    sets = shingle_sets(texts)
    signature = signatures(sets, seed)
    pairs = _plausible(signature, candidates(signature), threshold)
    pairs = pairs[jaccard(sets, pairs) >= threshold]
    for later, earlier in pairs.tolist():  # ascending, so `earlier` is settled before `later`
        if twins[later] < 0 and twins[earlier] < 0:
            twins[later] = earlier
    return twins


def _plausible(signature: NDArray[np.uint32], pairs: Indices, threshold: float) -> Indices:
    """The pairs whose estimated similarity is not 5 standard deviations below the threshold.

    One byte of each minimum is enough to estimate by (Li and Koenig 2010): it agrees by chance in
    1 of 256, which only adds pairs.
    """
    sketch = signature.astype(np.uint8)  # [N, BANDS * ROWS]
    floor = threshold - 5 * (0.25 / sketch.shape[1]) ** 0.5  # 0.22 below for 128 minima
    kept = [pairs[:0]]
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        agreement = np.count_nonzero(sketch[part[:, 0]] == sketch[part[:, 1]], axis=1)
        kept.append(part[agreement >= floor * sketch.shape[1]])
    return np.concatenate(kept)
