"""The Llama transformer, whole: RMSNorm, rotary embedding, grouped-query attention, SwiGLU
(paper, section 2.2); and what its relatives add: tied embeddings (SmolLM2), a sliding window
(Mistral 7B), stretched rotary frequencies (Llama 3.1 and later).

Tensor names and settings are Meta's, so that `params.json` and the names in a checkpoint carry over
as they are. What the paper leaves open: the initialisation. Here every matrix is normal with
standard deviation 1 / sqrt(dim) (0.016 at 7B); the two that write into the residual stream (`wo`,
`w2`) are divided by sqrt(2 * n_layers), as in GPT-2, and `output` by sqrt(dim), so that a new model
guesses evenly.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3.1's longer context: slow rotations are slowed further, fast ones stay.

    Wavelengths beyond original_max_seq_len / low_freq_factor are stretched by `factor`, those below
    original_max_seq_len / high_freq_factor are kept, and between them the two are blended.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int = 8192  # the context of the training before the stretch


@dataclass(frozen=True, kw_only=True)
class ModelArgs:
    """The shape of a model; the names are those of Meta's params.json."""

    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None  # None: as many as n_heads (no grouped-query attention)
    vocab_size: int = 32000
    multiple_of: int = 256  # the feed-forward width is rounded up to a multiple of this
    ffn_dim_multiplier: float | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_seq_len: int = 4096
    hidden_dim: int | None = None  # the feed-forward width itself; None: by Meta's rule
    tie_embeddings: bool = False  # the output projection is the token embedding
    sliding_window: int | None = None  # a token sees itself and so many minus one before it
    rope_scaling: RopeScaling | None = None

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward layer: the one given, or Meta's rule."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        width = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            width = int(self.ffn_dim_multiplier * width)
        return self.multiple_of * math.ceil(width / self.multiple_of)


class Cache:
    """Keys (after rotation) and values of `rows` sequences of at most `length` tokens, for every
    layer.

    `rows` selects which rows a forward pass reads and writes (None: all), and `used` how many of
    the columns it looks at, so that a short batch does not pay for a long cache.
    """

    def __init__(self, args: ModelArgs, rows: int, length: int, dtype=torch.float32, device="cpu"):
        shape = (rows, args.kv_heads, length, args.head_dim)
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(args.n_layers)]
        self.v = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(args.n_layers)]
        self.rows: Tensor | None = None
        self.used: int = length


