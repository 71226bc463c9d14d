"""Small models and tensors that several test files draw from."""

from typing import Any

import pytest
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


def random_model(args: ModelArgs, seed: int = 0) -> Transformer:
    """Weights large enough that attention is far from uniform and the norms differ from one."""
    model = Transformer(args)
    source = generator(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=source)
            weight.copy_(0.15 * noise if weight.ndim > 1 else 1 + 0.3 * noise)
    return model.eval()


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix from interleaved pairs to transformers' two halves."""
    out, dim = weight.shape
    pairs = weight.view(heads, out // heads // 2, 2, dim)
    return pairs.transpose(1, 2).reshape(out, dim)


def converted(model: Transformer) -> dict[str, Tensor]:
    """Our tensors under the names, and in the order of rows, of LlamaForCausalLM."""
    args, ours = model.args, model.state_dict()
    theirs = {
        "model.embed_tokens.weight": ours["tok_embeddings.weight"],
        "model.norm.weight": ours["norm.weight"],
        "lm_head.weight": ours["output.weight"],
    }
    names = {
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    for i in range(args.n_layers):
        here, there = f"layers.{i}.", f"model.layers.{i}."
        for our, their in names.items():
            theirs[f"{there}{their}.weight"] = ours[f"{here}{our}.weight"]
        wq, wk = ours[f"{here}attention.wq.weight"], ours[f"{here}attention.wk.weight"]
        theirs[f"{there}self_attn.q_proj.weight"] = halves(wq, args.n_heads)
        theirs[f"{there}self_attn.k_proj.weight"] = halves(wk, args.kv_heads)
    return theirs


def their_llama(model: Transformer) -> Any:
    """transformers' Llama with the weights of `model`."""
    transformers = pytest.importorskip("transformers", reason="needs transformers to compare with")
    args = model.args
    config = transformers.LlamaConfig(
        vocab_size=args.vocab_size,
        hidden_size=args.dim,
        intermediate_size=args.ffn_dim,
        num_hidden_layers=args.n_layers,
        num_attention_heads=args.n_heads,
        num_key_value_heads=args.kv_heads,
        rms_norm_eps=args.norm_eps,
        max_position_embeddings=args.max_seq_len,
        rope_theta=args.rope_theta,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(converted(model), strict=True)
    return theirs
