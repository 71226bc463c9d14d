"""Models: the sizes that Puna knows, and what each needs.

    puna models
    puna models smollm2

Without a name: every preset with its parameters, the memory of its weights by precision and the
bytes of one cached token. With a name, a folder or a file: the same for that model, and its
settings.
"""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from puna.model import places
from puna.model.presets import PRESETS, cache_bytes_per_token, parameter_count
from puna.model.settings import params
from puna.model.transformer import ModelArgs

POSITIONAL = "model"
# Bits of one weight: float32, bfloat16, 8 bits and 4 bits with a 16-bit scale for every 32 weights.
PRECISIONS = {"float32": 32.0, "bfloat16": 16.0, "int8": 8.5, "int4": 4.5}


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str = ""  # a preset's name, a model's folder or file; empty: all presets


def main(config: Config) -> dict:
    console = Console()
    if not config.model:
        console.print(table(PRESETS))
        return {}
    known = PRESETS.get(config.model)
    args = known or places.open_source(config.model).args
    console.print(table({config.model: args}))
    return params(args)


def table(sizes: dict[str, ModelArgs]) -> Table:
    """One row a model: shape, parameters, GB of weights by precision, KB of a cached token."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("model", no_wrap=True)
    for name in ("layers", "dim", "heads", "context", "parameters"):
        found.add_column(name, justify="right")
    for name in PRECISIONS:
        found.add_column(f"{name} GB", justify="right")
    found.add_column("KB a token", justify="right")
    for name, args in sizes.items():
        count = parameter_count(args)
        heads = f"{args.n_heads}" + f"/{args.kv_heads}" * (args.kv_heads != args.n_heads)
        memory = [f"{count * bits / 8e9:,.2f}" for bits in PRECISIONS.values()]
        cache = f"{cache_bytes_per_token(args) / 1024:,.1f}"
        shape = (f"{args.n_layers}", f"{args.dim}", heads, f"{args.max_seq_len:,}")
        found.add_row(name, *shape, f"{count:,}", *memory, cache)
    return found
