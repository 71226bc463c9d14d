"""Reward and value models: a transformer with one number as its output (section 3.2.2)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.model.transformer import Transformer

Pool = Literal["last", "last+max"]


class RewardModel(nn.Module):
    """A dialog and its answer to one score, read from the hidden state of the last token.

    The score is the value before the sigmoid; sigmoid(score) is the probability of the paper's
    thresholds. pool: what the head reads; "last": the last token's hidden state; "last+max": that
    plus the largest value of each feature over all tokens that the last one sees, so that a word
    far back is not lost in a small model. With a generator the head is drawn from it (normal, mean
    0, standard deviation 1 / sqrt(dim + 1), bias 0); without one it is zero, to be loaded. The
    transformer is used as it is, not copied; its output projection is kept but not used. The paper
    leaves pooling and initialisation open; the latter is that of Stiennon et al. 2020.
    """

    def __init__(
        self,
        transformer: Transformer,
        generator: torch.Generator | None = None,
        pool: Pool = "last",
    ):
        super().__init__()
        self.transformer, self.pool = transformer, pool
        self.head = scalar_head(transformer, generator, bias=True)

    def forward(
        self,
        tokens: Tensor,
        last: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Scores [B], float32, of tokens [B, T]; last [B] is the index of each row's last token.

        positions and mask as in `Transformer`. ValueError where last does not fit.
        """
        if last.shape != tokens.shape[:1]:
            raise ValueError(f"last has shape {list(last.shape)}, tokens have {list(tokens.shape)}")
        if last.numel() and not 0 <= int(last.min()) <= int(last.max()) < tokens.shape[1]:
            raise ValueError(f"last is {last.tolist()}, rows are {tokens.shape[1]} tokens long")
        rows = torch.arange(len(last), device=last.device)
        return self.at(tokens, rows, last, positions, mask)

    def at(
        self,
        tokens: Tensor,
        row: Tensor,
        place: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Scores [N] read at (row, place) of tokens [B, T]: several sequences may share a row."""
        hidden = self.transformer.hidden(tokens, positions, mask)  # [B, T, dim]
        found = hidden[row, place]
        if self.pool == "last+max":
            found = found + peaks(hidden, row, place, mask)
        return scalar(self.head, found)


def peaks(hidden: Tensor, row: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
    """Each feature's largest value over what the token at (row, place) sees, [N, dim].

    hidden [B, T, dim]; mask bool [B, 1, T, T], or None: everything up to the token.
    """
    if mask is None:
        seen = torch.arange(hidden.shape[1], device=hidden.device) <= place[:, None]
    else:
        seen = mask.expand(hidden.shape[0], 1, -1, -1)[row, 0, place]  # [N, T]
    return hidden[row].masked_fill(~seen[:, :, None], -math.inf).amax(dim=1)


class ValueModel(nn.Module):
    """The critic of PPO: the expected return at every token; its head has no bias."""

    def __init__(self, transformer: Transformer, generator: torch.Generator | None = None):
        super().__init__()
        self.transformer = transformer
        self.head = scalar_head(transformer, generator, bias=False)

    def forward(
        self, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Values [B, T], float32, of tokens [B, T]; positions and mask as in `Transformer`."""
        return scalar(self.head, self.transformer.hidden(tokens, positions, mask))


def scalar_head(
    transformer: Transformer, generator: torch.Generator | None, bias: bool
) -> nn.Linear:
    """A linear layer from the hidden state to one number: drawn, or zero without a generator.

    In the transformer's type, or in float32 on a frozen one, where the head is what is trained.
    """
    like = transformer.tok_embeddings.weight
    dim = transformer.args.dim
    dtype = like.dtype if like.requires_grad else torch.float32
    # Made on "meta" first: PyTorch's own initialisation would draw from the global generator.
    head = nn.Linear(dim, 1, bias=bias, device="meta", dtype=dtype)
    head = head.to_empty(device=like.device)
    nn.init.zeros_(head.weight)
    if bias:
        nn.init.zeros_(head.bias)
    if generator is not None:
        drawn = torch.randn(1, dim, generator=generator, device=generator.device)
        head.weight.data.copy_(drawn / math.sqrt(dim + 1))
    return head


def scalar(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Apply the head in float32, also under autocast: [..., dim] to [...]."""
    bias = None if head.bias is None else head.bias.float()
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.float(), head.weight.float(), bias).squeeze(-1)
