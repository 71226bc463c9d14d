"""A model's place and a few settings to a runner: which weights, held how, with how large a cache.

Where there are native kernels and no GPU, `puna.kernels.decoder.Decoder` answers, with its matrices
packed as `quant` says; else `TorchRunner` does, with the transformer as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.engine.blocks import BLOCK, blocks_for
from puna.engine.figures import available_bytes
from puna.engine.runner import Runner
from puna.engine.torch_runner import TorchRunner
from puna.errors import InputError
from puna.kernels import gpu
from puna.model import adapters, checkpoint, folders, lora, peft, places
from puna.model.importance import MOST, PAGE, importances
from puna.model.lora import LoraConfig
from puna.model.presets import cache_bytes_per_token
from puna.model.source import Source
from puna.model.transformer import rotary_table
from puna.text.gguf import is_gguf
from puna.text.tokenizer import Tokenizer

CODED = ("int8", "int4", "fp8")
LEAST_BLOCKS = 4
LEAST_BYTES = 64 << 20  # a cache is not made smaller than this by default
GUESSED = 4  # answers that a draft model guesses for at the same time


@dataclass(frozen=True)
class Pool:
    """How large the cache is to be: blocks, or bytes, or so many whole contexts if memory lasts."""

    contexts: int
    bytes: int | None = None
    blocks: int | None = None

    def size(self, context: int, token_bytes: int) -> int:
        """The number of blocks; fewer than a context needs make the context smaller.

        InputError: the bytes given hold next to nothing.
        """
        block = token_bytes * BLOCK
        if self.blocks is not None:
            return self.blocks
        if self.bytes is not None and self.bytes < LEAST_BLOCKS * block:
            raise InputError(
                f"kv-memory: {self.bytes} bytes given, expected at least {LEAST_BLOCKS * block}"
            )
        if self.bytes is not None:
            return self.bytes // block
        budget = max(available_bytes() // 4, LEAST_BYTES)
        return max(LEAST_BLOCKS, min(blocks_for(context) * self.contexts, budget // block))


@dataclass(frozen=True)
class Opened:
    """A model that can answer."""

    runner: Runner
    tokenizer: Tokenizer
    kind: str  # how the weights are held
    cache_bytes: int


@dataclass(frozen=True)
class Found:
    """A model's files, before the weights are read."""

    place: Path
    source: Source
    tokenizer: Tokenizer
    context: int  # tokens that the model was made for; `source` may be set to fewer


def find(name: Path | str, context: int | None = None, format: str | None = None) -> Found:
    """A model by path or name, with a smaller context where one is given. InputError: see there."""
    place = places.locate(name)
    source = places.open_source(place)
    tokenizer = checkpoint.tokenizer_for(source, place, format)
    most = source.args.max_seq_len
    if context is not None and context > most:
        raise InputError(f"context: {context} tokens given, expected at most the model's {most}")
    if context is not None:
        source = replace(source, args=replace(source.args, max_seq_len=context))
    return Found(place, source, tokenizer, most)


def chosen_kind(found: Found, quant: str | None, packed: bool) -> str:
    """How to hold the weights: as asked for, else as they are saved.

    Packed by the native kernels, what is saved in 16 bits or fewer is held as bfloat16; by the
    plain module only where Puna saved it, for bfloat16 is slow on most processors.
    """
    if quant is not None and quant != "none":
        return quant
    source = found.source
    saved = source.tensors["layers.0.attention.wq.weight"].dtype
    if packed and is_gguf(found.place):
        count = sum(torch.Size(tensor.shape).numel() for tensor in source.tensors.values())
        small = found.place.stat().st_size < 3 * count
        return "bfloat16" if small else "float32"
    short = saved in (torch.bfloat16, torch.float16)
    ours = places.format_of(folders.current(found.place)) == "puna"
    return "bfloat16" if short and (packed or ours or torch.cuda.is_available()) else "float32"