class RMSNorm(nn.Module):
    """x / rms(x) * weight; the statistics in float32."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps)
        return normed.type_as(x) * self.weight


def rotary_table(args: ModelArgs) -> Tensor:
    """exp(i * angle) for every position and pair, [max_seq_len, head_dim // 2], complex64."""
    pairs = torch.arange(0, args.head_dim, 2).float() / args.head_dim
    frequency = 1.0 / args.rope_theta**pairs
    if args.rope_scaling is not None:
        frequency = stretched(frequency, args.rope_scaling)
    angle = torch.outer(torch.arange(args.max_seq_len).float(), frequency)
    return torch.polar(torch.ones_like(angle), angle)


def stretched(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    """Frequencies [head_dim // 2] for a context that is `factor` times longer (`RopeScaling`)."""
    turns = scaling.original_max_seq_len * frequency / (2 * math.pi)  # in the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequency * (kept + (1 - kept) / scaling.factor)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i+1) of each head by their position's angle: Meta's interleaved
    convention.

    x is [B, T, heads, head_dim]; turn broadcasts over [B, T, 1, head_dim // 2].
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).type_as(x)


class Attention(nn.Module):
    """Causal self-attention; each key/value head serves n_heads / n_kv_heads query heads."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.n_heads, self.kv_heads, self.head_dim = args.n_heads, args.kv_heads, args.head_dim
        self.wq = nn.Linear(args.dim, args.n_heads * args.head_dim, bias=False)
        self.wk = nn.Linear(args.dim, args.kv_heads * args.head_dim, bias=False)
        self.wv = nn.Linear(args.dim, args.kv_heads * args.head_dim, bias=False)
        self.wo = nn.Linear(args.n_heads * args.head_dim, args.dim, bias=False)

    def forward(self, x: Tensor, turn: Tensor, mask: Tensor | None, kv) -> Tensor:
        rows, length, _ = x.shape
        q = rotate(self.wq(x).view(rows, length, self.n_heads, self.head_dim), turn)
        k = rotate(self.wk(x).view(rows, length, self.kv_heads, self.head_dim), turn)
        v = self.wv(x).view(rows, length, self.kv_heads, self.head_dim)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, heads, T, head_dim]
        if kv is not None:
            k, v = kv(k, v)
        grouped = self.kv_heads != self.n_heads
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
        )
        return self.wo(mixed.transpose(1, 2).reshape(rows, length, -1))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.w1 = nn.Linear(args.dim, args.ffn_dim, bias=False)
        self.w2 = nn.Linear(args.ffn_dim, args.dim, bias=False)
        self.w3 = nn.Linear(args.dim, args.ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TiedOutput(nn.Module):
    """The token embedding as output projection; it has no tensor of its own."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.embedding = [embedding]  # in a list: its parameters are counted where they belong

    @property
    def weight(self) -> Tensor:
        return self.embedding[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args.dim, args.norm_eps)
        self.ffn_norm = RMSNorm(args.dim, args.norm_eps)

    def forward(self, x: Tensor, turn: Tensor, mask: Tensor | None, kv) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn, mask, kv)
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """Tokens to next-token logits.

    positions: [B, T] place of each token in its own sequence (None: 0..T-1 in every row). mask:
    bool, True where a query may look, broadcastable to [B, 1, T, T] (None: causal). cache: keys and
    values of earlier tokens; then `positions` is required, and a token sees keys up to its
    position.
    """

    rope: Tensor

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.args = args
        # Zero until drawn or loaded: a draw on "meta" imports PyTorch's compiler: 0.7 s.
        empty = torch.zeros(args.vocab_size, args.dim)
        self.tok_embeddings = nn.Embedding.from_pretrained(empty, freeze=False)
        self.layers = nn.ModuleList(Block(args) for _ in range(args.n_layers))
        self.norm = RMSNorm(args.dim, args.norm_eps)
        self.output: nn.Linear | TiedOutput
        if args.tie_embeddings:
            self.output = TiedOutput(self.tok_embeddings)
        else:
            self.output = nn.Linear(args.dim, args.vocab_size, bias=False)
        with torch.device("cpu"):  # also where the weights are made on "meta", for the same reason
            table = rotary_table(args)
        self.register_buffer("rope", table, persistent=False)

    def init_weights(self, generator: torch.Generator) -> "Transformer":
        """Draw the weights of a new model (see the module's note); returns the model."""
        depth = 2 * self.args.n_layers
        scale = {"wo": depth, "w2": depth, "output": self.args.dim}
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                variance = 1 / (self.args.dim * scale.get(name.split(".")[-2], 1))
                nn.init.normal_(weight, std=math.sqrt(variance), generator=generator)
        return self

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The last layer's output after the final norm, [B, T, dim]."""
        table = self.rope[: tokens.shape[1]] if positions is None else self.rope[positions]
        turn = table.unsqueeze(-2)  # [(B,) T, 1, head_dim // 2]: one for all heads
        window = self.args.sliding_window
        if cache is not None:
            assert positions is not None, "a cache needs the position of every token"
            ahead = positions[:, None, :, None] - torch.arange(cache.used, device=tokens.device)
            mask = ahead >= 0 if window is None else (ahead >= 0) & (ahead < window)
        elif window is not None and tokens.shape[1] > window:
            mask = windowed(tokens, positions, mask, window)
        x = self.tok_embeddings(tokens)
        for number, layer in enumerate(self.layers):
            kv = None if cache is None else writer(cache, number, positions)
            x = layer(x, turn, mask, kv)
        return self.norm(x)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits of the next token after each token, [B, T, vocab_size], float32."""
        return self.output(self.hidden(tokens, positions, mask, cache)).float()


def windowed(tokens: Tensor, positions: Tensor | None, mask: Tensor | None, window: int) -> Tensor:
    """The mask (None: causal), without what is `window` or more places back: [B, 1, T, T]."""
    if positions is None:
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    back = (positions[:, :, None] - positions[:, None, :])[:, None]
    if mask is None:
        order = torch.arange(tokens.shape[1], device=tokens.device)
        mask = order[:, None] >= order
    return mask & (back < window)


def writer(cache: Cache, layer: int, positions: Tensor | None):
    """A function that stores new keys and values [B, heads, T, head_dim] and gives all so far."""
    keys, values = cache.k[layer], cache.v[layer]
    rows = cache.rows
    if rows is None:  # on the device: a CUDA graph cannot hold a copy to it
        rows = torch.arange(keys.shape[0], device=keys.device)

    def store(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys[rows[:, None], :, positions] = k.transpose(1, 2)
        values[rows[:, None], :, positions] = v.transpose(1, 2)
        if cache.rows is None:
            return keys[:, :, : cache.used], values[:, :, : cache.used]
        return keys[rows, :, : cache.used], values[rows, :, : cache.used]

    return store
