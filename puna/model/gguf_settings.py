"""The settings of a Llama model as the keys of a GGUF file, and back.

Llama 3.1's stretched rotation is a tensor `rope_freqs.weight` of divisors; the settings it was made
from are not in such a file, so the usual ones are tried (ours are written beside it as
`puna.rope_scaling.*`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.errors import InputError
from puna.model.gguf_tensors import read_tensor
from puna.model.settings import checked
from puna.model.transformer import ModelArgs, RopeScaling, stretched
from puna.text.gguf import Field, Header

MATRICES = 9  # tensors of a layer, the two norms among them
DIVISORS = "rope_freqs.weight"
SCALINGS = (RopeScaling(), RopeScaling(factor=32.0))  # Llama 3.1, Llama 3.2
SCALING_KEYS = {
    "factor": "float32",
    "low_freq_factor": "float32",
    "high_freq_factor": "float32",
    "original_max_seq_len": "uint32",
}

# settings that change nothing at these values; None: at any
WITHOUT_EFFECT: dict[str, tuple[Any, ...] | None] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.original_context_length": None,
    "rope.scaling.finetuned": None,
    "rope.scale_linear": (1.0,),
    "attention.causal": (True,),
    "tensor_data_layout": ("Meta AI original pth",),
}


def model_args(header: Header) -> ModelArgs:
    """The settings of the model; they are those of a transformer, and not more than its tensors."""
    name = header.fields.get("general.architecture", Field("string", None)).value
    if name != "llama":
        found = f"general.architecture is {name!r:.60}"
        raise InputError(f"{header.path}: {found}, 'llama' was expected")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise InputError(f"{header.path}: has no token_embd.weight with two dimensions")
    settings = _Settings(header)
    dim, heads = settings.whole("embedding_length"), settings.whole("attention.head_count")
    kv_heads = settings.whole("attention.head_count_kv", heads)
    if dim % (2 * heads) or heads % kv_heads:
        raise InputError(
            f"{header.path}: llama.embedding_length {dim} must divide by twice "
            f"llama.attention.head_count {heads}, and that by head_count_kv {kv_heads}"
        )
    layers = settings.whole("block_count")
    if layers * MATRICES > len(header.tensors):
        most = f"at most {len(header.tensors) // MATRICES} for {len(header.tensors)} tensors"
        raise settings.fault("block_count", layers, most)
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        settings.equal(key, dim // heads)
    vocab_size = embedding.shape[0]
    settings.equal("vocab_size", vocab_size)
    args = {
        "dim": dim,
        "n_layers": layers,
        "n_heads": heads,
        "n_kv_heads": None if kv_heads == heads else kv_heads,
        "vocab_size": vocab_size,
        "norm_eps": settings.real("attention.layer_norm_rms_epsilon"),
        "rope_theta": settings.real("rope.freq_base", 10000.0),
        "max_seq_len": settings.whole("context_length"),
        "hidden_dim": settings.whole("feed_forward_length"),
        "tie_embeddings": "output.weight" not in header.tensors,
        "sliding_window": settings.whole("attention.sliding_window", 0, least=0) or None,
    }
    settings.refuse_rest()
    return _with_scaling(header, args)


def setting_fields(args: ModelArgs) -> dict[str, Field]:
    """The keys that hold the settings of a model: what `model_args` reads."""
    whole = {
        "vocab_size": args.vocab_size,
        "context_length": args.max_seq_len,
        "embedding_length": args.dim,
        "block_count": args.n_layers,
        "feed_forward_length": args.ffn_dim,
        "rope.dimension_count": args.head_dim,
        "attention.head_count": args.n_heads,
        "attention.head_count_kv": args.kv_heads,
        "attention.sliding_window": args.sliding_window,
    }
    fields = {
        f"llama.{key}": Field("uint32", number)
        for key, number in whole.items()
        if number is not None
    }
    fields["llama.rope.freq_base"] = Field("float32", args.rope_theta)
    fields["llama.attention.layer_norm_rms_epsilon"] = Field("float32", args.norm_eps)
    if args.rope_scaling is not None:
        for name, number in zip(SCALING_KEYS, astuple(args.rope_scaling), strict=True):
            fields[f"puna.rope_scaling.{name}"] = Field(SCALING_KEYS[name], number)
    return fields


def divisors(args: ModelArgs, scaling: RopeScaling) -> Tensor:
    """By how much each pair of a head turns slower, [head_dim // 2]."""
    pairs = torch.arange(0, args.head_dim, 2).float() / args.head_dim
    frequency = 1.0 / args.rope_theta**pairs
    return frequency / stretched(frequency, scaling)


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: a file says 9.999999747378752e-06 for 1e-5."""
    return float(str(np.float32(value)))


class _Settings:
    """The `llama.` keys of a header, each asked for once; what nobody asks for is refused."""

    def __init__(self, header: Header):
        self.path = header.path
        self.left = {
            key.removeprefix("llama."): field.value
            for key, field in header.fields.items()
            if key.startswith("llama.")
        }

    def fault(self, key: str, value: object, expected: object) -> InputError:
        """The error of a setting that cannot be."""
        return InputError(f"{self.path}: llama.{key} is {value!r:.60}, {expected} was expected")

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number from `least` on; one for each layer must be the same for all."""
        value = self._given(key, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if type(value) is not int or value < least:
            raise self.fault(key, value, f"a whole number from {least} on")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A positive number, as the shortest decimal that gives its float32."""
        value = self._given(key, default)
        if type(value) is not float or not 1e-30 < value < 1e30:
            raise self.fault(key, value, "a positive number")
        return shortest(value)

    def equal(self, key: str, expected: object) -> None:
        """Refuse a value other than the expected one; the key may be absent."""
        if (value := self.left.pop(key, expected)) != expected:
            raise self.fault(key, value, expected)

    def refuse_rest(self) -> None:
        """Refuse what is left, unless it is without effect."""
        for key, value in self.left.items():
            if key not in WITHOUT_EFFECT:
                raise InputError(f"{self.path}: llama.{key} is a setting that Puna does not know")
            allowed = WITHOUT_EFFECT[key]
            if allowed is not None and value not in allowed:
                raise self.fault(key, value, " or ".join(map(repr, allowed)))

    def _given(self, key: str, default: object) -> Any:
        value = self.left.pop(key, default)
        if value is None:
            raise InputError(f"{self.path}: has no llama.{key}")
        return value


def _with_scaling(header: Header, settings: Mapping[str, Any]) -> ModelArgs:
    """The settings with the stretch of rotations that the file's divisors come from."""
    settings = {key: value for key, value in settings.items() if value is not None}
    args = checked(settings, header.path)
    place = header.tensors.get(DIVISORS)
    if place is None:
        return args
    if place.shape != (args.head_dim // 2,):
        wanted = f"[{args.head_dim // 2}]"
        raise InputError(f"{header.path}: {DIVISORS} has shape {list(place.shape)}, not {wanted}")
    found = read_tensor(header.path, place).float()
    for scaling in (*_noted(header), *SCALINGS):
        if torch.allclose(divisors(args, scaling), found, rtol=1e-4):
            return checked({**settings, "rope_scaling": asdict(scaling)}, header.path)
    known = " or ".join(f"{scaling.factor:g}" for scaling in SCALINGS)
    raise InputError(f"{header.path}: {DIVISORS} is not Llama 3's stretch by {known}")


def _noted(header: Header) -> list[RopeScaling]:
    """The stretch that `write_gguf` has noted, if it is there and can be."""
    noted = {name: header.fields.get(f"puna.rope_scaling.{name}") for name in SCALING_KEYS}
    values = {
        name: field.value
        for name, field in noted.items()
        if field is not None and field.kind == SCALING_KEYS[name] and 0 < field.value < math.inf
    }
    if len(values) < len(noted) or values["high_freq_factor"] <= values["low_freq_factor"]:
        return []
    original = values.pop("original_max_seq_len")
    return [
        RopeScaling(**{k: shortest(v) for k, v in values.items()}, original_max_seq_len=original)
    ]
