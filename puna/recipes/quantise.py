"""Quantise: what a model loses in 8 and 4 bits, against its bfloat16 weights on held-out text.

    puna quantise smollm2 --text held_out.txt
    puna quantise runs/v1/checkpoint --text held_out.txt --calibrate train.txt --save true

For each kind: bits and bytes, perplexity, the KL divergence of its predictions from those in
bfloat16 (mean and 99th percentile), and how often the most likely token is the same. The products
are those of the native kernels, inputs rounded to 8 bits included. With a calibration text int4 is
measured once more, its errors compensated; `save` writes that model as a checkpoint in float32.
Writes quantisation.json and quantisation.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from rich.console import Console
from rich.table import Table
from torch import Tensor

from puna.errors import InputError
from puna.model import checkpoint, places
from puna.model.simulated import Kind, bits_of, calibrate, simulate
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
    layers = source.args.n_layers
    found: dict[str, dict[str, Any]] = {}
    reference = Reference(source, rows, run)
    for kind in config.kinds:
        model = checkpoint.from_source(source)
        with run.track(layers, f"{kind}: matrices") as advance:
            simulate(model, kind, advance)
        found[kind] = sizes(source, kind) | reference.compare(model, kind)
        del model
    if config.calibrate is not None:
        given = windows(config.calibrate, tokenizer, config.window, config.calibration_tokens)
        model = checkpoint.from_source(source)
        with run.track(layers, f"{CALIBRATED}: matrices") as advance:
            calibrate(model, "int4", given, advance)
        found[CALIBRATED] = sizes(source, "int4") | reference.compare(model, CALIBRATED)
        if config.save:
            save(run.folder / "checkpoint", model, source, tokenizer)
    conditions = {"model": str(config.model), "text": config.text.name, "window": config.window}
    write_json(run.folder / "quantisation.json", {**conditions, "kinds": found})
    write_text(run.folder / "quantisation.md", page(conditions, found))
    show(found)
    return run.finish(
        **{f"{kind.replace(' ', '_')}_perplexity": one["perplexity"] for kind, one in found.items()}
    )


class Reference:
    """What the model predicts in bfloat16, kept as the last hidden states of each window."""

    def __init__(self, source: Source, rows: Tensor, run: Run) -> None:
        self.rows, self.run = rows, run
        model = checkpoint.from_source(source)
        with run.track(source.args.n_layers, f"reference, {REFERENCE}: matrices") as advance:
            simulate(model, REFERENCE, advance)
        self.output = model.output
        with run.track(len(rows), "reference: windows") as advance, torch.inference_mode():
            self.states = [hidden(model, row, advance) for row in rows]

    def compare(self, model: Transformer, name: str) -> dict[str, float]:
        """The figures of `Fidelity` of a model on the windows."""
        fidelity = Fidelity()
        with self.run.track(len(self.rows), f"{name}: windows") as advance, torch.inference_mode():
            for row, state in zip(self.rows, self.states, strict=True):
                logits = model.output(hidden(model, row, advance))
                fidelity.add(logits, self.output(state), row[1:])
        return fidelity.figures()


def hidden(model: Transformer, row: Tensor, advance: Any) -> Tensor:
    """The last hidden states [T - 1, dim] of the tokens that have a next one in the row [T]."""
    state = model.hidden(row[None, :-1])[0]
    advance(1)
    return state


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
    state = model.state_dict()
    for name, weight in plain.named_parameters():
        if name.startswith("layers."):
            weight.data = state[name]
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
        f"{tokens} predicted tokens of {conditions['text']}, {conditions['window']} at a time. KL: "
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
