"""Small models and tensors that several test files draw from."""

import torch
from torch import Tensor

from puna.model.transformer import ModelArgs, Transformer

ARGS = ModelArgs(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=384, multiple_of=16, max_seq_len=32
)


def generator(seed: int = 0) -> torch.Generator:
    """A source of random numbers."""
    return torch.Generator().manual_seed(seed)


def new_model(seed: int = 0) -> Transformer:
    """A transformer with the vocabulary of `tiny_tokenizer`, freshly initialised."""
    return Transformer(ARGS).init_weights(generator(seed))


def normal(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Normal numbers of a shape."""
    return scale * torch.randn(*shape, generator=generator(seed))


def answers(seed: int, rows: int, length: int) -> Tensor:
    """A mask of one run of True in each row, starting and ending anywhere."""
    columns = torch.arange(length)
    ends = torch.randint(0, length, (rows, 2), generator=generator(seed))
    first, last = ends.min(dim=1).values, ends.max(dim=1).values
    return (columns >= first[:, None]) & (columns <= last[:, None])
