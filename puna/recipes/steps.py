"""The verbs that the recipes share: accumulate and update, pack, score, write samples down."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from puna import console
from puna.data.batches import Batch, Encoded, Forked, by_length, fork, forked_length, pack, stack
from puna.engine.torch_runner import rounded
from puna.errors import InputError
from puna.model import lora, memory
from puna.model.heads import RewardModel
from puna.model.transformer import Transformer
from puna.numerics import losses, optim, precision
from puna.text.dialog import Dialog
from puna.text.template import encode_dialog, encode_prompt
from puna.text.tokenizer import Tokenizer

NON_FINITE_LIMIT = 5  # steps in a row without a finite gradient before a run stops

M = TypeVar("M", bound=nn.Module)
Summed = tuple[Tensor, Tensor | int]  # a loss summed over what it counts, and the count


def derive(*parts: object) -> int:
    """A seed from any values, the same on every machine: 63 bits of their SHA-256."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A generator seeded by `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))


class Learner(Generic[M]):
    """A module and its AdamW. A step: sums accumulated, divided once, clipped, applied."""

    def __init__(self, module: M, config: optim.OptimConfig):
        self.module, self.config = module, config
        self.optimizer = optim.adamw(module, config)
        self.skipped = 0  # steps in a row without a finite gradient
        self.device = next(module.parameters()).device.type
        if config.precision == "bfloat16" and self.device == "cpu":
            announce_precision()

    def learn(self, parts: Iterable, loss_of: Callable[..., Summed], lr: float) -> dict[str, float]:
        """One optimiser step on the mean over all that the parts count (tokens, pairs).

        `loss_of(part)` gives (sum, count). A step whose gradient is not finite changes nothing and
        is counted; five in a row stop the run.
        """
        total, count = 0.0, 0
        with precision.products(self.config.precision, self.device):
            for part in parts:
                loss, counted = loss_of(part)
                loss.backward()
                total, count = total + float(loss.detach()), count + int(counted)
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(max(count, 1))
        try:
            norm = optim.clip_gradients(self.module.parameters(), self.config.clip)
            optim.set_lr(self.optimizer, lr)
            self.optimizer.step()
            self.skipped = 0
        except FloatingPointError:  # not finite: nothing was changed
            norm, self.skipped = math.nan, self.skipped + 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.skipped >= NON_FINITE_LIMIT:
            raise InputError(
                f"the gradient was not finite {self.skipped} steps in a row; lower optim.lr={lr}"
            )
        return {"loss": total / max(count, 1), "grad_norm": norm, "lr": lr}


@cache
def announce_precision() -> None:
    """One line, once a process, if bfloat16 was asked for and float32 is computed."""
    if not precision.computes_bfloat16():
        console.current().note(
            "precision: float32 instead of bfloat16, which this processor would emulate"
        )


def answer_loss(model: Transformer, batch: Batch) -> Summed:
    """Cross-entropy summed over the answers' tokens, and their count (section 3.1).

    Prompts cost nothing.
    """
    mask = batch.attention()[:, :, :-1, :-1]
    hidden = model.hidden(batch.tokens[:, :-1], batch.positions[:, :-1], mask)
    wanted, targets = batch.mask[:, 1:], batch.tokens[:, 1:]
    return losses.chunked_cross_entropy(hidden, model.output.weight, targets, wanted)


def encode_all(
    dialogs: Sequence[Dialog],
    tokenizer: Tokenizer,
    seq_len: int,
    last_only: bool | Sequence[bool] = False,
) -> tuple[list[Encoded], int]:
    """Token ids and masks of dialogues, and how many were left out because they are longer than
    `seq_len`.

    Where `last_only` is true only the last answer is trained on, as Ghost Attention wants it
    (section 3.3).
    """
    flags = [last_only] * len(dialogs) if isinstance(last_only, bool) else last_only
    encoded, left_out = [], 0
    for dialog, last in zip(dialogs, flags, strict=True):
        ids, mask = encode_dialog(dialog, tokenizer)
        if len(ids) > seq_len:
            left_out += 1
            continue
        encoded.append((ids, last_answer(mask) if last else mask))
    if not encoded:
        raise InputError(f"none of the {len(dialogs)} dialogues fits into seq_len={seq_len} tokens")
    return encoded, left_out


def last_answer(mask: list[bool]) -> list[bool]:
    """Keep only the last run of True."""
    end = len(mask) - mask[::-1].index(True)
    start = end - next((n for n, m in enumerate(reversed(mask[:end])) if not m), end)
    return [start <= place < end for place in range(len(mask))]


class Packed:
    """Packed batches of an epoch-wise shuffled set; `batch(step)` depends on (seed, step) alone."""

    def __init__(
        self, examples: list[Encoded], batch_size: int, seq_len: int, epochs: int, seed: int
    ):
        self.examples, self.seq_len = examples, seq_len
        self.batches: list[list[list[int]]] = []
        for epoch in range(epochs):
            order = torch.randperm(
                len(examples), generator=generator(seed, "order", epoch)
            ).tolist()
            rows = pack(examples, seq_len, order)
            mixed = torch.randperm(len(rows), generator=generator(seed, "rows", epoch)).tolist()
            rows = [rows[i] for i in mixed]
            self.batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, step: int) -> Batch:
        return stack(self.examples, self.batches[step], self.seq_len)


