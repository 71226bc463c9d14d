"""Quantise: what a model loses in 8 and 4 bits, against its bfloat16 weights on held-out text.

    puna quantise smollm2 --text held_out.txt
    puna quantise runs/v1/checkpoint --text held_out.txt --calibrate train.txt --save true

For each kind: bits and bytes, perplexity, the KL divergence of its predictions from those in
bfloat16 (mean and 99th percentile), and how often the most likely token is the same. The native
kernels compute it, or torch as they would, inputs rounded to 8 bits included. With a calibration
text int4 is measured once more, its errors compensated; `save` writes that model as a checkpoint in
float32, which served in int4 has these figures. Writes quantisation.json and quantisation.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from rich.console import Console
from rich.table import Table
from torch import Tensor

from puna.errors import InputError
from puna.model import checkpoint, places
from puna.model.importance import PAGE, importances
from puna.model.predictors import Native, Simulation, kernels, opened
from puna.model.simulated import Kind, bits_of, calibrate
from puna.model.source import Source
from puna.model.transformer import Transformer
from puna.numerics.fidelity import Fidelity
from puna.recipes import steps
from puna.run import Run
from puna.text.files import read_bounded, write_json, write_text
from puna.text.tokenizer import Tokenizer

POSITIONAL = "model"
REFERENCE: Kind = "bfloat16"
CALIBRATED = "int4 calibrated"
MOST_BYTES = 1 << 28  # of a text
COLUMNS = ("kind", "bits", "MB", "perplexity", "KL", "KL 99 %", "same token")


@dataclass(frozen=True, kw_only=True)
class Config:
    model: Path  # a model in any format: folder, GGUF file, smollm2 or hf:owner/name
    text: Path  # text that the model was not trained on
    run: Path = Path("runs/quantise")  # folder of the report
    kinds: tuple[Kind, ...] = ("float32", "bfloat16", "int8", "int4")  # what to measure
    calibrate: Path | None = None  # another text, which int4 is fitted to; none: without
    save: bool = False  # whether to write the calibrated model to checkpoint/
    tokens: Annotated[int, Meta(ge=1)] = 20000  # of the held-out text, at most
    calibration_tokens: Annotated[int, Meta(ge=1)] = 16384  # of the calibration text, at most
    window: Annotated[int, Meta(ge=2)] = 512  # tokens that the model sees at once


def main(config: Config) -> dict:
    if config.save and config.calibrate is None:
        raise InputError("save=True: only a calibrated model is saved, expected --calibrate TEXT")
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    source = places.open_source(config.model)
    tokenizer = checkpoint.tokenizer_for(source, config.model)
    steps.check_context("window", config.window, source.args.max_seq_len)
    rows = windows(config.text, tokenizer, config.window, config.tokens)
    tensors = {name: tensor.read for name, tensor in source.tensors.items()}
    args = replace(source.args, max_seq_len=config.window)  # what the cache has room for
    reference = opened(args, tensors, REFERENCE)
    with run.track(len(rows), f"{REFERENCE}, to compare with") as advance:
        states = [counted(advance, reference.hidden(row[:-1])) for row in rows]
    seen = tokenizer.encode(PAGE)  # as whoever serves a model in int4 lets it see it
    counts = importances(args, lambda name: tensors[name](), seen)
    found: dict[str, dict[str, Any]] = {}
    for kind in config.kinds:
        with run.track(len(rows), kind) as advance:
            model = opened(args, tensors, kind, counts if kind == "int4" else None)
            figures = compare(model, reference, rows, states, advance)
        found[kind] = sizes(source, kind) | figures
        del model
    if config.calibrate is not None:
        given = windows(config.calibrate, tokenizer, config.window, config.calibration_tokens)
        whole = checkpoint.from_source(source)
        with run.track(source.args.n_layers, "calibrate, layers") as advance:
            calibrate(whole, "int4", given, advance)
        fitted = tensors | {n: partial(held, w) for n, w in layer_weights(whole)}
        counts = importances(args, lambda name: fitted[name](), seen)
        with run.track(len(rows), CALIBRATED) as advance:
            model = opened(args, fitted, "int4", counts)
            figures = compare(model, reference, rows, states, advance)
        found[CALIBRATED] = sizes(source, "int4") | figures
        if config.save:
            save(run.folder / "checkpoint", whole, source, tokenizer)
    conditions = {
        **{"model": str(config.model), "text": config.text.name, "window": config.window},
        "kernels": kernels(),
    }
    write_json(run.folder / "quantisation.json", {**conditions, "kinds": found})
    write_text(run.folder / "quantisation.md", page(conditions, found))
    show(found)
    return run.finish(
        **{f"{kind.replace(' ', '_')}_perplexity": one["perplexity"] for kind, one in found.items()}
    )


def compare(
    model: Native | Simulation,
    reference: Native | Simulation,
    rows: Tensor,
    states: Sequence[Tensor],
    advance: Callable[[int], None],
) -> dict[str, float]:
    """The figures of `Fidelity`: a model against the reference's hidden states of each row."""
    fidelity = Fidelity()
    for row, state in zip(rows, states, strict=True):
        logits = model.logits(model.hidden(row[:-1]))
        fidelity.add(logits, reference.logits(state), row[1:])
        advance(1)
    return fidelity.figures()


