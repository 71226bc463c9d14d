"""Decoding on a GPU: bf16, int8, int4 and fp8 at the 7B shape, batch 1 to 64, against the bounds.

    python benchmarks/inference_gpu.py
    python benchmarks/inference_gpu.py --kinds int8,int4 --batches 1,8 --out gpu.json

Needs CUDA, Triton (PyTorch for CUDA brings it) and 20 GB of its memory; transformers, where it is
installed, is measured beside ours in bf16. The weights are random. Each figure is the median of
five rounds of 32 tokens a row, replayed from a CUDA graph of one step over a full cache of 512
tokens. In between, the bounds: the bandwidth of reading 4 GB, and of a bf16 product of 8192^3.
`bound` is the share of that bandwidth which the step's weights, keys and values would need alone.
Exits with 1, and one line, where there is no GPU.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puna.errors import InputError
from puna.kernels.gpu import QuantisedLinear, quantise_linears
from puna.model.presets import PRESETS
from puna.model.transformer import Cache, ModelArgs, Transformer

KINDS = ("bf16", "int8", "int4", "fp8")
CONTEXT = 512  # tokens in the cache
STEPS, ROUNDS = 32, 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="llama2-7b")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--batches", default="1,2,4,8,16,32,64")
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    if not torch.cuda.is_available():
        print("inference_gpu: needs a GPU, torch.cuda.is_available() is False", file=sys.stderr)
        return 1
    kinds, batches = words.kinds.split(","), [int(b) for b in words.batches.split(",")]
    if words.shape not in PRESETS or not set(kinds) <= set(KINDS):
        print(f"inference_gpu: no shape {words.shape} or kind among {kinds}", file=sys.stderr)
        return 1
    args = PRESETS[words.shape]
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, shape {words.shape}")
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        model = random_model(args, kind, "cuda")
        for batch in batches:
            limits = bounds("cuda")
            rows.append({"engine": "puna", "kind": kind, "batch": batch, **limits})
            rows[-1] |= measured(model, batch, limits["read_gb_s"])
            report(rows[-1], rows)
        del model
        release()
    for batch in batches:
        peer = transformers_rate(args, batch)
        if peer is None:
            print("transformers is not installed: left out")
            break
        rows.append({"engine": "transformers", "kind": "bf16", "batch": batch, **peer})
        report(rows[-1], rows)
        release()
    if words.out:
        words.out.write_text(json.dumps({"device": device, "rows": rows}, indent=1) + "\n")
    return 0


def random_model(args: ModelArgs, kind: str, device: str) -> Transformer:
    """A model with random weights in bf16, then in `kind`; matrix after matrix on the device."""
    with torch.device("meta"):
        model = Transformer(args)
    source = torch.Generator(device).manual_seed(0)
    for name, weight in list(model.named_parameters()):
        value = torch.ones(weight.shape, dtype=torch.bfloat16, device=device)
        if weight.ndim > 1:
            value.normal_(std=0.02, generator=source)
        room, _, last = name.rpartition(".")
        owner = model.get_submodule(room)
        setattr(owner, last, nn.Parameter(value, requires_grad=False))
        if kind != "bf16" and isinstance(owner, nn.Linear):  # at once: two copies never fit
            wrapped = nn.Module()
            wrapped.add_module("output" if room == "output" else "linear", owner)
            quantise_linears(wrapped, kind)
            home, _, leaf = room.rpartition(".")
            setattr(model.get_submodule(home), leaf, next(wrapped.children()))
    model.rope = model.rope.to(device)
    return model.eval()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of what each step reads: every matrix but the embedding."""
    total = 0
    for module in model.modules():
        if isinstance(module, QuantisedLinear):
            total += sum(t.nbytes for t in module.buffers())
        elif isinstance(module, nn.Linear):
            total += module.weight.nbytes
    return total


