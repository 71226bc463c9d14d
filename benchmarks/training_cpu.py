"""Training steps on the CPU: Puna against transformers and litgpt, the same weights and data.

    python benchmarks/training_cpu.py
    python benchmarks/training_cpu.py --shapes 15M --precisions float32 --rounds 5
    python benchmarks/training_cpu.py --quick --arms puna returning    # a smoke test, no peers

Arms: `puna` is a recipe's own step; `returning` the same with the C library's allocator as it
comes, which gives freed memory back; `transformers` is LlamaForCausalLM, `litgpt` its GPT, both as
they come. Every measurement is a process of its own; a round runs all arms in turn, every second
one backwards. All begin with the same weights, read the same tokens, and step by the same fused
AdamW after the same clipping. In bfloat16 the peers run under torch's autocast, Puna in what
`optim.precision = "bfloat16"` computes on this processor (printed).

Prints for each arm the median tokens a second, the ratio to the better peer, the model's FLOP/s as
a share of the machine's best matrix product (measured in the same processes, float32 and bfloat16),
and the peak resident memory. Exits with 1 where a loss curve differs from Puna's.
Peers live in virtual environments under $PUNA_BENCH_CACHE (~/.cache/puna/benchmarks), made here.
"""

import argparse
import contextlib
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
PEERS = {"transformers": "5.23.0", "litgpt": "0.5.13"}
ARMS = ("puna", "returning", *PEERS)
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # of a loss, relative, at every step
LR, BETAS, EPS, DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-5, 0.1, 1.0


@dataclass(frozen=True)
class Shape:
    """A model and its batch; names are Meta's."""

    dim: int
    n_layers: int
    n_heads: int
    ffn: int
    vocab: int = 32000
    seq: int = 256
    rows: int = 16

    def flops(self) -> float:
        """Of a training step: 6 a weight in a product and token, and causal attention's half."""
        layer = 4 * self.dim**2 + 3 * self.dim * self.ffn
        weights = self.n_layers * layer + self.vocab * self.dim
        return (6.0 * weights + 6.0 * self.n_layers * self.dim * self.seq) * self.seq * self.rows


SHAPES = {
    "15M": Shape(288, 6, 6, 768),
    "110M": Shape(768, 12, 12, 2048, rows=8),
    "quick": Shape(64, 2, 2, 128, vocab=512, seq=32, rows=2),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["15M", "110M"])
    parser.add_argument(
        "--precisions", nargs="+", choices=TOLERANCE, default=["float32", "bfloat16"]
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="measured steps, after one more")
    parser.add_argument("--rows", type=int, help="sequences of a batch, instead of the shape's")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--under", default="", help='begins each command: "taskset -c 0,1"')
    parser.add_argument("--quick", action="store_true", help="a tiny shape, one round, two steps")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print("RESULT " + json.dumps(measure(**options.child)))
        return 0
    if options.quick:
        options.shapes, options.rounds, options.steps = ["quick"], 1, 2
    for peer in PEERS:
        if peer in options.arms:
            install(peer)
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        for name in options.shapes:
            shape = SHAPES[name]
            if options.rows:
                shape = Shape(**{**asdict(shape), "rows": options.rows})
            prepare(shape, options.steps + 1, Path(folder))
            for precision in options.precisions:
                found = rounds(shape, precision, Path(folder), options)
                equal &= show(name, shape, precision, found)
    return int(not equal)


# --- the rounds


