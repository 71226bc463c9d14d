"""A tokenizer as the keys of a GGUF file, as llama.cpp expects them.

`tokenizer.ggml.model` is "llama" for SentencePiece, whose pieces are merged in the order of their
scores, and "gpt2" for byte-level BPE, which has a list of merges and names its way of cutting text
into words (`tokenizer.ggml.pre`).
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from puna.errors import InputError
from puna.text.files import read_json
from puna.text.gguf import Field, read_header

# the types of tokens; SentencePiece numbers them alike
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
NO_TOKENIZER = {"tokenizer.ggml.model": Field("string", "no_vocab")}

# How Llama 3 cuts text into words before its merges.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS = {  # llama.cpp's names of such cuts
    (("Split", _LLAMA_3), ("ByteLevel", False)): "llama-bpe",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("ByteLevel", True),): "gpt-2",
}
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_BEGIN = ("<s>", "<|begin_of_text|>")  # where nothing says which ids begin and end a text
_END = ("</s>", "<|end_of_text|>", "<|endoftext|>")


def vocabulary(path: Path | None, size: int) -> dict[str, Field]:
    """The `tokenizer.` keys of a tokenizer file for a model of `size` token embeddings.

    path: a tokenizer.model, a tokenizer.json (then tokenizer_config.json beside it says which ids
    begin and end a text), a GGUF file, whose keys are taken over, or None. Ids that the tokenizer
    lacks are filled with unused tokens. InputError if it has more than `size`, or is of a kind
    that llama.cpp has no name for.
    """
    if path is None:
        return NO_TOKENIZER
    if path.suffix == ".gguf":
        fields = read_header(path).fields
        return {key: fields[key] for key in fields if key.startswith("tokenizer.")}
    fields = _from_json(path, size) if path.suffix == ".json" else _from_sentencepiece(path)
    tokens = fields["tokenizer.ggml.tokens"].value
    if len(tokens) > size:
        raise InputError(f"{path}: has {len(tokens)} tokens, the model has embeddings of {size}")
    missing = range(len(tokens), size)
    for key, fill in ("token_type", UNUSED), ("scores", -1e4):
        if field := fields.get(f"tokenizer.ggml.{key}"):
            field.value.extend(fill for _ in missing)
    tokens.extend(f"[PAD{number}]" for number in missing)
    return fields


def _from_sentencepiece(path: Path) -> dict[str, Field]:
    try:
        model = path.read_bytes()
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except RuntimeError:
        raise InputError(f"{path}: is not a SentencePiece model") from None
    if not _is_bpe(model):
        raise InputError(f"{path}: is not byte-pair encoding, which llama.cpp expects")
    ids = range(processor.vocab_size())
    begin = str(processor.encode("a", out_type=str)[0])
    return _fields(
        "llama",
        "default",
        tokens=[processor.id_to_piece(token) for token in ids],
        types=_piece_types(model),
        scores=[processor.get_score(token) for token in ids],
        special={
            "bos": processor.bos_id(),
            "eos": processor.eos_id(),
            "unknown": processor.unk_id(),
            "padding": processor.pad_id(),
        },
        flags={"add_bos_token": True, "add_space_prefix": begin.startswith("\u2581")},
    )


def _piece_types(model: bytes) -> list[int]:
    """The type of every piece, which sentencepiece's own interface tells only in part.

    A model is a protocol buffer; its field 1 is a piece, and the field 3 of a piece its type.
    """
    return [
        next((int(kind) for number, kind in _entries(piece) if number == 3), NORMAL)
        for number, piece in _entries(model)
        if number == 1
    ]


def _is_bpe(model: bytes) -> bool:
    """Whether the model's field 2, its training, has 2 (BPE) in its field 3, the algorithm."""
    training = [entry for number, entry in _entries(model) if number == 2]
    return any((3, 2) == found for entry in training for found in _entries(entry))


