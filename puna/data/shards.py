"""Token shards: a corpus as flat files of token ids with an index and hashes, and a stream that can
seek.

A folder holds `tokens-00000.bin`, ... (little-endian uint16 or uint32), and `index.json` with the
count and SHA-256 of each. Documents stand one after the other, each as BOS, its tokens, EOS. Which
window a row of a batch reads is a pure function of (seed, step, row), so resuming needs one integer
and nothing else.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from puna.errors import InputError
from puna.text.files import read_json, sha256, write_json


def write_shards(
    folder: Path,
    documents: Iterable[list[int]],
    vocab_size: int,
    tokenizer_hash: str,
    shard_tokens: int,
) -> int:
    """Write the documents' token ids into shards of about `shard_tokens`; returns the total."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")
    entries, total, count = [], 0, 0
    for shard, (ids, documents_in) in enumerate(filled(documents, shard_tokens)):
        path = folder / f"tokens-{shard:05d}.bin"
        np.asarray(ids, dtype=kind).tofile(path)
        entries.append({"file": path.name, "tokens": len(ids), "sha256": sha256(path)})
        total, count = total + len(ids), count + documents_in
    if total == 0:
        raise InputError(f"{folder}: the corpus is empty, no document is left to tokenise")
    index = {
        "format": 1,
        "dtype": kind.str,
        "vocab_size": vocab_size,
        "tokenizer_sha256": tokenizer_hash,
        "tokens": total,
        "documents": count,
        "shards": entries,
    }
    write_json(folder / "index.json", index)
    return total


def filled(documents: Iterable[list[int]], size: int) -> Iterator[tuple[list[int], int]]:
    """Group documents into lists of at least `size` ids (but the last), with how many in each."""
    ids: list[int] = []
    count = 0
    for document in documents:
        ids.extend(document)
        count += 1
        if len(ids) >= size:
            yield ids, count
            ids, count = [], 0
    if ids:
        yield ids, count


class TokenStream:
    """Random windows of a shard folder; a batch depends on (seed, step) and on nothing before."""

    def __init__(self, folder: Path, tokenizer_hash: str | None = None):
        index = read_json(folder / "index.json")
        if tokenizer_hash is not None and index["tokenizer_sha256"] != tokenizer_hash:
            other = index["tokenizer_sha256"][:12]
            raise InputError(f"{folder}: made with another tokenizer ({other})")
        self.folder, self.tokens = folder, int(index["tokens"])
        self.ids = np.concatenate([self.read(entry, index) for entry in index["shards"]])

    def read(self, entry: dict, index: dict) -> np.ndarray:
        """One shard, its hash, length and largest id checked."""
        path = self.folder / entry["file"]
        if not path.exists() or sha256(path) != entry["sha256"]:
            wanted = entry["sha256"][:12]
            raise InputError(f"{path}: damaged or missing, expected SHA-256 {wanted}...")
        ids = np.memmap(path, dtype=index["dtype"], mode="r")
        if int(ids.max()) >= index["vocab_size"]:
            raise InputError(
                f"{path}: token id {ids.max()} at {ids.argmax()} is not below {index['vocab_size']}"
            )
        return ids

    def windows(self, seq_len: int) -> int:
        """How many windows of seq_len + 1 tokens the stream holds (neighbours share one token)."""
        return (len(self.ids) - 1) // seq_len

    def batch(self, step: int, rows: int, seq_len: int, seed: int) -> Tensor:
        """The windows of a step, int64 [rows, seq_len + 1]; each once before any comes again."""
        windows = self.windows(seq_len)
        if windows == 0:
            raise InputError(
                f"{self.folder}: {self.tokens} tokens do not fill one window of {seq_len}"
            )
        picks = []
        for number in range(step * rows, (step + 1) * rows):
            epoch, place = divmod(number, windows)
            picks.append(int(permutation(seed, epoch, windows)[place]))
        rows_of_ids = [self.ids[w * seq_len : w * seq_len + seq_len + 1] for w in picks]
        return torch.from_numpy(np.stack(rows_of_ids).astype(np.int64))


_orders: dict[tuple[int, int, int], np.ndarray] = {}


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the windows in one epoch; the last one is remembered."""
    key = (seed, epoch, count)
    if key not in _orders:
        _orders.clear()
        _orders[key] = np.random.default_rng(key).permutation(count)
    return _orders[key]
