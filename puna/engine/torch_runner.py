"""The runner for any device and any transformer, adapters and weights in training included.

Pages hold the truth: keys and values of 16 tokens each, where the scheduler says. What decodes is
also held in `Dense`, row by row, as attention reads it: gathering it from pages in each step would
cost more than the attention. A row is gathered once, when it begins to decode.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from puna.engine.blocks import BLOCK, blocks_for
from puna.engine.runner import Row
from puna.errors import InputError
from puna.model.transformer import Cache, ModelArgs, Transformer

SHORT = 16  # new tokens of a row that is decoding: one, and what speculation guesses


def moves(gone: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Rows to copy (from, to) so that those left of `count` rows fill the first places.

    >>> moves([0, 3], count=5)
    [(4, 0)]
    """
    kept, lost = count - len(gone), set(gone)
    sources = [row for row in range(kept, count) if row not in lost]
    return list(zip(sources, [row for row in gone if row < kept], strict=True))


def cache_over(args: ModelArgs, storage: Tensor, used: int) -> Cache:
    """The model's cache in a tensor [2, n_layers, rows, kv_heads, length, head_dim]."""
    cache = Cache(args, 0, 0, dtype=storage.dtype, device=storage.device)
    keys, values = storage.unbind(0)
    cache.k, cache.v = list(keys.unbind(0)), list(values.unbind(0))
    cache.used = used
    return cache