def _entries(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer that has been parsed before."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        size = varint() if tag & 7 == 2 else {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, message[at : at + size]
        at += size


def _from_json(path: Path, size: int) -> dict[str, Field]:
    try:
        return _from_settings(path, read_json(path), size)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is not a complete tokenizer.json: {error!r}") from None


def _from_settings(path: Path, settings: dict[str, Any], size: int) -> dict[str, Field]:
    model = settings["model"]
    if model.get("type", "BPE") != "BPE":
        raise InputError(f"{path}: is a tokenizer of type {model['type']!r}, expected BPE")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    named = dict(model["vocab"]) | {new["content"]: new["id"] for new in settings["added_tokens"]}
    for token, number in named.items():
        if type(number) is not int or not 0 <= number < size:
            raise InputError(f"{path}: {token!r} has id {number!r}, expected 0 to {size - 1}")
    tokens = [f"[PAD{number}]" for number in range(max(named.values()) + 1)]
    types = [UNUSED] * len(tokens)
    for token, number in named.items():
        tokens[number], types[number] = token, NORMAL
    for new in settings["added_tokens"]:
        types[new["id"]] = CONTROL if new["special"] else USER_DEFINED
    flags, special = _ends(path, settings, named)
    if not model.get("byte_fallback"):
        flags["add_space_prefix"] = any(
            part["type"] == "ByteLevel" and part["add_prefix_space"]
            for part in _parts(settings["pre_tokenizer"])
        )
        pre = _words(path, settings)
        return _fields("gpt2", pre, tokens, types, merges=merges, special=special, flags=flags)
    for number, token in enumerate(tokens):
        if _BYTE.fullmatch(token):
            types[number] = BYTE
    if model.get("unk_token") in named:
        special["unknown"] = named[model["unk_token"]]
        types[special["unknown"]] = UNKNOWN
    flags["add_space_prefix"] = any(
        part["type"] == "Prepend" or part.get("prepend_scheme", "never") != "never"
        for part in (*_parts(settings["normalizer"]), *_parts(settings["pre_tokenizer"]))
    )
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    scores = [-float(ranks.get(token, 0)) for token in tokens]
    return _fields("llama", "default", tokens, types, scores=scores, special=special, flags=flags)


def _words(path: Path, settings: dict[str, Any]) -> str:
    """llama.cpp's name of the way in which a tokenizer.json cuts text into words."""
    found: list[tuple[str, Any]] = []
    for part in _parts(settings["pre_tokenizer"]):
        kind = part["type"]
        if kind == "Split":
            found.append((kind, part["pattern"].get("Regex")))
        elif kind == "Digits":
            found.append((kind, part["individual_digits"]))
        else:
            found.append((kind, part.get("use_regex", True)))
    if settings.get("normalizer") is None and tuple(found) in _WORDS:
        return _WORDS[tuple(found)]
    known = ", ".join(_WORDS.values())
    raise InputError(f"{path}: cuts text into words in a way that is none of {known}")


def _parts(settings: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normaliser, pre-tokenizer or post-processor, which may be a sequence."""
    if settings is None:
        return []
    if settings["type"] != "Sequence":
        return [settings]
    kinds = ("normalizers", "pretokenizers", "processors")
    steps = next(settings[kind] for kind in kinds if kind in settings)
    return [part for step in steps for part in _parts(step)]


def _ends(
    path: Path, settings: dict[str, Any], named: dict[str, int]
) -> tuple[dict[str, bool], dict[str, int]]:
    """Whether a text begins and ends with a token, and the ids of those tokens."""
    beside = path.with_name("tokenizer_config.json")
    config = read_json(beside) if beside.exists() else {}
    special: dict[str, int] = {}
    for role, usual in ("bos", _BEGIN), ("eos", _END):
        given = config.get(f"{role}_token")
        token = given.get("content") if isinstance(given, dict) else given
        if token := next((name for name in (token, *usual) if name in named), None):
            special[role] = named[token]
    flags = {"add_bos_token": False, "add_eos_token": False}
    for part in _parts(settings.get("post_processor")):
        if part["type"] == "TemplateProcessing":
            flags["add_bos_token"] = "SpecialToken" in part["single"][0]
            flags["add_eos_token"] = "SpecialToken" in part["single"][-1]
    return flags, special


def _fields(
    model: str,
    pre: str,
    tokens: list[str],
    types: list[int],
    *,
    special: Mapping[str, int],
    flags: Mapping[str, bool],
    scores: list[float] | None = None,
    merges: list[str] | None = None,
) -> dict[str, Field]:
    found = {"model": Field("string", model), "pre": Field("string", pre)}
    found["tokens"] = Field("string[]", tokens)
    if scores is not None:
        found["scores"] = Field("float32[]", scores)
    found["token_type"] = Field("int32[]", types)
    if merges is not None:
        found["merges"] = Field("string[]", merges)
    found |= {f"{role}_token_id": Field("uint32", n) for role, n in special.items() if n >= 0}
    found |= {flag: Field("bool", value) for flag, value in flags.items()}
    return {f"tokenizer.ggml.{key}": field for key, field in found.items()}
