"""Hugging Face's folders: config.json, safetensors and a tokenizer, read and written.

Two conventions differ from Meta's. The names; and the rotary embedding turns the two halves of a
head (i, i + head_dim/2) instead of neighbours (2i, 2i+1), so the rows of q and k stand in another
order.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from puna.errors import InputError
from puna.model.safetensors import read_safetensors, shards, size_of, write_safetensors
from puna.model.settings import checked, read_settings
from puna.model.source import Source, Stored
from puna.model.transformer import ModelArgs
from puna.text.files import write_json

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # of one file; more go to the next
LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTER = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
# Keys of config.json that say nothing about what the model computes.
SILENT = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "is_llama_config",
    "max_window_layers",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "use_cache",
}
# Keys whose other values would be another model.
FIXED = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "hidden_act": ("silu",),
    "rope_interleaved": (False,),
    "use_sliding_window": (True, False),
}
# Keys for which transformers has values of its own when they are left out, by model_type.
REQUIRED = {
    "llama": ("intermediate_size", "max_position_embeddings"),
    "mistral": (
        "intermediate_size",
        "max_position_embeddings",
        "num_key_value_heads",
        "sliding_window",
    ),
}
SIZES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "vocab_size": "vocab_size",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "max_seq_len": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "tie_embeddings": "tie_word_embeddings",
    "sliding_window": "sliding_window",
}
ROPE = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_seq_len": "original_max_position_embeddings",
}


def open_folder(folder: Path) -> Source:
    """The model of a Hugging Face folder. InputError names what is unknown, missing or wrong."""
    args = read_config(folder / CONFIG)
    found = read_files(folder)
    names = {theirs(name): name for name in [*OUTER, *layer_names(args)]}
    tensors: dict[str, Stored] = {}
    for name, tensor in found.items():
        if name.endswith(".rotary_emb.inv_freq"):
            continue  # a buffer that old files carry; computed from the settings
        if name not in names:
            raise InputError(f"{folder}: tensor {name} is not part of the model")
        tensors[names[name]] = permuted(names[name], tensor, args, to_meta)
    if args.tie_embeddings:
        tensors.pop("output.weight", None)  # some files hold the same numbers twice
    return Source(args, tensors, tokenizer_in(folder), {"from": "hf"})


def tokenizer_in(folder: Path) -> Path | None:
    """The folder's tokenizer file: SentencePiece's before the one in JSON."""
    files = (folder / "tokenizer.model", folder / "tokenizer.json")
    return next((file for file in files if file.is_file()), None)


def read_files(folder: Path) -> dict[str, Stored]:
    """The tensors of model.safetensors, or of the files that the index names."""
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    if not (folder / INDEX).is_file():
        pickled = next(folder.glob("pytorch_model*.bin"), None)
        more = f"; {pickled.name} is a pickle and is not read" if pickled else ""
        raise InputError(f"{folder}: has no model.safetensors and no {INDEX}{more}")
    table = read_settings(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise InputError(f"{folder / INDEX}: weight_map: expected names of files by tensor")
    tensors: dict[str, Stored] = {}
    for file in sorted(set(table.values())):
        if Path(file).name != file:
            raise InputError(f"{folder / INDEX}: {file!r} is not the name of a file in this folder")
        for name, tensor in read_safetensors(folder / file).items():
            if table.get(name) != file:
                raise InputError(f"{folder / file}: tensor {name} is not listed in {INDEX}")
            tensors[name] = tensor
    if missing := sorted(set(table) - set(tensors)):
        raise InputError(f"{folder / INDEX}: tensor {missing[0]} is not in {table[missing[0]]}")
    return tensors


def read_config(path: Path) -> ModelArgs:
    """The settings in a config.json of the Llama or Mistral kind. InputError names the key."""
    found = read_settings(path)
    refuse_gaps(found, path)
    given = {key: value for key, value in found.items() if value is not None}
    rope = given.pop("rope_scaling", None) or given.pop("rope_parameters", None) or {}
    given.pop("rope_parameters", None)
    theirs = {name: key for key, name in SIZES.items()}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key in theirs:
            values[theirs[key]] = value
        elif key in FIXED and value not in FIXED[key]:
            raise InputError(f"{path}: {key} is {value!r}, expected {FIXED[key][0]!r}")
        elif key not in FIXED and key not in SILENT and key != "head_dim":
            raise InputError(f"{path}: unknown setting {key}")
    if given["model_type"] == "llama" and "sliding_window" in values:
        raise InputError(f"{path}: sliding_window is not a setting of a llama model")
    if "sliding_window" in values and given.get("use_sliding_window") is False:
        raise InputError(
            f"{path}: use_sliding_window is False and sliding_window {values['sliding_window']!r}, "
            "expected one of the two"
        )
    values |= read_rope(rope, path)
    values.setdefault("norm_eps", 1e-6)  # what their code takes where the file says nothing
    args = checked(values, path)
    if given.get("head_dim", args.head_dim) != args.head_dim:
        raise InputError(f"{path}: head_dim is {given['head_dim']!r}, expected {args.head_dim}")
    return args


def refuse_gaps(found: dict[str, Any], path: Path) -> None:
    """InputError for another kind of model, and for a setting that must not be left out.

    The name that Llama 1's files have for the context is turned into the usual one.
    """
    kind = found.get("model_type")
    if kind not in ("llama", "mistral"):
        raise InputError(f"{path}: model_type is {kind!r}, expected llama or mistral")
    old = found.pop("max_sequence_length", None)
    if found.get("max_position_embeddings") is None:
        found["max_position_embeddings"] = old
    context = found["max_position_embeddings"]
    if old is not None and old != context:
        raise InputError(f"{path}: max_sequence_length is {old!r}, expected {context!r}")
    for key in REQUIRED[kind]:
        if key not in found or (found[key] is None and key in REQUIRED["llama"]):
            raise InputError(f"{path}: {key} is missing")


def read_rope(rope: Any, path: Path) -> dict[str, Any]:
    """rope_theta and rope_scaling out of config.json's rope_scaling or rope_parameters."""
    if not isinstance(rope, dict):
        raise InputError(f"{path}: rope_scaling is {rope!r}, expected an object")
    rest = dict(rope)
    kind = rest.pop("rope_type", rest.pop("type", "default"))
    rest.pop("type", None)
    values = {"rope_theta": rest.pop("rope_theta")} if "rope_theta" in rest else {}
    if kind == "default" and not rest:
        return values
    names = {name: key for key, name in ROPE.items()}
    if kind != "llama3" or set(rest) != set(names):
        raise InputError(
            f"{path}: rope_scaling is {rope!r}, expected rope_type llama3 and {list(names)}"
        )
    return values | {"rope_scaling": {names[key]: value for key, value in rest.items()}}


