"""A model in files of any format, before a byte of its weights is read.

Readers of foreign formats give a `Source`, writers take one; between them tensors go one at a time,
so that a model larger than the memory can be converted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.model.transformer import ModelArgs


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: `read()` gives a fresh tensor of this shape and type on the CPU."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Source:
    """A model's settings, tensors (Meta's names and layout) and tokenizer file."""

    args: ModelArgs
    tensors: Mapping[str, Stored]
    tokenizer: Path | None  # tokenizer.model, tokenizer.json, or the GGUF file that holds one
    meta: dict[str, Any] = field(default_factory=dict)


def expected_tensors(args: ModelArgs) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of `Transformer(args)`, in the order of its layers."""
    queries, keys = args.n_heads * args.head_dim, args.kv_heads * args.head_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (args.vocab_size, args.dim)}
    for layer in range(args.n_layers):
        shapes |= {
            f"layers.{layer}.attention.wq.weight": (queries, args.dim),
            f"layers.{layer}.attention.wk.weight": (keys, args.dim),
            f"layers.{layer}.attention.wv.weight": (keys, args.dim),
            f"layers.{layer}.attention.wo.weight": (args.dim, queries),
            f"layers.{layer}.feed_forward.w1.weight": (args.ffn_dim, args.dim),
            f"layers.{layer}.feed_forward.w2.weight": (args.dim, args.ffn_dim),
            f"layers.{layer}.feed_forward.w3.weight": (args.ffn_dim, args.dim),
            f"layers.{layer}.attention_norm.weight": (args.dim,),
            f"layers.{layer}.ffn_norm.weight": (args.dim,),
        }
    shapes["norm.weight"] = (args.dim,)
    if not args.tie_embeddings:
        shapes["output.weight"] = (args.vocab_size, args.dim)
    return shapes
