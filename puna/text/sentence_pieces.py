"""SentencePiece BPE in exactly Llama's settings: reading a model, and decoding a stream.

The paper (Sec. 2.2) takes over Llama 1's tokenizer: byte-pair encoding, numbers split into
digits, characters outside the vocabulary spelled as UTF-8 bytes. There is no padding id, and the
tags of the chat format are ordinary text (`puna.text.template`).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece

from puna.errors import InputError
from puna.text import protobuf
from puna.text.files import PathLike, read_bounded
from puna.text.tokens import NOT_TEXT, Stream, Tokenizer, within

SPACE = "\u2581"  # SentencePiece's sign for a space inside a piece

_BPE = 2  # SentencePiece's number for this kind of model
_LARGEST = 2**26  # bytes of a model; the largest in use have 5 million

# A text that comes back unchanged only if the model's normaliser is complete and has bytes: the
# normaliser is at the end of the file, so a shortened file that still parses is found out.
_PROBE = "a  b\n12é🙂 "

# Field 3 (the normaliser), 2 bytes: its field 3 (add_dummy_prefix) = false. Protocol buffers
# merge repeated fields, so appended to a model this switches the leading space off.
_WITHOUT_PREFIX = b"\x1a\x02\x18\x00"

_NAMED = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")  # how control tokens are called: <s>, [PAD]


class Kind(IntEnum):
    """The types of pieces, by SentencePiece's numbers; a symbol is cut out before all else."""

    NORMAL, UNKNOWN, CONTROL, SYMBOL, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; pieces with a higher score are made first."""

    text: str
    score: float
    kind: int


class SentencePieceTokenizer(Tokenizer):
    """Text to token ids and back, by a SentencePiece model file.

    InputError if the file is missing, damaged, shortened, or has other ids than Llama's for
    unknown (0), beginning (1) and end (2) of a sequence.
    """

    file_name = "tokenizer.model"

    def __init__(
        self, path: PathLike, format: str | None = None, content: bytes | None = None
    ) -> None:
        """Read the model, or take `content` for the file's, and check it."""
        self.path = Path(path)
        self.bos_id, self.eos_id, self.unk_id = 1, 2, 0
        if content is None:
            content = read_bounded(self.path, _LARGEST, "a tokenizer's size")
        self.content = content
        self.pieces = self._inspect()
        self._processor = self._load()
        self._check()
        self.control = {
            piece.text: token
            for token, piece in enumerate(self.pieces)
            if piece.kind == Kind.CONTROL
        }
        self._take_format(format, "llama2")

    @property
    def vocab_size(self) -> int:
        """The number of ids, all below this number."""
        return int(self._processor.vocab_size())

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of a text, with a leading 1 for `bos` and a final end id for `eos`.

        The text gets SentencePiece's leading space; no text yields an id below 3. InputError if
        the text has half a surrogate pair.
        """
        try:
            ids: list[int] = self._processor.encode(text)
        except (RuntimeError, TypeError):  # what sentencepiece says to half a pair
            raise InputError(NOT_TEXT) from None
        begin = [self.bos_id] if bos and self.bos_id is not None else []
        return begin + ids + [self.eos_id] * eos

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text. InputError as `encode`."""
        try:
            ids: list[list[int]] = self._processor.encode(list(texts))
        except (RuntimeError, TypeError):  # what sentencepiece says to half a pair
            raise InputError(NOT_TEXT) from None
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """Return the ids of a text that goes on from earlier text: without the leading space."""
        try:
            ids: list[int] = self._continuing.encode(text)
        except (RuntimeError, TypeError):  # what sentencepiece says to half a pair
            raise InputError(NOT_TEXT) from None
        return ids

    def encode_bytes(self, text: str) -> list[int]:
        """Return one byte id for each byte of the text's UTF-8, whatever pieces would spell it."""
        return [self._byte_ids[byte] for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; control ids have none. IndexError on an id out of range."""
        text: str = self._processor.decode(list(ids))
        return text

    def covering(self, ids: Sequence[int], text: str) -> int:
        """Return how many of the first ids spell nothing beyond `text`.

        `ids` encode a text that begins with `text`, without control ids. An id that spells both
        the end of `text` and something after it is not counted.
        """
        return within(self._widths, ids, len((SPACE + text.replace(" ", SPACE)).encode()))

    def piece(self, token: int) -> str | int | None:
        """Return what one id stands for: text, a byte (an int), or None for a control id."""
        if not 0 <= token < len(self.pieces):
            raise IndexError(f"id {token} is out of range, expected 0 to {len(self.pieces) - 1}")
        piece = self.pieces[token]
        if piece.kind == Kind.BYTE:
            return int(piece.text[3:-1], 16)
        if piece.kind == Kind.CONTROL:
            return None
        if piece.kind == Kind.UNKNOWN:
            return " \u2047 "
        return piece.text.replace(SPACE, " ")

    def stream(self) -> "Stream":
        """Return what turns ids into text one by one, at the beginning of a text."""
        return _PieceStream(self)

    @cached_property
    def _continuing(self) -> Any:
        return sentencepiece.SentencePieceProcessor(model_proto=self.content + _WITHOUT_PREFIX)

    @cached_property
    def _byte_ids(self) -> list[int]:
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]

    @cached_property
    def _widths(self) -> list[int]:
        """The UTF-8 bytes that each id spells, with the three bytes of U+2581 for a space."""
        return [_width(self.piece(token)) for token in range(self.vocab_size)]

    def _inspect(self) -> list[Piece]:
        """The model's pieces, read without trusting it, and its settings checked."""
        fault = f"{self.path}: is not a complete SentencePiece model"
        if not self.content:
            raise InputError(f"{fault}: the file is empty")
        try:
            fields = list(protobuf.fields(self.content))
            pieces = [_piece(value) for number, value in fields if number == 1]
            trainer = [f for n, value in fields if n == 2 for f in _fields(value)]
            normaliser = [f for n, value in fields if n == 3 for f in _fields(value)]
        except InputError as error:
            raise InputError(f"{fault}: {error}") from None
        if any(number == 2 and value for number, value in normaliser):  # rules that change text
            raise self._unlike_llama()
        kinds = [piece.kind for piece in pieces[:3]]
        if kinds != [Kind.UNKNOWN, Kind.CONTROL, Kind.CONTROL]:
            raise InputError(
                f"{self.path}: the first three pieces are of types {kinds}, expected unknown, "
                f"control, control ({Kind.UNKNOWN}, {Kind.CONTROL}, {Kind.CONTROL})"
            )
        _check_names(self.path, pieces)
        self._joins_pairs = dict(trainer).get(3) == _BPE
        return pieces

    def _load(self) -> Any:
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self.content)
        except RuntimeError:
            fault = f"{self.path}: is not a complete SentencePiece model"
            raise InputError(f"{fault}: it cannot be parsed") from None

    def _check(self) -> None:
        model = self._processor
        found = (model.unk_id(), model.bos_id(), model.eos_id(), model.pad_id())
        if found != (0, 1, 2, -1):
            raise InputError(
                f"{self.path}: ids of unknown, begin, end, pad are {found}, expected (0, 1, 2, -1)"
            )
        ids: list[int] = model.encode(_PROBE)
        prefixed = str(self.piece(ids[0])).startswith(" ") if ids else False
        if not prefixed or self.decode(ids) != _PROBE:
            raise self._unlike_llama()
        if not self._joins_pairs:
            raise InputError(f"{self.path}: is not byte-pair encoding, expected Llama's kind")

    def _unlike_llama(self) -> InputError:
        return InputError(
            f"{self.path}: does not give text back unchanged, expected Llama's settings "
            "(byte fallback, no normalisation, a space put first, all kept) in a complete file"
        )