def micro(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into micro-batches of at most `size` rows."""
    return [batch.rows(start, start + size) for start in range(0, len(batch), size)]


@torch.no_grad()
def mean_loss(parts: Iterable, loss_of: Callable[..., Summed]) -> float:
    """The mean loss over all that the parts count, without gradients."""
    total, count = 0.0, 0
    with precision.products("float32"):
        for part in parts:
            loss, counted = loss_of(part)
            total, count = total + float(loss), count + int(counted)
    return total / max(count, 1)


def score(
    model: RewardModel,
    tokenizer: Tokenizer,
    dialogs: Sequence[Dialog],
    budget: int = 8192,
    track: Callable[[int], None] | None = None,
) -> list[float]:
    """The reward model's scalar (before the sigmoid) for each finished dialogue's last answer."""
    [scores] = score_by((model,), tokenizer, dialogs, budget, track)
    return scores


@torch.inference_mode()
def score_by(
    models: Sequence[RewardModel],
    tokenizer: Tokenizer,
    dialogs: Sequence[Dialog],
    budget: int = 8192,
    track: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """`score` by several models of one tokenizer and context, on the same rows.

    Answers to one prompt stand in one row and share it.
    """
    longest = models[0].transformer.args.max_seq_len
    rows = [encode_dialog(dialog, tokenizer)[0][-longest:] for dialog in dialogs]
    groups = together([dialog.prompt() for dialog in dialogs])
    lengths = [forked_length([rows[i] for i in group]) for group in groups]
    scores = [[0.0] * len(rows) for _ in models]
    for part in by_length(lengths, budget):
        forks = fork([[rows[i] for i in groups[number]] for number in part])
        members = [i for number in part for i in groups[number]]
        for model, found in zip(models, scores, strict=True):
            for place, value in zip(members, scores_of(model, forks).tolist(), strict=True):
                found[place] = value
        if track:
            track(len(members))
    return scores


def scores_of(model: RewardModel, forks: Forked) -> Tensor:
    """The scores of all sequences of forked rows, in their order."""
    return model.at(forks.tokens, forks.row, forks.place, forks.positions, forks.attention())


def together(prompts: Sequence[Dialog], most: int = 8) -> list[list[int]]:
    """The places of equal prompts, in groups of at most `most`."""
    found: dict[Dialog, list[int]] = {}
    for place, prompt in enumerate(prompts):
        found.setdefault(prompt, []).append(place)
    return [group[i : i + most] for group in found.values() for i in range(0, len(group), most)]


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)) without overflow."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


@dataclass(frozen=True)
class Speed:
    """What one second of this machine is worth: measured in the run that uses it."""

    matmul_flops: float  # floating-point operations a second of a 1024 x 1024 product

    @classmethod
    def measure(cls, kind: precision.Precision = "float32", seconds: float = 0.3) -> "Speed":
        """The best of many products in the precision in which a step computes its own."""
        a = torch.randn(1024, 1024)
        best = 0.0
        with precision.products(kind):
            started = time.perf_counter()
            while time.perf_counter() - started < seconds:
                begin = time.perf_counter()
                torch.mm(a, a)
                best = max(best, 2 * 1024**3 / (time.perf_counter() - begin))
        return cls(best)


def flops_per_token(model: Transformer, seq_len: int) -> float:
    """Training cost of a token: 6 a weight in a product, and the causal half of attention's two."""
    args = model.args
    weights = sum(p.numel() for p in model.parameters()) - model.tok_embeddings.weight.numel()
    return 6.0 * weights + 6.0 * args.n_layers * args.dim * seq_len


def require(path: Path, made_by: str) -> Path:
    """The path, or an error that says which command makes it."""
    if not path.exists():
        raise InputError(f"{path}: not found; it is made by `puna {made_by}`")
    return path


def fits(model: Transformer, tokenizer: Tokenizer, max_tokens: int, dialog: Dialog) -> bool:
    """Whether the context has room for the prompt and an answer of `max_tokens`."""
    return len(encode_prompt(dialog, tokenizer)) + max_tokens <= model.args.max_seq_len


def check_context(name: str, tokens: int, context: int) -> None:
    """InputError if a setting asks for rows that are longer than the model's context."""
    if tokens > context:
        raise InputError(f"{name}={tokens}: expected at most the model's context, {context} tokens")


def announce_memory(
    model: Transformer,
    beside: Sequence[nn.Module] = (),
    *,
    trained: int = 1,
    trained_heads: int = 0,
    cache: tuple[int, int] = (0, 0),
) -> None:
    """One line on the memory of a model with adapters and the models beside it; else nothing.

    cache: answers generated at once, and the tokens of the longest (see `cache_of`).
    """
    config, trunk = lora.config_of(model), lora.trunk_of(model)
    if config is None:
        return
    sharing = [m for m in beside if trunk is not None and lora.trunk_of(m) is trunk]
    counted = {id(p) for m in (model, *sharing) for p in m.parameters()}
    strange = {id(p): p for m in beside if m not in sharing for p in m.parameters()}
    found = memory.plan(
        model.args,
        config,
        models=1 + len(sharing),
        trained=trained,
        heads=max(trained_heads, sum(not isinstance(m, Transformer) for m in sharing)),
        trained_heads=trained_heads,
        rows=cache[0],
        length=cache[1],
        others=sum(p.nbytes for key, p in strange.items() if key not in counted),
        dtype=model.tok_embeddings.weight.dtype,
    )
    console.current().note(found.line())


def cache_of(
    prompts: Sequence[Dialog], tokenizer: Tokenizer, max_tokens: int, rows: int, context: int
) -> tuple[int, int]:
    """The rows and columns of the engine's cache for answers to these prompts.

    Each answer counts twice: in the cache's pages, and as attention reads it.
    """
    longest = max(len(encode_prompt(prompt, tokenizer)) for prompt in prompts)
    return 2 * rows, rounded(min(longest + max_tokens, context))


def every(step: int, interval: int, total: int) -> bool:
    """Whether to act after `step` (from 0): at each interval (0: none) and at the end."""
    return step + 1 == total or (interval > 0 and (step + 1) % interval == 0)