def rounds(shape: Shape, precision: str, folder: Path, options) -> dict[str, list[dict]]:
    """What every process of every arm found."""
    found: dict[str, list[dict]] = {arm: [] for arm in options.arms}
    for number in range(options.rounds):
        for arm in options.arms[:: -1 if number % 2 else 1]:
            words = {"arm": arm, "shape": asdict(shape), "precision": precision}
            words |= {"steps": options.steps, "folder": str(folder)}
            python = cache() / f"training-{arm}/bin/python" if arm in PEERS else sys.executable
            command = [*shlex.split(options.under), str(python), __file__]
            environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
            if arm not in PEERS:
                environment |= {"PYTHONPATH": str(ROOT), "GOMP_SPINCOUNT": "10000"}
            done = subprocess.run(
                [*command, "--child", json.dumps(words)],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT "))
            found[arm].append(json.loads(line.removeprefix("RESULT ")))
    return found


def show(name: str, shape: Shape, precision: str, found: dict[str, list[dict]]) -> bool:
    """Print a table; whether all loss curves are equal within the tolerance."""
    tokens = shape.seq * shape.rows
    every = [result for results in found.values() for result in results]
    peaks = {
        kind: statistics.median(result[f"{kind}_peak"] for result in every)
        for kind in ("float32", "bfloat16")
    }
    best = peaks["float32"] if precision == "float32" else max(peaks.values())
    print(f"\n{name}, {precision}: {shape.seq} x {shape.rows} tokens a step; matrix products")
    print(" and ".join(f"{kind} {peak / 1e9:.0f} GFLOP/s" for kind, peak in peaks.items()))
    print(
        "arm           tokens/s   min - max  x better peer   MFU  peak MB  kept MB  in        loss"
    )
    speeds = {
        arm: [tokens / statistics.median(result["seconds"]) for result in results]
        for arm, results in found.items()
    }
    rivals = [speeds[peer] for peer in PEERS if peer in speeds]
    for arm, results in found.items():
        speed = statistics.median(speeds[arm])
        ratio = "-"
        if rivals:  # paired: the same round, the better of the peers in it
            pairs = zip(speeds[arm], *rivals, strict=True)
            ratio = f"{statistics.median(mine / max(theirs) for mine, *theirs in pairs):.2f}"
        mfu = speed / tokens * shape.flops() / best
        peak, kept = (statistics.median(r[key] for r in results) for key in ("peak_mb", "kept_mb"))
        span = f"{min(speeds[arm]):.0f} - {max(speeds[arm]):.0f}"
        print(
            f"{arm:<13}{speed:>9.0f}{span:>12}{ratio:>15}{mfu:>6.2f}{peak:>9.0f}{kept:>9.0f}  "
            f"{results[0]['computed']:<9} {results[0]['losses'][-1]:.4f}"
        )
    gap = largest_gap(every)
    verdict = "equal" if gap <= TOLERANCE[precision] else "DIFFERENT"
    print(f"loss curves {verdict}: at most {gap:.1e} apart, relative; {TOLERANCE[precision]:.0e}")
    print("allowed", flush=True)
    return gap <= TOLERANCE[precision]


def largest_gap(results: list[dict]) -> float:
    """The largest relative difference of a loss from the first curve's at the same step."""
    first = results[0]["losses"]
    return max(
        abs(loss - wanted) / abs(wanted)
        for result in results
        for loss, wanted in zip(result["losses"], first, strict=True)
    )


# --- weights, data, peers


def prepare(shape: Shape, steps: int, folder: Path) -> None:
    """Write the same weights under every library's names, and the tokens of all steps."""
    draw = torch.Generator().manual_seed(0)

    def normal(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(rows, columns, generator=draw) * scale / shape.dim**0.5

    d, f, v = shape.dim, shape.ffn, shape.vocab
    ours = {"tok_embeddings.weight": normal(v, d), "norm.weight": torch.ones(d)}
    ours["output.weight"] = normal(v, d, d**-0.5)
    for i in range(shape.n_layers):
        last = (2 * shape.n_layers) ** -0.5
        for name in ("wq", "wk", "wv"):
            ours[f"layers.{i}.attention.{name}.weight"] = normal(d, d)
        ours[f"layers.{i}.attention.wo.weight"] = normal(d, d, last)
        ours[f"layers.{i}.feed_forward.w1.weight"] = normal(f, d)
        ours[f"layers.{i}.feed_forward.w2.weight"] = normal(d, f, last)
        ours[f"layers.{i}.feed_forward.w3.weight"] = normal(f, d)
        ours[f"layers.{i}.attention_norm.weight"] = torch.ones(d)
        ours[f"layers.{i}.ffn_norm.weight"] = torch.ones(d)
    # Tokens as in text: few are frequent (Zipf), so that there is something to learn at once.
    often = 1 / torch.arange(1, v + 1).double()
    size = (steps, shape.rows, shape.seq + 1)
    picked = torch.multinomial(often, size[0] * size[1] * size[2], True, generator=draw)
    torch.save({"weights": ours, "tokens": picked.view(size)}, folder / "start.pt")


def for_transformers(ours: dict[str, torch.Tensor], heads: int) -> dict[str, torch.Tensor]:
    """Our tensors by LlamaForCausalLM's names."""
    places = {"attention.wo": "self_attn.o_proj", "attention.wv": "self_attn.v_proj"}
    places |= {"feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj"}
    places |= {"feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm"}
    places |= {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj"}
    places |= {"ffn_norm": "post_attention_layernorm", "tok_embeddings": "embed_tokens"}
    theirs = {}
    for name, tensor in ours.items():
        place = name
        for our, their in places.items():
            place = place.replace(our, their)
        place = "lm_head.weight" if name == "output.weight" else f"model.{place}"
        theirs[place] = halves(tensor, heads) if ".wq." in name or ".wk." in name else tensor
    return theirs


def for_litgpt(ours: dict[str, torch.Tensor], heads: int) -> dict[str, torch.Tensor]:
    """Our tensors by litgpt's names."""
    theirs = {
        "lm_head.weight": ours["output.weight"],
        "transformer.ln_f.weight": ours["norm.weight"],
    }
    theirs["transformer.wte.weight"] = ours["tok_embeddings.weight"]
    places = {"attention.wo": "attn.proj", "feed_forward.w1": "mlp.fc_1"}
    places |= {"feed_forward.w2": "mlp.proj", "feed_forward.w3": "mlp.fc_2"}
    places |= {"attention_norm": "norm_1", "ffn_norm": "norm_2"}
    for i in range(sum(name.endswith("wq.weight") for name in ours)):
        here, there = f"layers.{i}.", f"transformer.h.{i}."
        for our, their in places.items():
            theirs[f"{there}{their}.weight"] = ours[f"{here}{our}.weight"]
        q, k, v = (ours[f"{here}attention.w{letter}.weight"] for letter in "qkv")
        theirs[f"{there}attn.qkv.weight"] = torch.cat((halves(q, heads), halves(k, heads), v))
    return theirs


def halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix from interleaved pairs (Meta's) to two halves (theirs)."""
    out, dim = weight.shape
    return weight.view(heads, out // heads // 2, 2, dim).transpose(1, 2).reshape(out, dim)


def cache() -> Path:
    """Where the peers are installed."""
    default = Path.home() / ".cache/puna/benchmarks"
    return Path(os.environ.get("PUNA_BENCH_CACHE", default))


def install(peer: str) -> None:
    """A virtual environment with the peer and this process's torch, if it is not there."""
    folder = cache() / f"training-{peer}"
    python = folder / "bin/python"
    look = f"import torch; from importlib.metadata import version; print(version({peer!r}))"
    if python.exists():
        seen = subprocess.run([python, "-c", look], capture_output=True, text=True, check=False)
        if seen.stdout.strip() == PEERS[peer]:
            return
    print(f"installing {peer} {PEERS[peer]} into {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    wanted = [f"torch=={torch.__version__}", f"{peer}=={PEERS[peer]}"]
    words = [python, "-m", "pip", "install", "--quiet", *wanted]
    index = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    if subprocess.run(words, check=False).returncode:
        subprocess.run([*words, *index], check=True)


# --- one process


def measure(arm: str, shape: dict, precision: str, steps: int, folder: str) -> dict:
    """Seconds and loss of every step of an arm, the machine's matrix products, memory."""
    size = Shape(**shape)
    start = torch.load(Path(folder) / "start.pt", weights_only=True)
    peaks = {f"{kind}_peak": product(kind) for kind in ("float32", "bfloat16")}
    begin = begin_puna if arm in ("puna", "returning") else begin_peer
    step, computed = begin(arm, size, precision, start.pop("weights"))
    seconds, losses = [], []
    for batch in start["tokens"]:
        began = time.perf_counter()
        losses.append(step(batch))
        seconds.append(time.perf_counter() - began)
    assert len(seconds) == steps + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = {"peak_mb": peak * (1 if sys.platform == "darwin" else 1024) / 1e6}
    memory["kept_mb"] = resident_mb()
    return {"seconds": seconds[1:], "losses": losses, "computed": computed, **peaks, **memory}


def product(kind: str, side: int = 1536, least: float = 0.5) -> float:
    """The best of many products of square matrices: floating-point operations a second."""
    a = torch.randn(side, side).to(getattr(torch, kind))
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < least:
        begin = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def resident_mb() -> float:
    """Resident memory after the last step (Linux; elsewhere 0)."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    return 0.0


def begin_puna(arm: str, size: Shape, precision: str, weights: dict):
    """A recipe's own step, and the type it computes its products in."""
    from puna import allocator
    from puna.model.transformer import ModelArgs, Transformer
    from puna.numerics import precision as kinds
    from puna.numerics.optim import OptimConfig
    from puna.recipes import pretrain, steps

    if arm == "puna":
        allocator.keep_memory()  # as Run.start does
    shape = {"dim": size.dim, "n_layers": size.n_layers, "n_heads": size.n_heads}
    shape |= {"hidden_dim": size.ffn, "vocab_size": size.vocab, "max_seq_len": size.seq}
    model = Transformer(ModelArgs(**shape))
    model.load_state_dict(weights)
    config = OptimConfig(lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, clip=CLIP)
    learner = steps.Learner(model, OptimConfig(**{**asdict(config), "precision": precision}))
    half = precision == "bfloat16" and kinds.computes_bfloat16()

    def step(batch: torch.Tensor) -> float:
        return learner.learn([batch], lambda part: pretrain.token_loss(model, part), LR)["loss"]

    return step, "bfloat16" if half else "float32"


def begin_peer(arm: str, size: Shape, precision: str, weights: dict):
    """A peer's model as it comes, under a plain training loop."""
    model = llama(size, weights) if arm == "transformers" else gpt(size, weights)
    model.train()
    trained = list(model.parameters())
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True)
    half = precision == "bfloat16"

    def step(batch: torch.Tensor) -> float:
        tokens, targets = batch[:, :-1], batch[:, 1:].contiguous()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if arm == "transformers":
                loss = model(input_ids=tokens, labels=targets, shift_labels=targets).loss
            else:
                from litgpt.utils import chunked_cross_entropy

                loss = chunked_cross_entropy(model(tokens), targets, chunk_size=0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step, precision


def llama(size: Shape, weights: dict):
    """transformers' Llama with our weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": size.dim, "intermediate_size": size.ffn, "vocab_size": size.vocab}
    shape |= {"num_hidden_layers": size.n_layers, "num_attention_heads": size.n_heads}
    shape |= {"max_position_embeddings": size.seq, "rms_norm_eps": 1e-5, "use_cache": False}
    model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    model.load_state_dict(for_transformers(weights, size.n_heads))
    return model


def gpt(size: Shape, weights: dict):
    """litgpt's GPT, set up as a Llama, with our weights."""
    from litgpt import GPT, Config

    shape = {"n_layer": size.n_layers, "n_head": size.n_heads, "n_embd": size.dim}
    shape |= {"vocab_size": size.vocab, "padded_vocab_size": size.vocab, "block_size": size.seq}
    shape |= {"intermediate_size": size.ffn, "rotary_percentage": 1.0, "bias": False}
    llama = {"norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "parallel_residual": False}
    model = GPT(Config(name="llama", norm_eps=1e-5, **shape, **llama))
    model.load_state_dict(for_litgpt(weights, size.n_heads))
    return model


if __name__ == "__main__":
    sys.exit(main())