class _PieceStream(Stream):
    """A stream of SentencePiece's pieces."""

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = b""
        self._first = True

    def push(self, token: int) -> str:
        piece = self._tokenizer.piece(token)
        if piece is None:
            return self.flush()
        first, self._first = self._first, False
        if isinstance(piece, int):
            self._bytes += bytes([piece])
            return self._certain()
        if first and token != self._tokenizer.unk_id:
            piece = piece.removeprefix(" ")  # the one that `encode` puts before a text
        return self.flush() + piece

    def flush(self) -> str:
        text = self._certain() + "\ufffd" * len(self._bytes)
        self._bytes = b""
        return text

    def _certain(self) -> str:
        """Take from the held bytes what more bytes cannot change: whole characters, bad bytes."""
        text = ""
        while size := _character(self._bytes):
            text += self._bytes[:size].decode(errors="replace")
            self._bytes = self._bytes[size:]
        return text


def model_file(pieces: Iterable[Piece], prefix: bool = True) -> bytes:
    """Return a SentencePiece model of these pieces in Llama's settings, as a file's content.

    `prefix` says whether a text gets a leading space. The field numbers are those of
    sentencepiece_model.proto.
    """
    field = protobuf.field
    vocabulary, count = [], 0
    for piece in pieces:
        entry = field(1, piece.text.encode()) + field(2, piece.score) + field(3, piece.kind)
        vocabulary.append(field(1, entry))
        count += 1
    trainer = field(3, _BPE) + field(4, count) + field(35, True)  # 35: spell the unknown in bytes
    trainer += field(40, 0) + field(41, 1) + field(42, 2) + field(43, -1)
    normaliser = field(1, b"identity") + field(3, prefix) + field(4, False) + field(5, True)
    return b"".join(vocabulary) + field(2, trainer) + field(3, normaliser)


