"""Known sizes: the Llama 2 family (paper, Table 1, section 2.2), and this project's small ones."""

from puna.errors import InputError
from puna.model.transformer import ModelArgs

PRESETS: dict[str, ModelArgs] = {
    "llama2-7b": ModelArgs(dim=4096, n_layers=32, n_heads=32),
    "llama2-13b": ModelArgs(dim=5120, n_layers=40, n_heads=40),
    # Trained and reported, never released; the width of the layers is that of Code Llama 34B.
    "llama2-34b": ModelArgs(
        dim=8192, n_layers=48, n_heads=64, n_kv_heads=8, ffn_dim_multiplier=1.0
    ),
    "llama2-70b": ModelArgs(
        dim=8192,
        n_layers=80,
        n_heads=64,
        n_kv_heads=8,
        multiple_of=4096,
        ffn_dim_multiplier=1.3,
    ),
    # 0.1 M parameters: tests.
    "puna-micro": ModelArgs(
        dim=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        vocab_size=512,
        multiple_of=32,
        max_seq_len=256,
    ),
    # 1.0 M parameters: the whole recipe on two CPU cores.
    "puna-tiny": ModelArgs(
        dim=128,
        n_layers=4,
        n_heads=4,
        n_kv_heads=2,
        vocab_size=1024,
        multiple_of=32,
        max_seq_len=512,
    ),
    # 13 M parameters: a night on a laptop, minutes on one GPU.
    "puna-small": ModelArgs(
        dim=384,
        n_layers=6,
        n_heads=6,
        n_kv_heads=2,
        vocab_size=4096,
        multiple_of=32,
        max_seq_len=1024,
    ),
}


def preset(name: str) -> ModelArgs:
    """The settings of a known size. InputError lists the names."""
    if name not in PRESETS:
        raise InputError(f"unknown model size {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def parameter_count(args: ModelArgs) -> int:
    """Number of weights of `Transformer(args)`, both embeddings included."""
    attention = 2 * args.dim * args.head_dim * (args.n_heads + args.kv_heads)
    block = attention + 3 * args.dim * args.ffn_dim + 2 * args.dim
    return 2 * args.vocab_size * args.dim + args.n_layers * block + args.dim


def cache_bytes_per_token(args: ModelArgs, element_size: int = 2) -> int:
    """Bytes of keys and values that one token occupies in all layers (paper, appendix A.2.1)."""
    return 2 * args.n_layers * args.kv_heads * args.head_dim * element_size
