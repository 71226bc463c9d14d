"""The tokenizer in a `tokenizer.json`, read strictly: byte-level BPE, or Llama's in that dress.

Only what is understood is accepted: a normaliser that changes text, a pattern that is not known, an
unknown key are refused by name. Llama's tokenizers (`byte_fallback`) become the SentencePiece model
that they were made from, whose pieces are scored by the order of the pairs.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from puna.errors import InputError
from puna.text.byte_pairs import WORDS, BpeTokenizer, Parts
from puna.text.export import to_json
from puna.text.files import PathLike, read_bounded
from puna.text.sentence_pieces import SPACE, Kind, Piece, SentencePieceTokenizer, model_file
from puna.text.tokens import Tokenizer

LARGEST = 2**26  # bytes; the largest in use have some 20 million

Json = dict[str, Any]

_PARTS = {
    *("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer"),
    *("post_processor", "decoder", "model"),
}
_MODEL = {
    *("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"),
    *("fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"),
}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_DUMMY_PREFIX = {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}


def open_json(path: PathLike, format: str | None = None) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`. InputError names what was not expected in it."""
    content = read_bounded(path, LARGEST, "a tokenizer's size")
    try:
        spec = _spec(content)
        model = spec["model"]
        vocab, merges, added = _vocab(model), _merges(model), _added(spec)
        if model.get("byte_fallback"):
            pieces = _pieces(spec, vocab, merges, added)
        else:
            parts = Parts(vocab, merges, added, _words(spec), bool(model.get("ignore_merges")))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not model.get("byte_fallback"):
        return BpeTokenizer(path, content, parts, format)
    tokenizer = SentencePieceTokenizer(path, format, model_file(pieces))
    known = spec.get("pre_tokenizer") is None or _metaspace(spec)
    if not known and to_json(tokenizer) != spec:
        raise InputError(f"{path}: the pre_tokenizer is none that Puna knows")
    return tokenizer


def _spec(content: bytes) -> Json:
    """The JSON object of a file, of known keys and a BPE model."""
    try:
        spec = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}") from None
    _keys(spec, "the file", _PARTS)
    model = spec.get("model")
    _keys(model, "model", _MODEL)
    if model.get("type", "BPE") != "BPE":
        raise InputError(f"model: type is {model['type']!r}, expected 'BPE'")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise InputError(f"model: {name} is {model[name]!r}, expected none")
    return dict(spec)


def _keys(value: object, where: str, known: set[str]) -> None:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: an object was expected")
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise InputError(f"{where}: the key {unknown[0]!r} is unknown")


def _vocab(model: Json) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise InputError("model: vocab is not an object of pieces and ids")
    for text, token in vocab.items():
        if type(token) is not int or not _is_text(text):
            raise InputError(f"model: the piece {text!r} has the id {token!r}")
    return vocab


def _merges(model: Json) -> list[tuple[str, str]]:
    """The pairs in order, each written as "a b" or as ["a", "b"]."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise InputError("model: merges is not a list of pairs")
    found = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair))):
            raise InputError(f"model: {merge!r} is not a pair of pieces")
        found.append((pair[0], pair[1]))
    return found


def _added(spec: Json) -> list[Json]:
    """The added tokens, as `id`, `content` and `special`."""
    rows = spec.get("added_tokens") or []
    if not isinstance(rows, list):
        raise InputError("added_tokens: a list was expected")
    found: list[Json] = []
    for row in rows:
        if not isinstance(row, dict) or type(row.get("id")) is not int:
            raise InputError(f"added_tokens: {row!r} has no id")
        text, special = row.get("content"), row.get("special", False)
        if not _is_text(text) or not text or not isinstance(special, bool):
            raise InputError(f"added_tokens: {text!r} is not the text of a token")
        found.append({"id": row["id"], "content": text, "special": special})
    return found


def _is_text(value: object) -> bool:
    """Whether a value is text that UTF-8 can hold."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _words(spec: Json) -> str:
    """The name of the rule by which a byte-level file cuts a text into words."""
    if spec.get("normalizer") is not None:
        raise InputError("normalizer: changes the text, expected none")
    decoder = spec.get("decoder")
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        raise InputError("decoder: is not of type 'ByteLevel'")
    value = spec.get("pre_tokenizer")
    if not isinstance(value, dict):
        raise InputError("pre_tokenizer: an object was expected")
    steps = value.get("pretokenizers") if value.get("type") == "Sequence" else [value]
    for name, known in WORDS.items():
        if isinstance(steps, list) and [_step(s) for s in steps] == [_step(s) for s in known]:
            return name
    raise InputError(f"pre_tokenizer: is none that Puna knows: {', '.join(WORDS)}")