def config(args: ModelArgs, dtype: str) -> dict[str, Any]:
    """config.json for a model: transformers 4 and 5 read it."""
    windowed = args.sliding_window is not None
    found: dict[str, Any] = {
        "architectures": ["MistralForCausalLM" if windowed else "LlamaForCausalLM"],
        "model_type": "mistral" if windowed else "llama",
        "torch_dtype": dtype,
        "hidden_act": "silu",
        "head_dim": args.head_dim,
    }
    if not windowed:
        found |= {"attention_bias": False, "mlp_bias": False}
    values = {**vars(args), "n_kv_heads": args.kv_heads, "hidden_dim": args.ffn_dim}
    found |= {name: values[key] for key, name in SIZES.items() if values[key] is not None}
    if args.rope_scaling is not None:
        scaling = {name: getattr(args.rope_scaling, key) for key, name in ROPE.items()}
        found["rope_scaling"] = {"rope_type": "llama3", **scaling}
    return found


def tokenizer_config(
    args: ModelArgs, ends: tuple[int | None, int], control: Mapping[str, int]
) -> dict[str, Any]:
    """tokenizer_config.json: tokenizer.json as it is, and which tokens begin and end a text.

    control: the ids of the control tokens by name, as a tokenizer has them.
    """
    names = {token: name for name, token in control.items()}
    tokens = {"bos_token": ends[0], "eos_token": ends[1]}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{role: names.get(token) for role, token in tokens.items() if token is not None},
        "model_max_length": args.max_seq_len,
        "clean_up_tokenization_spaces": False,  # a text comes back as it was
    }


def write_folder(
    source: Source,
    folder: Path,
    ends: tuple[int | None, int] = (1, 2),
    control: Mapping[str, int] | None = None,
) -> None:
    """Write config.json, generation_config.json and the weights; one tensor in memory at a time.

    ends: the ids that begin a sequence (None: there is none) and end an answer; control: the ids of
    the tokenizer's control tokens by name, with which tokenizer_config.json is written too.
    """
    dtype = str(source.tensors["tok_embeddings.weight"].dtype).removeprefix("torch.")
    tokens = {"bos_token_id": ends[0], "eos_token_id": ends[1]}
    write_json(folder / CONFIG, {**config(source.args, dtype), **tokens})
    write_json(folder / "generation_config.json", tokens)
    if control is not None:
        write_json(folder / TOKENIZER_CONFIG, tokenizer_config(source.args, ends, control))
    tensors = {
        theirs(name): permuted(name, tensor, source.args, from_meta)
        for name, tensor in source.tensors.items()
    }
    groups = list(shards(tensors, SHARD_BYTES))
    if len(groups) == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return
    table: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"model-{number:05}-of-{len(groups):05}.safetensors"
        write_safetensors(folder / name, group)
        table |= dict.fromkeys(group, name)
    total = sum(map(size_of, tensors.values()))
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": table})


def layer_names(args: ModelArgs) -> list[str]:
    """Meta's names of all tensors inside the layers."""
    return [f"layers.{n}.{part}.weight" for n in range(args.n_layers) for part in LAYER]


def theirs(name: str) -> str:
    """Meta's name of a tensor → Hugging Face's."""
    if name in OUTER:
        return OUTER[name]
    _, layer, part = name.removesuffix(".weight").split(".", 2)
    return f"model.layers.{layer}.{LAYER[part]}.weight"


def permuted(
    name: str, tensor: Stored, args: ModelArgs, turn: Callable[[Tensor, int], Tensor]
) -> Stored:
    """The tensor; if it is q or k, with the rows of each head in the other convention's order."""
    heads = {"wq": args.n_heads, "wk": args.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    if len(tensor.shape) != 2 or tensor.shape[0] % (2 * heads):
        shape = list(tensor.shape)
        raise InputError(
            f"tensor {theirs(name)} has shape {shape}, expected rows for {heads} heads"
        )
    return replace(tensor, read=lambda: turn(tensor.read(), heads))


def from_meta(weight: Tensor, heads: int) -> Tensor:
    """Rows (2i, 2i+1) of each head → (i, i + head_dim/2). weight [heads * head_dim, dim]."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def to_meta(weight: Tensor, heads: int) -> Tensor:
    """Rows (i, i + head_dim/2) of each head → (2i, 2i+1). weight [heads * head_dim, dim]."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