class Dense:
    """Keys and values of the decoding rows, without holes: row i is that of owners[i].

    A row starts as zeros, because even a masked column is multiplied (by a weight of 0).
    """

    def __init__(self, args: ModelArgs, like: Tensor):
        self.args, self.like = args, like
        self.owners: list[int] = []
        self.storage = self.room(0, 0)

    def room(self, rows: int, length: int) -> Tensor:
        """Room for so many rows of so many tokens; it may hold anything."""
        args = self.args
        shape = (2, args.n_layers, rows, args.kv_heads, length, args.head_dim)
        return self.like.new_empty(shape)

    def hold(self, rows: Sequence[Row], pages: Tensor, width: int) -> list[Row]:
        """Make the rows those of these owners, reading in the new ones; returns them in order.

        A row may come to stand at another place than before, and one without an owner is read anew.
        """
        wanted = {row.owner: row for row in rows if row.owner}
        self.drop(set(self.owners) - wanted.keys())
        self.grow(len(rows), width)
        known = set(self.owners)
        new = [row for row in rows if row.owner not in known]
        if new:
            first = len(self.owners)
            self.storage[:, :, first : first + len(new)].zero_()
            read(self.storage[:, :, first : first + len(new)], pages, new)
        order = [wanted[owner] for owner in self.owners] + new
        self.owners += [row.owner for row in new]
        return order

    def drop(self, owners: set[int]) -> None:
        """Let go of the rows of these owners, and close the holes with the last rows."""
        gone = [place for place, owner in enumerate(self.owners) if owner in owners]
        for source, target in moves(gone, len(self.owners)):
            self.storage[:, :, target].copy_(self.storage[:, :, source])
            self.owners[target] = self.owners[source]
        del self.owners[len(self.owners) - len(gone) :]

    def grow(self, rows: int, length: int) -> None:
        """Room for so many rows and columns; more than asked for, so that it is rarely needed."""
        have_rows, have_length = self.storage.shape[2], self.storage.shape[4]
        if rows <= have_rows and length <= have_length:
            return
        if rows > have_rows:
            have_rows = rows
        if length > have_length:
            have_length = min(length * 5 // 4 + BLOCK, self.args.max_seq_len + BLOCK)
        old, self.storage = self.storage, self.room(have_rows, have_length)
        count = len(self.owners)
        self.storage[:, :, :count, :, old.shape[4] :].zero_()
        self.storage[:, :, :count, :, : old.shape[4]].copy_(old[:, :, :count])


def read(storage: Tensor, pages: Tensor, rows: Sequence[Row]) -> None:
    """Fill the columns before each row's start from its blocks; the others are not touched."""
    most = blocks_for(max(row.start for row in rows))
    if most == 0:
        return
    table = torch.zeros(len(rows), most, dtype=torch.long)
    for place, row in enumerate(rows):
        blocks = list(row.blocks[: blocks_for(row.start)])
        table[place, : len(blocks)] = torch.tensor(blocks, dtype=torch.long)
    found = pages[table.to(pages.device)].flatten(1, 2)  # [rows, columns, 2, layers, heads, dim]
    starts = torch.tensor([row.start for row in rows])
    beyond = (torch.arange(most * BLOCK) >= starts[:, None]).to(pages.device)
    found.masked_fill_(beyond[:, :, None, None, None, None], 0)  # it may hold anything, even NaN
    width = min(most * BLOCK, storage.shape[4])
    storage[..., :width, :].copy_(found[:, :width].permute(2, 3, 0, 4, 1, 5))


class TorchRunner:
    """A `Runner` over a live module; its results are the module's own up to rounding.

    blocks: the size of the cache, for weights that stay as they are until `load`. None: for weights
    in training; the cache then grows as it is needed (`reserve`), and the engine keeps nothing of
    it from one call to the next.
    """

    block_size = BLOCK

    def __init__(self, model: Transformer, blocks: int | None = None):
        self.elastic = blocks is None
        self.adapters: dict[str, Transformer] = {}
        self.n_blocks = 0
        self.load(model)
        self.reserve(blocks or 0)

    @torch.inference_mode()
    def load(self, model: Transformer) -> None:
        """Compute with another model of the same shape, or any shape while nothing is reserved."""
        self.model, args, weight = model, model.args, model.tok_embeddings.weight
        self.vocab_size, self.context = args.vocab_size, args.max_seq_len
        self.device = weight.device
        self.dense: dict[str | None, Dense] = {}
        shape = (self.n_blocks, BLOCK, 2, args.n_layers, args.kv_heads, args.head_dim)
        self.pages = torch.empty(shape, dtype=weight.dtype, device=self.device)

    @torch.inference_mode()
    def reserve(self, blocks: int) -> None:
        """Make the cache `blocks` large. A larger one keeps what was there; 0 drops all."""
        old, self.n_blocks = self.pages, blocks
        self.pages = old.new_empty(blocks, *old.shape[1:])
        self.pages[: len(old)].copy_(old[:blocks])
        if blocks == 0:
            self.dense = {}

    def add_adapter(self, name: str, model: Transformer) -> None:
        """Rows that name this adapter are computed by `model`, which has the same shape (and
        usually shares its trunk: `puna.model.lora.share`). InputError: another shape.
        """
        if model.args != self.model.args:
            raise InputError(f"adapter {name}: made for a model of another shape")
        self.adapters[name] = model

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter."""
        del self.adapters[name]
        self.dense.pop(name, None)

    @torch.inference_mode()
    def copy_block(self, source: int, target: int) -> None:
        """Make the block `target` a copy of `source`."""
        self.pages[target].copy_(self.pages[source])

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Logits of the wanted tokens in order, float32 [sum(wanted), vocab_size]."""
        logits = None
        for model, hidden, places in self.passes(rows):
            found = model.output(hidden).float()
            if logits is None:
                logits = found.new_empty(sum(row.wanted for row in rows), self.vocab_size)
            logits[places] = found
        return self.pages.new_empty(0, self.vocab_size).float() if logits is None else logits

    @torch.inference_mode()
    def embed(self, rows: Sequence[Row]) -> Tensor:
        """The last hidden states of the wanted tokens, float32 [sum(wanted), dim]."""
        width = self.model.args.dim
        result = self.pages.new_empty(sum(row.wanted for row in rows), width, dtype=torch.float32)
        for _, hidden, places in self.passes(rows):
            result[places] = hidden.float()
        return result

    def passes(self, rows: Sequence[Row]) -> list[tuple[Transformer, Tensor, Tensor]]:
        """Compute all rows; for each model, the wanted hidden states and their places."""
        offsets, total = {}, 0
        for row in rows:
            offsets[id(row)] = total
            total += row.wanted
        result = []
        for name in dict.fromkeys(row.adapter for row in rows):
            model = self.model if name is None else self.adapters[name]
            found: list[Tensor] = []
            places: list[int] = []
            for group, hidden in self.groups(model, name, [r for r in rows if r.adapter == name]):
                length = hidden.shape[1]
                picked: list[int] = []
                for place, row in enumerate(group):
                    last = place * length + len(row.tokens)
                    picked += range(last - row.wanted, last)
                    places += range(offsets[id(row)], offsets[id(row)] + row.wanted)
                flat = hidden.flatten(0, 1)
                whole = len(picked) == len(flat)
                found.append(flat if whole else flat[self.tensor(picked)])
            result.append((model, torch.cat(found), self.tensor(places)))
        return result

    def groups(
        self, model: Transformer, name: str | None, rows: list[Row]
    ) -> list[tuple[list[Row], Tensor]]:
        """Rows that are computed in one pass, and their hidden states [rows, T, dim].

        Prompts that begin at the same position are padded to the longest of them; a padded place
        writes a column that the row itself writes before it looks at it.
        """
        most = max((len(row.tokens) for row in rows if short(row)), default=0)
        fits = [short(row) and row.start + most <= self.context for row in rows]
        decoding = [row for row, fit in zip(rows, fits, strict=True) if fit]
        by_start: dict[int, list[Row]] = {}
        for row, fit in zip(rows, fits, strict=True):
            if not fit:
                by_start.setdefault(row.start, []).append(row)
        result = []
        dense = self.dense.setdefault(name, Dense(model.args, self.pages))
        dense.drop({row.owner for group in by_start.values() for row in group})
        for start, group in by_start.items():
            storage = self.fresh(model.args, group)
            if start:
                read(storage, self.pages, group)
            result.append((group, self.compute(model, storage, group)))
        if decoding:
            ends = max(row.start for row in decoding) + most
            order = dense.hold(decoding, self.pages, rounded(ends))
            result.append((order, self.compute(model, dense.storage, order)))
        return result

    def fresh(self, args: ModelArgs, rows: Sequence[Row]) -> Tensor:
        """Room for the keys and values of rows that are not decoding.

        Every column is written before it is looked at: by `read`, by a token, or by padding.
        """
        width = max(row.start + len(row.tokens) for row in rows)
        return Dense(args, self.pages).room(len(rows), width)

    def compute(self, model: Transformer, storage: Tensor, rows: Sequence[Row]) -> Tensor:
        """One pass over rows, the first in `storage` with their earlier keys: [rows, T, dim].

        Afterwards the new ones are in the pages too.
        """
        length = max(len(row.tokens) for row in rows)
        tokens = self.tensor([[*row.tokens, *[0] * (length - len(row.tokens))] for row in rows])
        starts = self.tensor([row.start for row in rows])
        positions = starts[:, None] + torch.arange(length, device=self.device)
        used = min(rounded(max(row.start for row in rows) + length), storage.shape[4])
        cache = cache_over(model.args, storage[:, :, : len(rows)], used)
        hidden = model.hidden(tokens, positions, cache=cache)
        self.write(storage, rows)
        return hidden

    def write(self, storage: Tensor, rows: Sequence[Row]) -> None:
        """Copy the keys and values of the new tokens into their pages.

        Row by row of head_dim numbers: the general indexing of a tensor takes ten times as long.
        """
        two, layers, _, heads, _, width = storage.shape
        own = [stride // width for stride in storage.stride()[:5]]  # in heads' vectors
        columns, tokens = [], []
        for place, row in enumerate(rows):
            for position in range(row.start, row.start + len(row.tokens)):
                columns.append(place * own[2] + position * own[4])
                tokens.append(row.blocks[position // BLOCK] * BLOCK + position % BLOCK)
        inside = [
            a * own[0] + b * own[1] + c * own[3]
            for a in range(two)
            for b in range(layers)
            for c in range(heads)
        ]
        places = self.tensor(columns)[:, None] + self.tensor(inside)
        new = storage.view(-1, width).index_select(0, places.flatten()).view(len(columns), -1)
        self.pages.view(-1, new.shape[1]).index_copy_(0, self.tensor(tokens), new)

    def tensor(self, numbers: list[int] | list[list[int]]) -> Tensor:
        """Whole numbers as a tensor on the model's device."""
        return torch.tensor(numbers, dtype=torch.long, device=self.device)


def short(row: Row) -> bool:
    """Whether a row is decoding, or close to it."""
    return row.start > 0 and len(row.tokens) <= SHORT and row.wanted > 0


def rounded(length: int) -> int:
    """The next multiple of a block: attention looks at so many columns."""
    return blocks_for(length) * BLOCK