def _step(step: object) -> Json:
    """A step of a pre-tokenizer with its defaults, without what changes no id."""
    if not isinstance(step, dict):
        return {}
    defaults = (
        {"add_prefix_space": True, "use_regex": True} if step.get("type") == "ByteLevel" else {}
    )
    return defaults | {key: value for key, value in step.items() if key != "trim_offsets"}


def _metaspace(spec: Json) -> bool:
    """Whether the space put first is written as transformers does since version 4.45."""
    value = spec.get("pre_tokenizer") or {}
    wanted = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    return bool(spec.get("normalizer") is None and value == wanted)


def _pieces(
    spec: Json, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], added: Sequence[Json]
) -> list[Piece]:
    """The pieces of the SentencePiece model that a file of Llama's kind was made from."""
    if spec.get("normalizer") != _DUMMY_PREFIX and not _metaspace(spec):
        raise InputError("normalizer: is not Llama's, which puts a space first and no more")
    names = dict(vocab) | {token["content"]: token["id"] for token in added}
    texts = {token: text for text, token in names.items()}
    if len(texts) != len(names) or texts.keys() != set(range(len(texts))):
        raise InputError(f"the ids of {len(names)} pieces are not 0 to {len(names) - 1}")
    ranks: dict[str, int] = {}
    for first, second in merges:
        ranks.setdefault(first + second, len(ranks))
    special = {token["content"]: bool(token["special"]) for token in added}
    kinds = {0: Kind.UNKNOWN, 1: Kind.CONTROL, 2: Kind.CONTROL}
    symbols = _symbols(spec)
    lowest = float(-len(ranks) - 1)
    rows = []
    for token in range(len(texts)):
        text = texts[token]
        is_byte = len(text) == 6 and text.startswith("<0x")
        kind = kinds.get(token) or (Kind.BYTE if is_byte else _kind(text, special, symbols))
        rows.append(Piece(text, float(-ranks[text]) if text in ranks else lowest, kind))
    return rows


def _kind(text: str, special: Mapping[str, bool], symbols: set[str]) -> Kind:
    """The type of a piece; an added token that is not special is cut out as a symbol is."""
    if text in special:
        return Kind.CONTROL if special[text] else Kind.SYMBOL
    return Kind.SYMBOL if text in symbols else Kind.NORMAL


def _symbols(spec: Json) -> set[str]:
    """The texts at which a file cuts, if it is one that `puna.text.export` wrote."""
    value = spec.get("pre_tokenizer")
    steps = value.get("pretokenizers") if isinstance(value, dict) else None
    first = steps[0] if isinstance(steps, list) and steps else None
    pattern = first.get("pattern") if isinstance(first, dict) else None
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if not isinstance(regex, str):
        return set()
    return {_unquoted(part) for part in regex.split("|")}


def _unquoted(pattern: str) -> str:
    """The text that a pattern of plain characters matches."""
    return re.sub(
        r"\\x\{([0-9a-f]{1,6})\}", lambda found: chr(min(int(found[1], 16), 0x10FFFF)), pattern
    )
