"""Known sizes: Llama 2 (paper, Table 1, section 2.2), its relatives, and our own small ones."""

from dataclasses import replace
from typing import Any

from puna.errors import InputError
from puna.model.transformer import ModelArgs, RopeScaling

LLAMA2_34B = ModelArgs(dim=8192, n_layers=48, n_heads=64, n_kv_heads=8, ffn_dim_multiplier=1.0)
LLAMA3_8B = ModelArgs(
    dim=4096,
    n_layers=32,
    n_heads=32,
    n_kv_heads=8,
    vocab_size=128256,
    multiple_of=1024,
    ffn_dim_multiplier=1.3,
    rope_theta=5e5,
    max_seq_len=8192,
)
LLAMA3_1: dict[str, Any] = {"max_seq_len": 131072, "rope_scaling": RopeScaling()}
# The small ones of 3.2: a width of their own, one matrix for both ends.
LLAMA3_2: dict[str, Any] = {
    "hidden_dim": 8192,
    "multiple_of": 256,
    "ffn_dim_multiplier": None,
    "tie_embeddings": True,
    "max_seq_len": 131072,
    "rope_scaling": RopeScaling(factor=32.0),
}
SMOLLM2: dict[str, Any] = {"vocab_size": 49152, "max_seq_len": 8192, "tie_embeddings": True}
PRESETS: dict[str, ModelArgs] = {
    "llama1-7b": ModelArgs(dim=4096, n_layers=32, n_heads=32, norm_eps=1e-6, max_seq_len=2048),
    "llama1-13b": ModelArgs(dim=5120, n_layers=40, n_heads=40, norm_eps=1e-6, max_seq_len=2048),
    "llama1-33b": ModelArgs(dim=6656, n_layers=60, n_heads=52, norm_eps=1e-6, max_seq_len=2048),
    "llama1-65b": ModelArgs(dim=8192, n_layers=80, n_heads=64, max_seq_len=2048),
    "llama2-7b": ModelArgs(dim=4096, n_layers=32, n_heads=32),
    "llama2-13b": ModelArgs(dim=5120, n_layers=40, n_heads=40),
    # Trained and reported, never released; the width of the layers is that of Code Llama 34B.
    "llama2-34b": LLAMA2_34B,
    "llama2-70b": ModelArgs(
        dim=8192,
        n_layers=80,
        n_heads=64,
        n_kv_heads=8,
        multiple_of=4096,
        ffn_dim_multiplier=1.3,
    ),
    "codellama-7b": ModelArgs(
        dim=4096, n_layers=32, n_heads=32, vocab_size=32016, rope_theta=1e6, max_seq_len=16384
    ),
    "codellama-13b": ModelArgs(
        dim=5120, n_layers=40, n_heads=40, vocab_size=32016, rope_theta=1e6, max_seq_len=16384
    ),
    "codellama-34b": replace(LLAMA2_34B, rope_theta=1e6, max_seq_len=16384),
    "tinyllama-1.1b": ModelArgs(dim=2048, n_layers=22, n_heads=32, n_kv_heads=4, max_seq_len=2048),
    "mistral-7b": ModelArgs(
        dim=4096,
        n_layers=32,
        n_heads=32,
        n_kv_heads=8,
        hidden_dim=14336,
        sliding_window=4096,
        max_seq_len=32768,
    ),
    "llama3-8b": LLAMA3_8B,
    "llama3.1-8b": replace(LLAMA3_8B, **LLAMA3_1),
    "llama3.1-70b": replace(
        LLAMA3_8B, dim=8192, n_layers=80, n_heads=64, multiple_of=4096, **LLAMA3_1
    ),
    "llama3.2-1b": replace(LLAMA3_8B, dim=2048, n_layers=16, **LLAMA3_2),
    "llama3.2-3b": replace(LLAMA3_8B, dim=3072, n_layers=28, n_heads=24, **LLAMA3_2),
    "smollm2-135m": ModelArgs(
        dim=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        hidden_dim=1536,
        rope_theta=1e5,
        **SMOLLM2,
    ),
    "smollm2-360m": ModelArgs(
        dim=960,
        n_layers=32,
        n_heads=15,
        n_kv_heads=5,
        hidden_dim=2560,
        rope_theta=1e5,
        **SMOLLM2,
    ),
    "smollm2-1.7b": ModelArgs(
        dim=2048,
        n_layers=24,
        n_heads=32,
        hidden_dim=8192,
        rope_theta=1.3e5,
        **SMOLLM2,
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
    """Number of weights of `Transformer(args)`; a tied embedding counts once."""
    attention = 2 * args.dim * args.head_dim * (args.n_heads + args.kv_heads)
    block = attention + 3 * args.dim * args.ffn_dim + 2 * args.dim
    outer = args.vocab_size * args.dim * (1 if args.tie_embeddings else 2)
    return outer + args.n_layers * block + args.dim


def cache_bytes_per_token(args: ModelArgs, element_size: int = 2) -> int:
    """Bytes of keys and values that one token occupies in all layers (paper, appendix A.2.1)."""
    return 2 * args.n_layers * args.kv_heads * args.head_dim * element_size
