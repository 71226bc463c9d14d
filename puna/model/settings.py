"""A model's settings as params.json holds them: Meta's names, and ours for what Meta's files lack.

Nothing is guessed: a name that is not known is refused, and so is a value out of range, before
anything is allocated by it.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna.errors import InputError
from puna.model.transformer import ModelArgs, RopeScaling
from puna.text.files import read_json

REQUIRED = ("dim", "n_layers", "n_heads", "vocab_size")
# Far above every model there is; a file that says more is damaged or meant to exhaust the memory.
LARGEST = {
    "dim": 1 << 17,
    "n_layers": 1 << 12,
    "n_heads": 1 << 12,
    "n_kv_heads": 1 << 12,
    "vocab_size": 1 << 24,
    "multiple_of": 1 << 20,
    "hidden_dim": 1 << 20,
    "max_seq_len": 1 << 20,
    "sliding_window": 1 << 22,
    "original_max_seq_len": 1 << 22,
}
MOST_HEAD_DIM = 1 << 10  # with max_seq_len: a rotary table of 4 GB
MOST_BYTES = 1 << 20  # of a file of settings


def params(args: ModelArgs) -> dict[str, Any]:
    """The settings as params.json holds them: nothing that is None or false."""
    found = dataclasses.asdict(args)
    return {k: v for k, v in found.items() if v is not None and v is not False}


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object in a small file. InputError: another value, or more than a megabyte."""
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise InputError(
            f"{path}: has {path.stat().st_size} bytes, a file of settings has at most {MOST_BYTES}"
        )
    given = read_json(path)
    if not isinstance(given, dict):
        raise InputError(f"{path}: expected a JSON object of model settings")
    return given


def model_args(path: Path, tokenizer_size: int | None = None) -> ModelArgs:
    """Settings from a params.json; a vocab_size of -1 (Meta's files) means the tokenizer's.

    Meta's `use_scaled_rope` (Llama 3.1 and later) and Mistral's `head_dim` are understood.
    InputError names a key that is unknown, missing, of another type or out of range.
    """
    given = read_settings(path)
    if given.pop("use_scaled_rope", False) and "rope_scaling" not in given:
        given["rope_scaling"] = dataclasses.asdict(RopeScaling())
    head_dim = given.pop("head_dim", None)
    if given.get("vocab_size") == -1:
        if tokenizer_size is None:
            raise InputError(f"{path}: vocab_size is -1, the tokenizer's, and there is none here")
        given["vocab_size"] = tokenizer_size
    args = checked(given, path)
    if head_dim not in (None, args.head_dim):
        raise InputError(f"{path}: head_dim is {head_dim!r}, expected dim/n_heads {args.head_dim}")
    return args


def checked(given: Mapping[str, Any], place: Path | str) -> ModelArgs:
    """ModelArgs of named values, each of its type and in its range. InputError names the first."""
    values = dict(given)
    scaling = values.get("rope_scaling")
    if isinstance(scaling, Mapping):
        refuse_values(scaling, RopeScaling, f"{place}: rope_scaling")
        values["rope_scaling"] = RopeScaling(**scaling)
        if not scaling.get("low_freq_factor", 1.0) < scaling.get("high_freq_factor", 4.0):
            raise InputError(
                f"{place}: rope_scaling: low_freq_factor must be below high_freq_factor"
            )
    elif scaling is not None:
        raise InputError(f"{place}: rope_scaling is {scaling!r}, expected an object of settings")
    refuse_values({k: v for k, v in values.items() if k != "rope_scaling"}, ModelArgs, place)
    for key in REQUIRED:
        if key not in values:
            raise InputError(f"{place}: {key} is missing")
    args = ModelArgs(**values)
    if args.dim % (2 * args.n_heads) or args.n_heads % args.kv_heads:
        raise InputError(
            f"{place}: dim {args.dim} must divide by twice n_heads {args.n_heads}, "
            f"and n_heads by n_kv_heads {args.kv_heads}"
        )
    if args.head_dim > MOST_HEAD_DIM:
        raise InputError(
            f"{place}: dim {args.dim} over n_heads {args.n_heads} is {args.head_dim} a head, "
            f"at most {MOST_HEAD_DIM} was expected"
        )
    return args


def refuse_values(given: Mapping[str, Any], cls: type, place: Path | str) -> None:
    """InputError names the first key that `cls` lacks, or whose value is not what it takes."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}
    for key, value in given.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f", meant {near[0]}?" if near else ""
            raise InputError(f"{place}: unknown setting {key}{hint}")
        if "bool" in fields[key]:
            if type(value) is not bool:
                raise InputError(f"{place}: {key} is {value!r}, true or false was expected")
            continue
        whole = "int" in fields[key]
        valid = type(value) is int if whole else type(value) in (int, float)
        if not (valid and value > 0 and math.isfinite(value)):
            expected = "a positive whole number" if whole else "a positive number"
            raise InputError(f"{place}: {key} is {value!r}, {expected} was expected")
        if value > LARGEST.get(key, value):
            raise InputError(f"{place}: {key} is {value}, at most {LARGEST[key]} was expected")
