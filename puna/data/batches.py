"""Dialogues and answers → tensors: packed rows for fine-tuning, right-padded rows for reward models
and PPO.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Encoded = tuple[list[int], list[bool]]  # token ids, and True where a token is trained on


@dataclass(frozen=True)
class Batch:
    """Rows of packed dialogues.

    tokens [B, T] int64; mask [B, T] True on tokens that are trained on; positions [B, T] of a token
    in its own dialogue; document [B, T] the number of its dialogue in the row, -1 on padding.
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor
    document: Tensor

    def rows(self, start: int, stop: int) -> "Batch":
        return Batch(
            self.tokens[start:stop],
            self.mask[start:stop],
            self.positions[start:stop],
            self.document[start:stop],
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def attention(self) -> Tensor:
        """Who may look at whom, bool [B, 1, T, T]: earlier tokens of its dialogue and itself."""
        same = self.document[:, None, :] == self.document[:, :, None]
        return same.tril()[:, None]


def pack(examples: Sequence[Encoded], seq_len: int, order: Sequence[int]) -> list[list[int]]:
    """Fill rows of `seq_len` tokens with whole examples, taken in `order`; returns the examples'
    numbers by row.

    First fit over a few open rows, so that little is padding. An example longer than a row must be
    left out by the caller, who counts it.
    """
    open_rows: list[tuple[int, list[int]]] = []  # (tokens left, examples)
    rows: list[list[int]] = []
    for number in order:
        need = len(examples[number][0])
        place = next((i for i, (left, _) in enumerate(open_rows) if left >= need), None)
        if place is None:
            if len(open_rows) == 8:  # close the fullest
                fullest = min(range(8), key=lambda i: open_rows[i][0])
                rows.append(open_rows.pop(fullest)[1])
            open_rows.append((seq_len - need, [number]))
        else:
            left, members = open_rows[place]
            open_rows[place] = (left - need, [*members, number])
    return rows + [members for _, members in open_rows]


def stack(examples: Sequence[Encoded], rows: Sequence[Sequence[int]], seq_len: int) -> Batch:
    """The tensors of packed rows; padding has document -1 and is never trained on."""
    shape = (len(rows), seq_len)
    tokens, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    positions, document = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -1)
    for row, members in enumerate(rows):
        at = 0
        for place, number in enumerate(members):
            ids, trained = examples[number]
            end = at + len(ids)
            tokens[row, at:end] = torch.tensor(ids)
            mask[row, at:end] = torch.tensor(trained)
            positions[row, at:end] = torch.arange(len(ids))
            document[row, at:end] = place
            at = end
    longest = int((document >= 0).sum(1).max())
    return Batch(
        tokens[:, :longest], mask[:, :longest], positions[:, :longest], document[:, :longest]
    )


@dataclass(frozen=True)
class Padded:
    """Right-padded rows: tokens [B, T] int64, last [B] the place of each row's last token."""

    tokens: Tensor
    last: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


def pad(rows: Sequence[Sequence[int]]) -> Padded:
    """Right-pad rows of ids with 0 to the longest; under a causal mask no real token notices."""
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for number, ids in enumerate(rows):
        tokens[number, : len(ids)] = torch.tensor(ids)
    return Padded(tokens, torch.tensor([len(ids) - 1 for ids in rows]))


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group rows of similar length: rows x longest is within `budget` tokens, or it is one row."""
    group: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if group and (len(group) + 1) * lengths[number] > budget:
            yield group
            group = []
        group.append(number)
    if group:
        yield group