class Step:
    """One token for each row, from a CUDA graph where there is CUDA: `step()` moves all on."""

    def __init__(self, model: Transformer, batch: int):
        self.model, device = model, model.tok_embeddings.weight.device
        self.cache = Cache(model.args, batch, CONTEXT, torch.bfloat16, device)
        self.cache.rows = None
        self.tokens = torch.ones(batch, 1, dtype=torch.long, device=device)
        self.positions = torch.full((batch, 1), CONTEXT - STEPS, device=device)
        self.run: Callable[[], None] = self.eager
        if device.type == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # compiles the kernels, fills the allocator
                for _ in range(3):
                    self.eager()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.eager()
            self.run = graph.replay

    @torch.no_grad()
    def eager(self) -> None:
        """The step itself: everything stays on the device, nothing waits."""
        logits = self.model(self.tokens, self.positions, cache=self.cache)
        self.tokens.copy_(logits[:, -1].argmax(-1, keepdim=True))
        self.positions.add_(1).clamp_(max=CONTEXT - 1)


def measured(model: Transformer, batch: int, read_gb_s: float) -> dict[str, float]:
    """Tokens a second over all rows, milliseconds a step, and the share of the bandwidth bound."""
    step = Step(model, batch)
    seconds = statistics.median(timed(lambda: repeat(step.run)) for _ in range(ROUNDS)) / STEPS
    args = model.args
    cached = 2 * args.n_layers * args.kv_heads * args.head_dim * 2 * CONTEXT * batch
    bound = (weight_bytes(model) + cached) / (read_gb_s * 1e9)
    return {"tokens_s": batch / seconds, "step_ms": 1e3 * seconds, "bound": bound / seconds}


def repeat(step: Callable[[], None]) -> None:
    """STEPS steps."""
    for _ in range(STEPS):
        step()


def timed(work: Callable[[], Any]) -> float:
    """Seconds until the device has done the work."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    """Until the device has nothing left to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bounds(device: str, size: int = 1 << 32, side: int = 8192) -> dict[str, float]:
    """Read bandwidth (GB/s) and bf16 product (TFLOP/s) of the device, the best of five."""
    large = torch.ones(size // 4, device=device)
    read = min(timed(large.max) for _ in range(ROUNDS + 1))
    del large
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    product = min(timed(lambda: a @ a) for _ in range(ROUNDS + 1))
    return {"read_gb_s": size / read / 1e9, "matmul_tflops": 2 * side**3 / product / 1e12}


def transformers_rate(args: ModelArgs, batch: int) -> dict[str, float] | None:
    """Tokens a second of transformers' own generation, bf16, static cache; None: not installed."""
    try:
        from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    except ImportError:
        return None
    shape = LlamaConfig(
        **{"hidden_size": args.dim, "intermediate_size": args.ffn_dim},
        **{"num_hidden_layers": args.n_layers, "num_attention_heads": args.n_heads},
        **{"num_key_value_heads": args.kv_heads, "vocab_size": args.vocab_size},
        max_position_embeddings=args.max_seq_len,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(shape).eval()
    torch.set_default_dtype(torch.float32)
    prompt = torch.ones(batch, CONTEXT - STEPS, dtype=torch.long, device="cuda")

    def generate(count: int) -> Tensor:
        wanted = GenerationConfig(
            **{"max_new_tokens": count, "min_new_tokens": count, "do_sample": False},
            cache_implementation="static",
            pad_token_id=0,
        )
        return model.generate(
            prompt, attention_mask=torch.ones_like(prompt), generation_config=wanted
        )

    with torch.no_grad():
        generate(STEPS)  # compiles
        first = statistics.median(timed(lambda: generate(1)) for _ in range(ROUNDS))
        whole = statistics.median(timed(lambda: generate(STEPS)) for _ in range(ROUNDS))
    seconds = (whole - first) / (STEPS - 1)  # without the prompt
    return {"tokens_s": batch / seconds, "step_ms": 1e3 * seconds}


def report(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """One line: the figures, and the ratio to ours in bf16 at that batch."""
    mine = ("puna", "bf16", row["batch"])
    base = [r for r in rows if (r["engine"], r["kind"], r["batch"]) == mine]
    ratio = f"{row['tokens_s'] / base[0]['tokens_s']:.2f} x bf16" if base else ""
    bound = f"{row['bound']:.2f} of {row['read_gb_s']:.0f} GB/s" if "bound" in row else ""
    print(
        f"{row['engine']:<13}{row['kind']:<5} batch {row['batch']:<3}{row['tokens_s']:10.1f} tok/s"
        f"{row['step_ms']:9.3f} ms  {bound}  {ratio}",
        flush=True,
    )


def release() -> None:
    """Give the device's memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"inference_gpu: {error}", file=sys.stderr)
        sys.exit(1)