def counted(advance: Callable[[int], None], state: Tensor) -> Tensor:
    """What was computed, after one more is counted."""
    advance(1)
    return state


def held(weight: Tensor) -> Tensor:
    """A tensor that is in memory."""
    return weight


def layer_weights(model: Transformer) -> list[tuple[str, Tensor]]:
    """The layers' matrices by name."""
    state = model.state_dict()
    return [(name, w) for name, w in state.items() if name.startswith("layers.") and w.ndim > 1]


def windows(path: Path, tokenizer: Tokenizer, width: int, most: int) -> Tensor:
    """The text's tokens in rows [N, width], at most `most`. InputError: too short for a row."""
    try:
        text = read_bounded(path, MOST_BYTES, "text").decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text: {error.reason}") from None
    ids = tokenizer.encode(text[: 16 * most])[: max(most, width)]
    if len(ids) < width:
        raise InputError(f"{path}: has {len(ids)} tokens, expected at least {width} (window)")
    return torch.tensor(ids[: len(ids) // width * width]).view(-1, width)


def sizes(source: Source, kind: str) -> dict[str, float]:
    """Bits of a weight of the layers, megabytes of the model."""
    bits, total = bits_of(source.args, kind)
    return {"bits": bits, "megabytes": total / 1e6}


def save(folder: Path, model: Transformer, source: Source, tokenizer: Tokenizer) -> None:
    """The calibrated matrices in a checkpoint; its vocabulary matrices are the source's own."""
    plain = checkpoint.from_source(source)
    for name, weight in layer_weights(model):
        plain.get_parameter(name).data = weight
    checkpoint.save(folder, plain, tokenizer, {"stage": "quantise", "calibrated": "int4"})


def cells(kind: str, one: dict[str, Any]) -> list[str]:
    """The row of one kind, as texts."""
    return [
        *(kind, f"{one['bits']:.4g}", f"{one['megabytes']:.4g}", f"{one['perplexity']:.3f}"),
        *(f"{one['kl']:.5f}", f"{one['kl_99']:.4f}", f"{100 * one['top1']:.1f} %"),
    ]


def page(conditions: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """The report as Markdown."""
    tokens = next(iter(found.values()))["tokens"] if found else 0
    lines = [
        f"# {conditions['model']} in fewer bits",
        "",
        f"{tokens} predicted tokens of {conditions['text']}, {conditions['window']} at a time, "
        f"computed by the kernels for {conditions['kernels']}. KL: "
        "the divergence from the predictions in bfloat16, in nats a token; same token: how often "
        "the most likely one is the same. bits: of a weight in the layers, scales included.",
        "",
        *table_lines([COLUMNS, *(cells(kind, one) for kind, one in found.items())]),
    ]
    return "\n".join(lines) + "\n"


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its first row the heading."""
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *rest]


def show(found: dict[str, dict[str, Any]]) -> None:
    """The table on the terminal."""
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for kind, one in found.items():
        table.add_row(*cells(kind, one))
    Console().print(table)
