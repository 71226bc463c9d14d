"""Convert: a model from any format to any other, one tensor at a time.

    puna convert llama-2-7b llama-2-7b-hf --to hf
    puna convert smollm2 smollm2-f16.gguf --to gguf --gguf_type F16

Reads a checkpoint of Puna, Meta's folder (consolidated.*.pth), Hugging Face's folder (safetensors),
a GGUF file, smollm2 or hf:owner/name. Writes the same numbers, or `dtype`'s, with the tokenizer and
the SHA-256 of every file. The model appears under its name only when it is whole: what a killed
conversion leaves is a hidden folder beside it, which the next one removes. No more than a few
tensors are in memory at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from puna import console
from puna.errors import InputError
from puna.model import folders, huggingface, places
from puna.model.safetensors import size_of, write_safetensors
from puna.model.settings import params
from puna.model.source import Source, Stored
from puna.text.files import write_json

POSITIONAL = "src dst"
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
    total = sum(map(size_of, source.tensors.values()))
    with console.current().track(total >> 20, "convert, MB") as advance:
        done = 0

        def track(count: int) -> None:
            nonlocal done
            advance(((done + count) >> 20) - (done >> 20))
            done += count

        if config.to == "gguf":
            write_file(config, source, track)
        else:
            folders.commit(config.dst, lambda place: write_folder(config, source, place, track))
    return {"tensors": len(source.tensors), "megabytes": total >> 20, "to": str(config.dst)}


def refuse(config: Config, source: Source) -> None:
    """InputError for a setting that would be read by nobody, or a place that holds something."""
    if config.shards != 1 and config.to != "meta":
        raise InputError(f"shards={config.shards}: only --to meta has shards")
    if config.gguf_type != "F16" and config.to != "gguf":
        raise InputError(f"gguf_type={config.gguf_type}: only --to gguf has it")
    if config.dtype != "same" and config.to == "gguf":
        raise InputError(f"dtype={config.dtype}: a GGUF's type is --gguf_type")
    if source.tokenizer is None and config.to != "hf":
        raise InputError(f"{config.src}: has no tokenizer, --to {config.to} needs one")


def typed(source: Source, dtype: torch.dtype | None) -> Source:
    """The source, its tensors turned into `dtype` as they are read (None: as they are)."""
    if dtype is None:
        return source

    def turned(tensor: Stored) -> Stored:
        return replace(tensor, dtype=dtype, read=lambda: tensor.read().to(dtype))

    return replace(source, tensors={name: turned(t) for name, t in source.tensors.items()})


def write_folder(config: Config, source: Source, place: Path, track: Callable[[int], None]) -> None:
    """Fill a folder in one of the three formats, and seal it with the SHA-256 of every file."""
    if config.to == "hf":
        huggingface.write_folder(source, place, track)
        write_tokenizer(source, place, exported=True)
    elif config.to == "meta":
        meta.write_folder(source, place, config.shards, track)
    else:
        write_safetensors(place / "model.safetensors", source.tensors, track)
        write_json(place / "params.json", params(source.args))
        write_tokenizer(source, place, exported=False)
    kind = "transformer" if config.to == "puna" else f"{config.to} folder"
    folders.seal(place, kind=kind, meta={"from": str(config.src)})
