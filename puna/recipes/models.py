"""Models: the sizes that Puna knows, and what each needs.

    puna models
    puna models smollm2

Without a name: every preset with its parameters, the memory of its weights by precision and the
bytes of one cached token. With a name, a folder or a file: the same for that model, and its
settings.
"""

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from puna.model import places
from puna.model.presets import PRESETS, cache_bytes_per_token, parameter_count
from puna.model.settings import params
from puna.model.transformer import ModelArgs

POSITIONAL = "model"
# Bits of one weight: 8 and 4 bits have a scale of 16 bits for every 32 weights.
PRECISIONS = {"fp32": 32.0, "bf16": 16.0, "int8": 8.5, "int4": 4.5}


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str = ""  # a preset's name, a model's folder or file; empty: all presets


def main(config: Config) -> dict:
    console = Console()
    if not config.model:
        console.print(table(PRESETS))
        return {}
    known = PRESETS.get(config.model)
    args = known or places.open_source(config.model, verify=False).args
    console.print(table({config.model: args}))
    return {"parameters": parameter_count(args), **params(args)}


def table(sizes: dict[str, ModelArgs]) -> Table:
    """One row a model: shape, parameters, GB of weights by precision, KB of a cached token."""
    caption = "fp32 to int4: GB of weights; cache: KB a token in 16 bits"
    found = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), caption=caption)
    found.add_column("model", no_wrap=True)
    names = ("layers", "dim", "heads", "context", "params", *PRECISIONS, "cache")
    for name in names:
        found.add_column(name, justify="right", no_wrap=True)
    for name, args in sizes.items():
        count = parameter_count(args)
        heads = f"{args.n_heads}" + f"/{args.kv_heads}" * (args.kv_heads != args.n_heads)
        memory = [gigabytes(count * bits / 8) for bits in PRECISIONS.values()]
        cache = f"{cache_bytes_per_token(args) / 1024:.4g}"
        shape = (f"{args.n_layers}", f"{args.dim}", heads, f"{args.max_seq_len}")
        found.add_row(escape(name), *shape, short(count), *memory, cache)
    return found


def short(count: int) -> str:
    """6738415616: 6.74B."""
    size, unit = (1e9, "B") if count >= 1e9 else (1e6, "M")
    return f"{count / size:.3g}{unit}"


def gigabytes(size: float) -> str:
    """Bytes as GB, to three figures."""
    return f"{size / 1e9:.3g}" if size >= 1e6 else f"{size / 1e9:.1g}"