def open_runner(
    found: Found,
    quant: str | None = None,
    pool: Pool | None = None,
    *,
    threads: int | None = None,
    named: Mapping[str, Path] | None = None,
) -> Opened:
    """A runner over a model. `named`: adapters by name, which requests can ask for.

    quant: int8, int4, bfloat16, float32, fp8 (GPU); "none": the plain module; None: the fastest way
    to hold them that changes nothing. InputError: a kind that this machine has no kernels for, a
    damaged model, an adapter of another.
    """
    there = torch.cuda.is_available()
    packed = quant != "none" and not there and native_kernels() is not None
    kind, pool = chosen_kind(found, quant, packed), pool or Pool(1)
    gpu.refuse_kind(kind, "cuda" if there else "cpu")
    if kind in CODED and there and named:
        raise InputError(f"adapter: cannot be used with quant {kind} on this machine")
    added = {name: read_adapter(path, found) for name, path in (named or {}).items()}
    if packed:
        runner, token_bytes = open_native(found, kind, pool, threads)
        for name, (config, tensors) in added.items():
            runner.add_adapter(name, pairs_of(config, tensors))
    else:
        runner, token_bytes = open_module(found, kind, pool, bool(added))
        for name, (config, tensors) in added.items():
            runner.add_adapter(name, lora.load_adapter(lora.share(runner.model), tensors, config))
    return Opened(runner, found.tokenizer, kind, runner.n_blocks * BLOCK * token_bytes)


def native_kernels() -> str | None:
    """The instructions that the native kernels use here; None: there are none."""
    from puna.kernels import native

    return native.available()


def open_native(found: Found, kind: str, pool: Pool, threads: int | None) -> tuple[Any, int]:
    """The native decoder, and the bytes of its cache for a token."""
    from puna.kernels.decoder import Decoder

    source = found.source
    token_bytes = cache_bytes_per_token(source.args, 4 if kind == "float32" else 2)
    blocks = pool.size(source.args.max_seq_len, token_bytes)

    def tensor(name: str) -> Tensor:
        value = source.tensors[name].read()
        least, most = torch.aminmax(value)  # NaN if any is
        if not (least.isfinite() and most.isfinite()):
            raise InputError(f"tensor {name}: holds NaN or infinity")
        return value

    counts = page_importances(found) if kind == "int4" else None
    rope = rotary_table(source.args)
    decoder = Decoder(source.args, tensor, kind, blocks, threads, rope=rope, importance=counts)
    return decoder, token_bytes


def page_importances(found: Found) -> dict[str, Tensor]:
    """What an error in each input of the matrices costs, as `puna quantise` measures it.

    The codes are the model's own: a smaller context than the model's changes none of them.
    """
    args = replace(found.source.args, max_seq_len=min(found.context, MOST))
    tensors, page = found.source.tensors, found.tokenizer.encode(PAGE)
    return importances(args, lambda name: tensors[name].read(), page)


def pairs_of(config: LoraConfig, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each adapted matrix by its name, B with the adapter's scale in it."""
    names = sorted({name.rpartition(".")[0] for name in tensors})
    return {n: (tensors[f"{n}.lora_a"], config.scale * tensors[f"{n}.lora_b"]) for n in names}


def open_module(found: Found, kind: str, pool: Pool, frozen: bool) -> tuple[TorchRunner, int]:
    """The transformer itself, on the GPU if there is one, and the bytes of its cache for a token.

    Rows that decode are held twice, in the blocks and as attention reads them: both are counted.
    """
    args = found.source.args
    if kind in CODED and not torch.cuda.is_available():
        raise InputError(
            f"quant: {kind} needs the native kernels, which were not built; "
            "expected float32, bfloat16 or none"
        )
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    token_bytes = 2 * cache_bytes_per_token(args, dtype.itemsize)
    blocks = pool.size(args.max_seq_len, token_bytes)
    model = checkpoint.from_source(found.source, dtype).eval()
    if torch.cuda.is_available():
        model = model.to("cuda")
    if kind in CODED:
        gpu.quantise_linears(model, kind)
    if frozen:
        lora.freeze(model)
    return TorchRunner(model, blocks), token_bytes


def read_adapter(path: Path, found: Found) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Settings and tensors of an adapter in PEFT's format or in a checkpoint of Puna.

    InputError: it is damaged, or was made for other weights, as far as its files say for which.
    """
    place = folders.current(path)
    if not adapters.holds(place):
        return peft.read_peft(place, found.source.args)
    record = folders.verify(place, adapters.files(folders.manifest(place)))
    said = record.get("base")
    if not isinstance(said, dict) or said.get("sha256") != adapters.fingerprint(found.place):
        raise InputError(f"{path}: the adapter was made for other weights than {found.place}")
    return peft.read_peft(place, found.source.args)
