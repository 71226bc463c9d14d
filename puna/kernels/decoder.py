"""A Llama's whole forward pass in one native call, over a paged cache of keys and values.

`Decoder` is a `Runner` (`puna/engine/runner.py`): rows of new tokens of several sequences go in,
logits come out. A token's result has the same bits whatever rows stand beside it, however its
prompt was cut into calls, and for every number of threads and instruction set.
"""

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from puna.errors import InputError
from puna.kernels import native
from puna.kernels.matrix import Matrix
from puna.kernels.native import GROUP, LANES, ConfigRecord, LowRankRecord, MatrixRecord

BLOCK = LANES  # tokens of a block
MOST_TOKENS = 1024  # of one native call; more are cut, which changes no result
WIDEST_HEAD = 1024
PLACES = (
    *(f"attention.{name}" for name in ("wq", "wk", "wv", "wo")),
    *(f"feed_forward.{name}" for name in ("w1", "w2", "w3")),
)


class Shape(Protocol):
    """What is read of a model's arguments (`puna.model.transformer.ModelArgs`)."""

    @property
    def dim(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def ffn_dim(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_seq_len(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def tie_embeddings(self) -> bool: ...
    @property
    def sliding_window(self) -> int | None: ...


class Row(Protocol):
    """New tokens of one sequence (`puna.engine.runner.Row`)."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def start(self) -> int: ...
    @property
    def blocks(self) -> Sequence[int]: ...
    @property
    def wanted(self) -> int: ...
    @property
    def adapter(self) -> str | None: ...


Part = tuple[Sequence[int], int, Sequence[int], int, int]  # tokens, start, blocks, wanted, slot
LoraPairs = Mapping[str, tuple[Tensor, Tensor]]


class Decoder:
    """A model's weights in one of the kinds, and `n_blocks` blocks of 16 tokens of cache.

    tensors: gives a weight by Meta's name. rope: the rotary table exp(i angle), complex64
    [max_seq_len, head_dim / 2]. The cache holds float32 for float32 weights and half precision for
    all others; with int4 the embedding and the output matrix are kept in int8. importance: by a
    matrix's name, what an error in each of its inputs costs (`puna.model.importance`).
    """

    def __init__(
        self,
        args: Shape,
        tensors: Callable[[str], Tensor],
        kind: str,
        n_blocks: int,
        threads: int | None = None,
        *,
        rope: Tensor,
        isa: str | None = None,
        importance: Mapping[str, Tensor] | None = None,
    ):
        if kind not in native.KINDS:
            raise InputError(f"kind is {kind!r}, expected one of {', '.join(native.KINDS)}")
        if n_blocks < 1 or (threads is not None and threads < 1):
            raise InputError(f"n_blocks is {n_blocks}, threads {threads}, expected at least 1")
        if args.head_dim % 2 or args.head_dim > WIDEST_HEAD or args.n_heads % args.kv_heads:
            raise InputError(f"head_dim is {args.head_dim}, expected an even number")
        if rope.shape != (args.max_seq_len, args.head_dim // 2) or not rope.is_complex():
            raise ValueError(f"rope has shape {list(rope.shape)}, not one angle per pair")
        self.args, self.kind, self.n_blocks = args, kind, n_blocks
        self.vocab_size, self.context, self.block_size = args.vocab_size, args.max_seq_len, BLOCK
        self.threads = threads or native.cores()
        self._isa = native.number(isa)
        self._lock = threading.Lock()
        self._slots: dict[str, int] = {}
        self._kept: dict[int, list[Tensor]] = {}  # the tensors of every adapter's slot
        self._records_of: dict[int, ctypes.Array] = {}  # and where they are
        self._rope = torch.view_as_real(rope.to(torch.complex64)).contiguous()
        self._weights(tensors, importance or {})
        self._cache = self._fresh_cache()
        self._start()

    def _weights(self, tensors: Callable[[str], Tensor], importance: Mapping[str, Tensor]) -> None:
        """Pack every matrix: wq|wk|wv and w1|w3 as one, each part of the latter padded."""
        args = self.args
        q, kv = args.n_heads * args.head_dim, args.kv_heads * args.head_dim
        shapes = {
            **{"attention.wq": (q, args.dim), "attention.wk": (kv, args.dim)},
            **{"attention.wv": (kv, args.dim), "attention.wo": (args.dim, q)},
            **dict.fromkeys(("feed_forward.w1", "feed_forward.w3"), (args.ffn_dim, args.dim)),
            "feed_forward.w2": (args.dim, args.ffn_dim),
        }

        def read(name: str, *shape: int) -> Tensor:
            tensor = tensors(name)
            if tensor.shape != shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}")
            return tensor.detach().float()

        def norm(name: str) -> Tensor:
            return F.pad(read(f"{name}.weight", args.dim), (0, -args.dim % GROUP)).contiguous()

        edge = "int8" if self.kind == "int4" else self.kind
        table = "tok_embeddings.weight"
        self.embedding = Matrix.pack(read(table, args.vocab_size, args.dim), edge)
        self.output = self.embedding
        if not args.tie_embeddings:
            self.output = Matrix.pack(read("output.weight", args.vocab_size, args.dim), edge)
        self.matrices: list[Matrix] = []
        self._norms: list[Tensor] = []
        for number in range(args.n_layers):
            part = {n: read(f"layers.{number}.{n}.weight", *s) for n, s in shapes.items()}
            together = torch.cat([part[f"attention.{name}"] for name in ("wq", "wk", "wv")])
            up = [
                F.pad(part[f"feed_forward.{n}"], (0, 0, 0, -args.ffn_dim % GROUP))
                for n in ("w1", "w3")
            ]
            of_input = {  # matrices that read the same inputs are one
                **{"attention.wq": together, "attention.wo": part["attention.wo"]},
                **{"feed_forward.w1": torch.cat(up), "feed_forward.w2": part["feed_forward.w2"]},
            }
            for name, weight in of_input.items():
                counts = importance.get(f"layers.{number}.{name}.weight")
                self.matrices.append(Matrix.pack(weight, self.kind, counts))
            self._norms += [norm(f"layers.{number}.{n}") for n in ("attention_norm", "ffn_norm")]
        self._norms.append(norm("norm"))

    def _fresh_cache(self) -> Tensor:
        """Zeros [n_layers, n_blocks, bytes]: memory is taken only when a block is first written."""
        args = self.args
        size = 4 if self.kind == "float32" else 2
        head = BLOCK * (args.head_dim + -(-args.head_dim // LANES) * LANES) * size
        shape = (args.n_layers, self.n_blocks, args.kv_heads * head)
        return torch.from_numpy(np.zeros(shape, dtype=np.uint8))  # torch's own are written

    def _start(self) -> None:
        """Hand everything to the library."""
        args = self.args
        edges = (MatrixRecord * 2)(self.embedding.record(), self.output.record())
        layers = (MatrixRecord * len(self.matrices))(*(m.record() for m in self.matrices))
        norms = (ctypes.c_void_p * len(self._norms))(*(n.data_ptr() for n in self._norms))
        self._records = (edges, layers, norms)  # the library keeps pointers to them
        numbers = (args.dim, args.n_layers, args.n_heads, args.kv_heads, args.head_dim)
        config = ConfigRecord(
            *numbers,
            *(args.ffn_dim, args.vocab_size, args.max_seq_len, args.sliding_window or 0),
            *(native.KINDS.index(self.kind), self.n_blocks, self.threads, args.norm_eps),
            self._rope.data_ptr(),
            *(ctypes.pointer(edges[0]), ctypes.pointer(edges[1]), layers),
            norms,
            self._cache.data_ptr(),
        )
        self._native = native.loaded()
        self._handle = self._native.puna_decoder_new(self._isa, ctypes.byref(config))
        if not self._handle:
            raise MemoryError("the native decoder found no memory")

    def resize(self, n_blocks: int) -> None:
        """Make the cache `n_blocks` large; what both sizes have stays as it is."""
        if n_blocks < 1:
            raise InputError(f"n_blocks is {n_blocks}, expected at least 1")
        with self._lock:
            old, kept = self._cache, min(n_blocks, self.n_blocks)
            self.n_blocks = n_blocks
            self._cache = self._fresh_cache()
            self._cache[:, :kept] = old[:, :kept]
            self._native.puna_decoder_free(self._handle)
            self._start()
            for slot, records in self._records_of.items():
                native.check(self._native.puna_decoder_set_adapter(self._handle, slot, records))

    def __del__(self) -> None:
        """Give the library's part back."""
        if getattr(self, "_handle", None):
            self._native.puna_decoder_free(self._handle)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that one decoded token reads: all but an untied embedding."""
        return sum(matrix.nbytes for matrix in (*self.matrices, self.output))

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Logits of each row's last `wanted` tokens, float32 [sum of wanted, vocab_size]."""
        return self._run(rows, hidden=False)

    def embed(self, rows: Sequence[Row]) -> Tensor:
        """The same before the output matrix: after the final norm, [sum of wanted, dim]."""
        return self._run(rows, hidden=True)

    def _run(self, rows: Sequence[Row], hidden: bool) -> Tensor:
        parts = [self._checked(row) for row in rows]
        out = torch.empty(
            sum(part[3] for part in parts), self.args.dim if hidden else self.vocab_size
        )
        done = 0
        with self._lock:
            for call in calls(parts):
                arrays = native_columns(call)
                fields = (ctypes.cast(a, ctypes.POINTER(ctypes.c_int32)) for a in arrays)
                batch = native.BatchRecord(len(call), *fields)
                at = out[done:].data_ptr() if done < len(out) else None
                forward = self._native.puna_decoder_forward
                native.check(forward(self._handle, ctypes.byref(batch), int(hidden), at))
                done += sum(part[3] for part in call)
        return out

    def _checked(self, row: Row) -> Part:
        """A row whose ids, places and blocks exist; InputError or ValueError otherwise."""
        tokens, blocks, end = row.tokens, row.blocks, row.start + len(row.tokens)
        if len(tokens) == 0 or row.start < 0 or not 0 <= row.wanted <= len(tokens):
            raise ValueError(
                f"a row of {len(tokens)} tokens from {row.start} on wants {row.wanted} results"
            )
        if min(tokens) < 0 or max(tokens) >= self.vocab_size:
            strange = min(tokens) if min(tokens) < 0 else max(tokens)
            raise InputError(f"token id is {strange}, expected 0..{self.vocab_size - 1}")
        if end > self.context:
            raise InputError(f"a sequence has {end} tokens, expected at most {self.context}")
        if len(blocks) * BLOCK < end:
            raise ValueError(f"{len(blocks)} blocks do not hold {end} tokens")
        if min(blocks) < 0 or max(blocks) >= self.n_blocks:
            raise ValueError(f"a block id is not in 0..{self.n_blocks - 1}")
        slot = -1
        if row.adapter is not None:
            if row.adapter not in self._slots:
                raise InputError(f"adapter is {row.adapter!r}, expected one that was added")
            slot = self._slots[row.adapter]
        return tokens, row.start, blocks, row.wanted, slot

    def copy_block(self, source: int, target: int) -> None:
        """Copy the keys and values of a block, in all layers."""
        if not (0 <= source < self.n_blocks and 0 <= target < self.n_blocks):
            raise ValueError(f"blocks {source} and {target} are not in 0..{self.n_blocks - 1}")
        with self._lock:
            self._native.puna_decoder_copy_block(self._handle, source, target)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names that rows can give as their adapter."""
        return tuple(self._slots)

    def add_adapter(self, name: str, pairs: LoraPairs) -> None:
        """Rows with `adapter=name` get y += B (A x) in float32 at these matrices.

        pairs: Meta's name of a matrix ("layers.0.attention.wq", with ".weight" or without) to
        A [rank, in] and B [out, rank], its scale within one of them. A name that is in use raises.
        """
        if name in self._slots:
            raise InputError(f"adapter {name!r} exists, expected a new name")
        args = self.args
        q, kv = args.n_heads * args.head_dim, args.kv_heads * args.head_dim
        ends = [(args.dim, q), (args.dim, kv), (args.dim, kv), (q, args.dim)]
        ends += [(args.dim, args.ffn_dim), (args.ffn_dim, args.dim), (args.dim, args.ffn_dim)]
        sizes = dict(zip(PLACES, ends, strict=True))
        records = (LowRankRecord * (args.n_layers * len(PLACES)))()
        kept = []
        for given, (a, b) in pairs.items():
            place, inputs, outputs = self._place(given, sizes)
            rank = a.shape[0]
            if rank < 1 or a.shape != (rank, inputs) or b.shape != (outputs, rank):
                shapes = f"{list(a.shape)} and {list(b.shape)}"
                raise ValueError(
                    f"{given} has {shapes}, expected [rank, {inputs}], [{outputs}, rank]"
                )
            a = F.pad(a.detach().float(), (0, -inputs % GROUP)).contiguous()
            b = F.pad(b.detach().float().T, (0, -outputs % LANES)).contiguous()
            kept += [a, b]
            records[place] = LowRankRecord(rank, a.data_ptr(), b.data_ptr())
        slot = next(n for n in range(len(self._slots) + 1) if n not in self._slots.values())
        with self._lock:
            native.check(self._native.puna_decoder_set_adapter(self._handle, slot, records))
        self._slots[name], self._kept[slot], self._records_of[slot] = slot, kept, records

    def _place(self, given: str, sizes: dict[str, tuple[int, int]]) -> tuple[int, int, int]:
        """Number of an adapted matrix in the library's order, and its sizes (in, out)."""
        words = given.removesuffix(".weight").split(".")
        layer, place = words[1] if len(words) > 1 else "", ".".join(words[2:])
        known = words[0] == "layers" and place in sizes and layer.isdecimal()
        if not known or int(layer) >= self.args.n_layers:
            raise InputError(
                f"adapted matrix is {given!r}, expected layers.N. and a place in a layer"
            )
        return int(layer) * len(PLACES) + PLACES.index(place), *sizes[place]

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter."""
        if name not in self._slots:
            raise InputError(f"adapter is {name!r}, expected one that was added")
        with self._lock:
            slot = self._slots.pop(name)
            self._native.puna_decoder_set_adapter(self._handle, slot, None)
            del self._kept[slot], self._records_of[slot]


def calls(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts in calls of at most MOST_TOKENS tokens; a long one is cut."""
    out: list[list[Part]] = []
    room = 0
    for tokens, start, blocks, wanted, slot in parts:
        at = 0
        while at < len(tokens):
            if room == 0:
                out.append([])
                room = MOST_TOKENS
            end = min(len(tokens), at + room)
            mine = max(0, end - max(at, len(tokens) - wanted))  # the wanted are the last of all
            out[-1].append((tokens[at:end], start + at, blocks, mine, slot))
            room -= end - at
            at = end
    return out


def native_columns(parts: Sequence[Part]) -> list[Any]:
    """The arrays of `BatchRecord`, in its order."""
    tokens, starts, blocks, wanted, slots = zip(*parts, strict=True)
    columns = (
        list(chain.from_iterable(tokens)),
        [len(one) for one in tokens],
        *(starts, wanted, slots),
        list(chain.from_iterable(blocks)),
        [len(one) for one in blocks],
    )
    return [(ctypes.c_int32 * len(column))(*column) for column in columns]
