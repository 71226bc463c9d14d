"""A tokenizer as the keys of a GGUF file, as llama.cpp expects them.

`tokenizer.ggml.model` is "llama" for SentencePiece, whose pieces are merged in the order of their
scores, and "gpt2" for byte-level BPE, which has a list of merges and names its way of cutting text
into words (`tokenizer.ggml.pre`).
"""

from collections.abc import Mapping

from puna.errors import InputError
from puna.text.byte_pairs import BpeTokenizer
from puna.text.gguf import Field
from puna.text.sentence_pieces import Kind, SentencePieceTokenizer
from puna.text.tokens import Tokenizer

NO_TOKENIZER = {"tokenizer.ggml.model": Field("string", "no_vocab")}

_KINDS = frozenset(Kind)
_WORST = -1e4  # score of what is no piece

# The tokens of byte-level BPE that published files name, where the tokenizer itself uses none.
_BEGIN = ("<|begin_of_text|>", "<s>", "<bos>", "<|im_start|>", "<|endoftext|>")
_UNKNOWN = ("<unk>", "<|endoftext|>")
_PADDING = ("<pad>", "<|finetune_right_pad_id|>")


def vocabulary(tokenizer: Tokenizer, size: int) -> dict[str, Field]:
    """The `tokenizer.ggml.` keys of a tokenizer for a model of `size` token embeddings.

    The end of a text is that of the tokenizer's prompt format. Ids that the tokenizer lacks are
    filled with unused tokens. InputError if it has more than `size`, or is of a kind that llama.cpp
    has no name for.
    """
    count = tokenizer.vocab_size
    if count > size:
        raise InputError(
            f"{tokenizer.path}: has {count} tokens, the model has embeddings of {size}"
        )
    missing = range(count, size)
    if isinstance(tokenizer, SentencePieceTokenizer):
        found = _pieces(tokenizer, missing)
    elif isinstance(tokenizer, BpeTokenizer):
        found = _pairs(tokenizer, missing)
    else:
        raise InputError(f"{tokenizer.path}: is of a kind that GGUF has no name for")
    special = _special(tokenizer)
    found |= {f"{role}_token_id": Field("uint32", token) for role, token in special.items()}
    found["add_bos_token"] = Field("bool", tokenizer.bos_id is not None)
    return {f"tokenizer.ggml.{key}": field for key, field in found.items()}


def _pieces(tokenizer: SentencePieceTokenizer, missing: range) -> dict[str, Field]:
    """What SentencePiece consists of: pieces, their scores and types."""
    pieces = tokenizer.pieces
    scores = [piece.score for piece in pieces]
    kinds = [int(piece.kind if piece.kind in _KINDS else Kind.NORMAL) for piece in pieces]
    return {
        "model": Field("string", "llama"),
        "pre": Field("string", "default"),
        "tokens": Field("string[]", [*(piece.text for piece in pieces), *_pads(missing)]),
        "scores": Field("float32[]", scores + [_WORST] * len(missing)),
        "token_type": Field("int32[]", kinds + [int(Kind.UNUSED)] * len(missing)),
        "add_space_prefix": Field("bool", True),  # as in every model that Puna opens
    }


def _pairs(tokenizer: BpeTokenizer, missing: range) -> dict[str, Field]:
    """What byte-level BPE consists of: pieces, the pairs in order, how text is cut into words."""
    parts = tokenizer.parts
    if parts.whole and parts.words != "llama-bpe":
        raise InputError(
            f"{tokenizer.path}: takes a word that is a piece without merges (ignore_merges), "
            f"which llama.cpp does for llama-bpe, not for {parts.words}"
        )
    for pair in parts.merges:
        if any(" " in piece for piece in pair):
            raise InputError(f"{tokenizer.path}: the pair {pair} has a blank, which splits a pair")
    named = {**parts.vocab, **parts.added}
    texts = sorted(named, key=named.__getitem__)
    kinds = dict.fromkeys(texts, Kind.NORMAL) | dict.fromkeys(parts.added, Kind.SYMBOL)
    kinds |= dict.fromkeys(tokenizer.control, Kind.CONTROL)
    types = [int(kinds[text]) for text in texts]
    return {
        "model": Field("string", "gpt2"),
        "pre": Field("string", parts.words),
        "tokens": Field("string[]", [*texts, *_pads(missing)]),
        "token_type": Field("int32[]", types + [int(Kind.UNUSED)] * len(missing)),
        "merges": Field("string[]", [" ".join(pair) for pair in parts.merges]),
        "add_space_prefix": Field("bool", False),
    }


def _special(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids that begin, end and pad a text or stand for the unknown, where there are any."""
    bpe = isinstance(tokenizer, BpeTokenizer)
    begin, unknown = tokenizer.bos_id, tokenizer.unk_id
    if begin is None:  # text begins without it, but a reader would assume an id of its own
        begin = _first(tokenizer.control, _BEGIN)
    if unknown is None:
        unknown = _first(tokenizer.control, _UNKNOWN)
    padding = _first(tokenizer.control, _PADDING) if bpe else None
    if tokenizer.format == "smollm2" and padding is None:
        padding = tokenizer.eos_id
    found = {"bos": begin, "eos": tokenizer.eos_id, "unknown": unknown, "padding": padding}
    return {role: token for role, token in found.items() if token is not None}


def _first(control: Mapping[str, int], names: tuple[str, ...]) -> int | None:
    return next((control[name] for name in names if name in control), None)


def _pads(missing: range) -> list[str]:
    """The texts of ids that the tokenizer lacks."""
    return [f"[PAD{number}]" for number in missing]
