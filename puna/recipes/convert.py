"""Convert: a model from any format to any other, one tensor at a time.

    puna convert llama-2-7b llama-2-7b-hf --to hf
    puna convert smollm2 smollm2-f16.gguf --to gguf --gguf_type F16

Reads a checkpoint of Puna, Meta's folder (consolidated.*.pth), Hugging Face's folder (safetensors),
a GGUF file, smollm2 or hf:owner/name. Writes the same numbers, or `dtype`'s, with the tokenizer and
the SHA-256 of every file. The model appears under its name only when it is whole: what a killed
conversion leaves is hidden beside it, and the next one removes it. What is not a model is never
replaced, nor is the source. No more than a few tensors are in memory at once.
"""

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from puna import console
from puna.errors import InputError
from puna.lock import Lock
from puna.model import checkpoint, folders, gguf, huggingface, meta, places
from puna.model.safetensors import size_of, write_safetensors
from puna.model.settings import params
from puna.model.source import Source, Stored
from puna.model.tensors import TYPES
from puna.text.export import export_json
from puna.text.files import sha256, write_json, write_text
from puna.text.tokenizer import SentencePieceTokenizer

POSITIONAL = "src dst"


@dataclass(frozen=True, kw_only=True)
class Config:
    src: str  # folder, GGUF file, smollm2 or hf:owner/name
    dst: Path  # folder to write, or the GGUF file
    to: Literal["puna", "hf", "meta", "gguf"] = "puna"  # format to write
    # type of the weights; "same": as they are stored (quantised ones become float32)
    dtype: Literal["same", "float32", "float16", "bfloat16"] = "same"
    shards: int = 1  # files of a Meta folder, one for each model-parallel process: 1, 2, 4, 8
    # type of a GGUF's matrices
    gguf_type: Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"] = "F16"


def main(config: Config) -> dict:
    source = typed(places.open_source(config.src), TYPES.get(config.dtype))
    refuse(config, source)
    dst = target(config)
    total = sum(map(size_of, source.tensors.values()))
    dst.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock.take(dst.with_name(f".{dst.name}.lock"))
    try:
        with console.current().track(total >> 20, f"convert to {config.to}, MB") as advance:
            write(config, dst, counted(source, advance))
    finally:
        lock.release()
    return {"tensors": len(source.tensors), "megabytes": total >> 20, "written": str(config.dst)}


def target(config: Config) -> Path:
    """Where to write, absolute. InputError if something is there that must not be replaced."""
    dst, src = Path(os.path.abspath(config.dst)), places.locate(config.src).resolve()
    if dst.is_symlink():
        raise InputError(f"{config.dst}: is a link, a new name or the model itself was expected")
    real = dst.resolve()
    if real == src or src in real.parents or real in src.parents:
        raise InputError(f"{config.dst}: is, holds or lies in the model to convert")
    if config.to != "gguf":
        return dst
    if dst.is_dir():
        raise InputError(f"{config.dst}: is a folder, the name of a file was expected")
    if dst.exists() and not (dst.is_file() and gguf_file(dst)):
        raise InputError(f"{config.dst}: is there and is no GGUF file; it is not replaced")
    return dst


def gguf_file(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    with open(path, "rb") as file:
        return file.read(4) == b"GGUF"


def refuse(config: Config, source: Source) -> None:
    """InputError for a setting that nothing would read, and for a model without a tokenizer."""
    if config.shards != 1 and config.to != "meta":
        raise InputError(f"shards={config.shards}: only --to meta has shards")
    if config.gguf_type != "F16" and config.to != "gguf":
        raise InputError(f"gguf_type={config.gguf_type}: only --to gguf has it")
    if config.dtype != "same" and config.to == "gguf":
        raise InputError(f"dtype={config.dtype}: a GGUF's type is --gguf_type")
    if source.tokenizer is None:
        raise InputError(f"{config.src}: has no tokenizer, which every format carries along")
    checkpoint.tokenizer_for(source, config.src)


def typed(source: Source, dtype: torch.dtype | None) -> Source:
    """The source, its tensors turned into `dtype` as they are read (None: as they are)."""

    def turned(tensor: Stored) -> Stored:
        assert dtype is not None
        return replace(tensor, dtype=dtype, read=lambda: tensor.read().to(dtype))

    if dtype is None:
        return source
    return replace(source, tensors={n: turned(t) for n, t in source.tensors.items()})


def finite(name: str, value: Tensor) -> Tensor:
    """The tensor. InputError: it holds NaN or infinity, or its new type cannot hold a number."""
    if not torch.isfinite(value).all():
        raise InputError(f"tensor {name}: holds a number that is not finite in {value.dtype}")
    return value


def counted(source: Source, advance: Callable[[int], None]) -> Source:
    """The source; what is read of it is told in megabytes."""
    done = 0

    def read(name: str, tensor: Stored) -> Tensor:
        nonlocal done
        value, before = finite(name, tensor.read()), done
        done += size_of(tensor)
        advance((done >> 20) - (before >> 20))
        return value

    found = {n: replace(t, read=partial(read, n, t)) for n, t in source.tensors.items()}
    return replace(source, tensors=found)


def write(config: Config, dst: Path, source: Source) -> None:
    """Write the model under its name, whole or not at all."""
    if config.to == "gguf":
        for left in dst.parent.glob(f".{glob.escape(dst.name)}.*.tmp"):  # of a killed conversion
            left.unlink()
        total = dst.with_name(f"{dst.name}.sha256")
        total.unlink(missing_ok=True)  # no sum of an earlier file beside the new one
        gguf.write_gguf(source, dst, config.gguf_type)
        write_text(total, summed(dst))
    else:
        folders.commit(dst, lambda place: fill(config, source, place))


def summed(path: Path) -> str:
    """A line as `sha256sum` writes and checks it."""
    return f"{sha256(path)}  {path.name}\n"


def fill(config: Config, source: Source, place: Path) -> None:
    """Fill a folder in one of the three formats, and seal it with the SHA-256 of every file."""
    tokenizer = checkpoint.tokenizer_for(source, config.src)
    if config.to == "hf":
        ends = (tokenizer.bos_id, tokenizer.eos_id)
        huggingface.write_folder(source, place, ends, tokenizer.control)
        tokenizer.save(place)
        if isinstance(tokenizer, SentencePieceTokenizer):
            export_json(tokenizer, place / "tokenizer.json")
    elif config.to == "meta":
        lacking = meta.write_meta(source, place, config.shards)
        if lacking:
            console.current().note(f"params.json has what Meta's code lacks: {', '.join(lacking)}")
    else:
        write_safetensors(place / "model.safetensors", source.tensors)
        write_json(place / "params.json", params(source.args))
        tokenizer.save(place)
    kind = "transformer" if config.to == "puna" else f"{config.to} folder"
    origin = {"from": str(config.src)}
    folders.seal(place, kind=kind, prompt_format=tokenizer.format, meta=origin)
