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


@dataclass(frozen=True)
class Forked:
    """Rows of ids that fork: what several sequences begin with stands once, then each one's rest.

    tokens, positions [B, T] int64; branch [B, T]: 0 on the shared beginning, 1, 2, ... on the
    rests, -1 on padding; row and place [N]: where each sequence's last token stands, in order.
    """

    tokens: Tensor
    positions: Tensor
    branch: Tensor
    row: Tensor
    place: Tensor

    def attention(self) -> Tensor:
        """Who may look at whom, bool [B, 1, T, T]: the beginning and one's own branch, earlier."""
        query, key = self.branch[:, :, None], self.branch[:, None, :]
        return ((key == query) | ((key == 0) & (query > 0))).tril()[:, None]


def fork(groups: Sequence[Sequence[Sequence[int]]]) -> Forked:
    """One row for each group of sequences; what all of a group begin with is written once.

    A sequence sees what it would see alone, so its result is that of a row of its own, at less
    work: the answers to one prompt share it. At least the last token of each is its own.
    """
    forks = [(shared(group), group) for group in groups]
    width = max(n + sum(len(ids) - n for ids in group) for n, group in forks)
    shape = (len(groups), width)
    tokens, positions = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    branch, row, place = torch.full(shape, -1), [], []
    for number, (start, group) in enumerate(forks):
        tokens[number, :start] = torch.tensor(group[0][:start], dtype=torch.int64)
        positions[number, :start] = torch.arange(start)
        branch[number, :start] = 0
        at = start
        for which, ids in enumerate(group, 1):
            end = at + len(ids) - start
            tokens[number, at:end] = torch.tensor(ids[start:])
            positions[number, at:end] = torch.arange(start, len(ids))
            branch[number, at:end] = which
            at = end
            row.append(number)
            place.append(end - 1)
    return Forked(tokens, positions, branch, torch.tensor(row), torch.tensor(place))


def shared(group: Sequence[Sequence[int]]) -> int:
    """How many ids all sequences begin with, the last id of the shortest left out."""
    most = min(map(len, group)) - 1
    return next((n for n in range(most) if len({ids[n] for ids in group}) > 1), most)


def forked_length(group: Sequence[Sequence[int]]) -> int:
    """Tokens of a group's row."""
    start = shared(group)
    return start + sum(len(ids) - start for ids in group)


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
