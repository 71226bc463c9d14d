"""A SentencePiece tokenizer as `tokenizer.json`, the file of Hugging Face's `tokenizers`, exactly.

Both join the pair of pieces that comes first in an order, the leftmost of equals, until none is
left. Where the two differ, and what is written so that they agree:

- SentencePiece orders by the score of the joined piece, `tokenizers` by a list of pairs. Every pair
  whose text is a piece is listed, best score first. Pieces of blanks alone share one score; there
  SentencePiece builds up the leftmost run, and so does a list with the longest piece first.
- The space put first is a normaliser that looks at nothing else, so that it also stands before a
  text that begins with a blank. A pre-tokenizer would not put it there.
- A user's symbol is cut out of the text before any pair is joined. `tokenizers` could do so only
  with added tokens, around which it puts spaces; here the text is split at the symbols, and a part
  that is a piece as a whole is that piece (`ignore_merges`). Only a part that is called like a
  control token or a byte must not be: it is split once more.
- No token is declared special, so `</s>` in a text is text. The decoder drops the control tokens.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from puna.errors import InputError
from puna.text.files import PathLike, write_json
from puna.text.sentence_pieces import SPACE, Kind, Piece, SentencePieceTokenizer

Json = dict[str, Any]


def export_json(tokenizer: SentencePieceTokenizer, path: PathLike) -> None:
    """Write a `tokenizer.json` with which `tokenizers` encodes and decodes as the tokenizer does.

    Its post-processor puts the begin id first unless `add_special_tokens` is false, as Llama's
    does. InputError if the model has pieces whose order cannot be written.
    """
    write_json(path, to_json(tokenizer))


def to_json(tokenizer: SentencePieceTokenizer) -> Json:
    """Return what `export_json` writes, as a JSON value. InputError as there."""
    pieces = tokenizer.pieces
    symbols = [piece.text for piece in pieces if piece.kind == Kind.SYMBOL]
    for piece in pieces:
        if piece.kind == Kind.UNUSED or (piece.kind == Kind.SYMBOL and " " in piece.text):
            raise InputError(
                f"{tokenizer.path}: the piece {piece.text!r} cannot be written as JSON"
            )
    normalizer = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizer},
        "pre_tokenizer": _splits(tokenizer, symbols) if symbols else None,
        "post_processor": _begin(pieces[1].text),
        "decoder": {"type": "Sequence", "decoders": list(_decoders(pieces))},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[0].text,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": bool(symbols),
            "vocab": {piece.text: token for token, piece in enumerate(pieces)},
            "merges": _merges(tokenizer),
        },
    }


def _merges(tokenizer: SentencePieceTokenizer) -> list[list[str]]:
    """All pairs of pieces that may be joined, in SentencePiece's order."""
    normal = {piece.text: piece for piece in tokenizer.pieces if piece.kind == Kind.NORMAL}
    joined: dict[str, list[list[str]]] = {}
    for text in normal:
        cuts = [[text[:place], text[place:]] for place in range(1, len(text))]
        pairs = [pair for pair in cuts if pair[0] in normal and pair[1] in normal]
        if pairs:
            joined[text] = pairs
    ordered = sorted((normal[text] for text in joined), key=_order)
    for first, second in pairwise(ordered):
        if first.score == second.score and not (_blank(first) and _blank(second)):
            raise InputError(
                f"{tokenizer.path}: the pieces {first.text!r} and {second.text!r} have the same "
                f"score {first.score:g}: which is joined first cannot be written as JSON"
            )
    return [pair for piece in ordered for pair in joined[piece.text]]


def _order(piece: Piece) -> tuple[float, int]:
    return -piece.score, -len(piece.text)


def _blank(piece: Piece) -> bool:
    return not piece.text.strip(SPACE)


def _splits(tokenizer: SentencePieceTokenizer, symbols: list[str]) -> Json:
    """What cuts a text at the symbols, and parts that are no piece but are called like one."""
    longest_first = sorted(symbols, key=len, reverse=True)
    splits = [_split("|".join(map(_quoted, longest_first)))]
    names = {piece.text for piece in tokenizer.pieces if piece.kind != Kind.SYMBOL}
    taken = {name: tokenizer.encode_continuation(name) for name in sorted(names)}
    apart = {name: ids for name, ids in taken.items() if len(ids) != 1}
    while apart:
        heads = {name: _head(name, tokenizer.piece(ids[0])) for name, ids in apart.items()}
        rests: dict[str, list[str]] = {}
        for name, head in heads.items():
            rests.setdefault(head, []).append(_quoted(name[len(head) :]))
        patterns = (rf"\A{_quoted(h)}(?=(?:{'|'.join(r)})\z)" for h, r in rests.items())
        splits.append(_split("|".join(patterns)))
        left = {name[len(head) :] for name, head in heads.items()}
        apart = {name: ids for name, ids in taken.items() if name in left and len(ids) != 1}
    return {"type": "Sequence", "pretokenizers": splits}


def _head(name: str, piece: str | int | None) -> str:
    """The first part of a name that is spelled by several ids, of which `piece` is the first."""
    return name[: len(piece)] if isinstance(piece, str) else name[0]


def _split(pattern: str) -> Json:
    behavior = {"behavior": "Isolated", "invert": False}
    return {"type": "Split", "pattern": {"Regex": pattern}, **behavior}


def _quoted(text: str) -> str:
    """A pattern for this very text, in the syntax of Oniguruma."""
    return re.sub(r"[^0-9A-Za-z]", lambda found: rf"\x{{{ord(found.group()):x}}}", text)


def _decoders(pieces: Iterable[Piece]) -> Iterator[Json]:
    """What turns tokens into text: no text for control tokens, spaces, bytes; the first space."""
    for piece in pieces:
        if piece.kind in (Kind.CONTROL, Kind.UNKNOWN):
            text = " \u2047 " if piece.kind == Kind.UNKNOWN else ""
            pattern = {"Regex": rf"\A{_quoted(piece.text)}\z"}
            yield {"type": "Replace", "pattern": pattern, "content": text}
    yield {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    yield {"type": "ByteFallback"}
    yield {"type": "Fuse"}
    yield {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def _begin(name: str) -> Json:
    """What puts the begin token before a text, and before each of two."""
    begin, first = (
        {"SpecialToken": {"id": name, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    )
    second = {"Sequence": {"id": "B", "type_id": 1}}
    other = {"SpecialToken": {"id": name, "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, other, second],
        "special_tokens": {name: {"id": name, "ids": [1], "tokens": [name]}},
    }
