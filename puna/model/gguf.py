"""A Llama model in a GGUF file: read lazily, written tensor by tensor.

llama.cpp rotates the pairs (2i, 2i+1) of a head, as Meta does, so the rows of q and k are in Meta's
order: its converter undoes the order of Hugging Face's. What it calls architecture "llama" covers
Llama 1 to 3, Code Llama, TinyLlama, SmolLM2 and Mistral 7B.
"""

from pathlib import Path
from typing import Literal, get_args

from puna.errors import InputError
from puna.model.gguf_settings import DIVISORS, divisors, model_args, setting_fields
from puna.model.gguf_tensors import encode, stored
from puna.model.source import Source, Stored, expected_tensors
from puna.model.tensors import refuse_shapes, shapes_of
from puna.model.transformer import ModelArgs
from puna.text.files import PathLike, replaced
from puna.text.gguf import TENSOR_TYPES, Field, header_bytes, is_gguf, padding, read_header
from puna.text.gguf_vocabulary import NO_TOKENIZER, vocabulary
from puna.text.tokenizer import open_tokenizer

Kind = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
# llama.cpp's numbers of them as the type of a file
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}

LAYER = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}
OUTSIDE = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}


def open_gguf(path: PathLike) -> Source:
    """The model in a GGUF file of architecture llama; its tensors are read when asked for.

    Tensors in blocks (Q8_0, Q4_K, ...) become float32, others keep their type. InputError names the
    key or tensor that is missing, damaged, unknown or of another shape.
    """
    header = read_header(path)
    args = model_args(header)
    places = {name: place for name, place in header.tensors.items() if name != DIVISORS}
    names = {name: gguf_name(name) for name in expected_tensors(args)}
    expected = {names[name]: shape for name, shape in expected_tensors(args).items()}
    refuse_shapes(header.path, shapes_of(places), expected)
    tensors = {name: stored(header.path, places[there]) for name, there in names.items()}
    fields = {key: field.value for key, field in header.fields.items()}
    tokens = fields.get("tokenizer.ggml.tokens", [])
    if not isinstance(tokens, list) or len(tokens) > args.vocab_size:
        most = f"a list of at most {args.vocab_size}"
        raise InputError(f"{path}: tokenizer.ggml.tokens is not {most}, the model's embeddings")
    has_tokenizer = fields.get("tokenizer.ggml.model", "no_vocab") != "no_vocab"
    meta = {key: value for key, value in fields.items() if type(value) in (str, int, bool)}
    return Source(args, tensors, header.path if has_tokenizer else None, meta)


def write_gguf(source: Source, path: PathLike, kind: Kind) -> None:
    """Write a model as GGUF 3, one tensor in memory at a time, in place of an earlier file.

    kind: the type of the matrices; vectors (the norms) are F32. As llama.cpp has it, a matrix whose
    rows are not whole blocks is F16, and in Q4_0 and Q4_1 the output (the embedding, if it is both)
    is finer: here Q8_0, where llama.cpp takes Q6_K if the rows allow it. InputError if the
    tokenizer has no place in GGUF, a number none in the type, or the file cannot be written.
    """
    if kind not in get_args(Kind):
        raise InputError(f"GGUF type {kind!r}, expected one of {', '.join(get_args(Kind))}")
    path, args = Path(path), source.args
    shapes = expected_tensors(args)
    for name in shapes:
        if name not in source.tensors:
            raise InputError(f"{path}: cannot be written: tensor {name} is missing")
    inputs: dict[str, tuple[str, Stored]] = {
        gguf_name(name): (_kind(name, shape, kind, args), source.tensors[name])
        for name, shape in shapes.items()
    }
    if args.rope_scaling is not None:
        slower = divisors(args, args.rope_scaling)
        inputs[DIVISORS] = "F32", Stored(tuple(slower.shape), slower.dtype, lambda: slower)
    fields = _description(source, path, kind) | setting_fields(args)
    fields |= _vocabulary(source)
    head, places = header_bytes(
        fields, {name: (kind, tensor.shape) for name, (kind, tensor) in inputs.items()}
    )
    with replaced(path) as file:
        file.write(head)
        for name, (stored_as, tensor) in inputs.items():
            try:
                for part in encode(tensor.read(), stored_as):
                    file.write(part)
            except InputError as error:
                raise InputError(f"{path}: cannot be written: {name}: {error}") from None
            file.write(bytes(padding(places[name].size)))


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor: layers.0.attention.wq.weight is blk.0.attn_q.weight."""
    stem = name.removesuffix(".weight")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.weight"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{LAYER[part]}.weight"


def _kind(name: str, shape: tuple[int, ...], kind: str, args: ModelArgs) -> str:
    """The type of one tensor in a file of type `kind` (see `write_gguf`)."""
    if len(shape) == 1:
        return "F32"
    if shape[-1] % TENSOR_TYPES[kind].block:
        return "F16"
    last = "tok_embeddings.weight" if args.tie_embeddings else "output.weight"
    return "Q8_0" if name == last and kind.startswith("Q4") else kind


def _vocabulary(source: Source) -> dict[str, Field]:
    """The keys of the model's tokenizer; those of a GGUF file are taken over as they are."""
    if source.tokenizer is None:
        return NO_TOKENIZER
    if is_gguf(source.tokenizer):
        fields = read_header(source.tokenizer).fields
        return {key: fields[key] for key in fields if key.startswith("tokenizer.")}
    return vocabulary(open_tokenizer(source.tokenizer), source.args.vocab_size)


def _description(source: Source, path: Path, kind: str) -> dict[str, Field]:
    """The keys that say what the file is, with what is known of where the model comes from."""
    known = {key: value for key, value in source.meta.items() if key.startswith("general.")}
    known = {"general.architecture": "", "general.name": path.stem, **known}
    known |= {"general.architecture": "llama", "general.type": "model"}
    fields = {key: Field("string", known[key]) for key in known if isinstance(known[key], str)}
    fields["general.file_type"] = Field("uint32", FILE_TYPES[kind])
    fields["general.quantization_version"] = Field("uint32", 2)
    return fields