def _fields(value: protobuf.Value) -> list[tuple[int, protobuf.Value]]:
    if not isinstance(value, bytes):
        raise InputError(f"a number {value} where a message was expected")
    return list(protobuf.fields(value))


def _piece(value: protobuf.Value) -> Piece:
    """One piece of a model: its text, score and type."""
    found = dict(_fields(value))
    text, score, kind = found.get(1, b""), found.get(2, bytes(4)), found.get(3, Kind.NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
        raise InputError("a piece without text and score")
    if not math.isfinite(protobuf.single(score)):
        raise InputError(f"the piece {text!r} has the score {protobuf.single(score)}")
    try:
        return Piece(text.decode(), protobuf.single(score), int(kind))
    except (UnicodeDecodeError, ValueError):
        raise InputError(f"the piece {text!r} is not text of a known type") from None


def _check_names(path: Path, pieces: Sequence[Piece]) -> None:
    """InputError on control tokens named like words, missing bytes, a name that stands twice."""
    for token, piece in enumerate(pieces):
        if piece.kind in (Kind.CONTROL, Kind.UNKNOWN) and not _NAMED.fullmatch(piece.text):
            raise InputError(
                f"{path}: the control token {token} is named {piece.text!r}, expected <name>"
            )
    found = {piece.text for piece in pieces if piece.kind == Kind.BYTE}
    wanted = {f"<0x{byte:02X}>" for byte in range(256)}
    if found - wanted:
        raise InputError(f"{path}: the byte {min(found - wanted)!r} is none of <0x00> to <0xFF>")
    if 0 < len(found) < 256:
        raise InputError(f"{path}: the byte {min(wanted - found)} is missing")
    [(name, times)] = Counter(piece.text for piece in pieces).most_common(1)
    if times > 1:
        raise InputError(f"{path}: the piece {name!r} stands {times} times, expected once")


def _width(piece: str | int | None) -> int:
    if isinstance(piece, str):
        return len(piece.replace(" ", SPACE).encode())
    return 0 if piece is None else 1


def _character(held: bytes) -> int:
    """How many bytes to decode next: a whole character's, 1 for a bad byte, 0 to wait for more."""
    for size in range(1, min(len(held), 4) + 1):
        try:
            held[:size].decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                return 1
        else:
            return size
    return 0
