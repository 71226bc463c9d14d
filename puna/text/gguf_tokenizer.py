"""The tokenizer inside a GGUF file: its pieces, scores or pairs stand among the file's keys."""

from collections.abc import Mapping, Sequence
from typing import Any

from puna.errors import InputError
from puna.text.byte_pairs import WORDS, BpeTokenizer, Parts
from puna.text.files import PathLike
from puna.text.gguf import read_metadata
from puna.text.sentence_pieces import Kind, Piece, SentencePieceTokenizer, model_file
from puna.text.tokens import Tokenizer

_KINDS = (Kind.NORMAL, Kind.UNKNOWN, Kind.CONTROL, Kind.SYMBOL, Kind.BYTE)
_OTHER_NAMES = {"default": "gpt-2", "gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}


def open_gguf(path: PathLike, format: str | None = None) -> Tokenizer:
    """Return the tokenizer of a GGUF file: SentencePiece ("llama") or byte-level BPE ("gpt2").

    InputError if it has none, one of another kind, or a list of the wrong length.
    """
    return tokenizer_of(path, read_metadata(path), format)


def tokenizer_of(path: PathLike, meta: Mapping[str, Any], format: str | None = None) -> Tokenizer:
    """Return the tokenizer in the keys of a GGUF file at `path`. InputError as `open_gguf`."""
    try:
        kind = meta.get("tokenizer.ggml.model")
        if kind == "llama":
            prefix = _flag(meta, "add_space_prefix", True)
            content = model_file(_pieces(meta), prefix)
        elif kind == "gpt2":
            parts = _parts(meta)
        else:
            raise InputError(f"tokenizer.ggml.model is {kind!r}, expected 'llama' or 'gpt2'")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if kind == "llama":
        return SentencePieceTokenizer(path, format, content)
    return BpeTokenizer(path, parts.content, parts, format)


def _pieces(meta: Mapping[str, Any]) -> list[Piece]:
    texts = _texts(meta, "tokens")
    kinds = _numbers(meta, "token_type", len(texts))
    scores = _list(meta, "scores")
    if len(scores) != len(texts) or not all(isinstance(score, float) for score in scores):
        raise InputError(f"tokenizer.ggml.scores: {len(texts)} numbers were expected")
    kinds = _used(kinds)
    for text, kind in zip(texts, kinds, strict=False):
        if kind not in _KINDS:
            raise InputError(f"tokenizer.ggml.token_type: {text!r} is of type {kind}")
    return [Piece(*row) for row in zip(texts, scores, kinds, strict=False)]


def _used(kinds: list[int]) -> list[int]:
    """The types of tokens without the unused ones at the end, which pad to the model's size."""
    end = len(kinds)
    while end and kinds[end - 1] == Kind.UNUSED:
        end -= 1
    return kinds[:end]


def _parts(meta: Mapping[str, Any]) -> Parts:
    texts = _texts(meta, "tokens")
    kinds = _used(_numbers(meta, "token_type", len(texts)))
    texts = texts[: len(kinds)]
    rule = str(meta.get("tokenizer.ggml.pre", "default"))
    rule = _OTHER_NAMES.get(rule, rule)
    if rule not in WORDS:
        known = ", ".join(WORDS)
        raise InputError(f"tokenizer.ggml.pre is {rule!r}, expected one of {known}")
    if _flag(meta, "add_space_prefix", False):
        raise InputError("tokenizer.ggml.add_space_prefix is true, expected false for 'gpt2'")
    vocab = {text: token for token, text in enumerate(texts)}
    if len(vocab) != len(texts):
        raise InputError("tokenizer.ggml.tokens: a piece stands twice")
    added = [
        {"id": token, "content": text, "special": kind != Kind.SYMBOL}
        for token, (text, kind) in enumerate(zip(texts, kinds, strict=True))
        if kind in (Kind.CONTROL, Kind.SYMBOL, Kind.UNKNOWN)
    ]
    return Parts(vocab, _pairs(meta), added, rule, rule == "llama-bpe")


def _pairs(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs, each written with one space between; a piece has no space of its own."""
    found = []
    for merge in _texts(meta, "merges"):
        first, space, second = merge.partition(" ")
        if not (first and space and second) or " " in second:
            raise InputError(f"tokenizer.ggml.merges: {merge!r} is not a pair of pieces")
        found.append((first, second))
    return found


def _list(meta: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = meta.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list) or not value:
        raise InputError(f"tokenizer.ggml.{name}: a list was expected")
    return value


def _texts(meta: Mapping[str, Any], name: str) -> list[str]:
    found = _list(meta, name)
    if not all(isinstance(text, str) for text in found):
        raise InputError(f"tokenizer.ggml.{name}: a list of texts was expected")
    return list(found)


def _numbers(meta: Mapping[str, Any], name: str, count: int) -> list[int]:
    found = _list(meta, name)
    if len(found) != count or not all(type(number) is int for number in found):
        raise InputError(f"tokenizer.ggml.{name}: {count} whole numbers were expected")
    return list(found)


def _flag(meta: Mapping[str, Any], name: str, default: bool) -> bool:
    value = meta.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(value, bool):
        raise InputError(f"tokenizer.ggml.{name} is {value!r}, expected true or false")
    return value
