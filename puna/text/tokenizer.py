"""SentencePiece BPE in exactly Llama's settings: reading a model, training one, decoding a stream.

The paper (Sec. 2.2) takes over Llama 1's tokenizer: byte-pair encoding, numbers split into
digits, characters outside the vocabulary spelled as UTF-8 bytes. There is no padding id, and the
tags of the chat format are ordinary text (`puna.text.template`).
"""

import hashlib
import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import sentencepiece

from puna.errors import InputError
from puna.text.files import PathLike, write_bytes

# A text that comes back unchanged only if the model's normaliser is complete and has bytes: the
# normaliser is at the end of the file, so a shortened file that still parses is found out.
_PROBE = "a  b\n12é🙂 "

# Field 3 (the normaliser), 2 bytes: its field 3 (add_dummy_prefix) = false. Protocol buffers
# merge repeated fields, so appended to a model this switches the leading space off.
_WITHOUT_PREFIX = b"\x1a\x02\x18\x00"

_SPACE = "\u2581"  # SentencePiece's sign for a space inside a piece
_MAX_SENTENCE = 4192  # bytes; a longer training line would be left out by the trainer
_NOT_TEXT = "half a UTF-16 surrogate pair is not text and has no tokens"
_BREAKS = re.compile("[\n\0\u2585]")  # a newline, and the two characters the trainer refuses


class Tokenizer:
    """Text to token ids and back, by a SentencePiece model file.

    InputError if the file is missing, damaged, shortened, or has other ids than Llama's for
    unknown (0), beginning (1) and end (2) of a sequence.
    """

    bos_id = 1
    eos_id = 2
    unk_id = 0

    def __init__(self, path: PathLike) -> None:
        """Read the model and check it."""
        self.path = Path(path)
        try:
            self._model = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
        self._processor = self._load()
        self._check()

    @property
    def vocab_size(self) -> int:
        """The number of ids, all below this number."""
        return int(self._processor.vocab_size())

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the model file as it was read."""
        return hashlib.sha256(self._model).hexdigest()

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of a text, with a leading 1 for `bos` and a final 2 for `eos`.

        The text gets SentencePiece's leading space; no text yields an id below 3. InputError if
        the text has half a surrogate pair.
        """
        try:
            ids: list[int] = self._processor.encode(text, add_bos=bos, add_eos=eos)
        except (RuntimeError, TypeError):  # what sentencepiece says to half a pair
            raise InputError(_NOT_TEXT) from None
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text. InputError as `encode`."""
        try:
            ids: list[list[int]] = self._processor.encode(list(texts))
        except (RuntimeError, TypeError):  # what sentencepiece says to half a pair
            raise InputError(_NOT_TEXT) from None
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """Return the ids of a text that goes on from earlier text: without the leading space."""
        ids: list[int] = self._continuing.encode(text)
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
        ends = list(accumulate(map(self._widths.__getitem__, ids)))
        return bisect_right(ends, len((_SPACE + text.replace(" ", _SPACE)).encode()))

    def piece(self, token: int) -> str | int | None:
        """Return what one id stands for: text, a byte (an int), or None for a control id."""
        if self._processor.is_byte(token):
            return int(self._processor.id_to_piece(token)[3:-1], 16)
        if self._processor.is_control(token):
            return None
        if self._processor.is_unknown(token):
            return " \u2047 "
        return str(self._processor.id_to_piece(token)).replace(_SPACE, " ")

    @cached_property
    def _continuing(self) -> Any:
        return sentencepiece.SentencePieceProcessor(model_proto=self._model + _WITHOUT_PREFIX)

    @cached_property
    def _byte_ids(self) -> list[int]:
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]

    @cached_property
    def _widths(self) -> list[int]:
        """The UTF-8 bytes that each id spells, with the three bytes of U+2581 for a space."""
        pieces = [self.piece(token) for token in range(self.vocab_size)]
        return [_width(piece) for piece in pieces]

    def _load(self) -> Any:
        fault = f"{self.path}: is not a complete SentencePiece model"
        if not self._model:
            raise InputError(f"{fault}: the file is empty")
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self._model)
        except RuntimeError:
            raise InputError(f"{fault}: it cannot be parsed") from None

    def _check(self) -> None:
        model = self._processor
        found = (model.unk_id(), model.bos_id(), model.eos_id(), model.pad_id())
        if found != (0, 1, 2, -1):
            raise InputError(
                f"{self.path}: ids of unknown, begin, end, pad are {found}, expected (0, 1, 2, -1)"
            )
        ids = self.encode(_PROBE)
        prefixed = str(self.piece(ids[0])).startswith(" ")
        if not prefixed or self.decode(ids) != _PROBE:
            raise InputError(
                f"{self.path}: does not give text back unchanged, expected Llama's settings "
                "(byte fallback, no normalisation, a space put first, all kept) in a complete file"
            )


class StreamDecoder:
    """Text from ids as they arrive: the pieces joined are `decode` of all ids.

    Half of a character is held back until its other bytes arrive, so that no piece ends in
    U+FFFD; bytes that cannot become a character are given out as U+FFFD, as `decode` does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Start a stream at the beginning of a text."""
        self._tokenizer = tokenizer
        self._bytes = b""
        self._first = True

    def push(self, token: int) -> str:
        """Take one id and return the text that is now certain, often one piece, maybe empty."""
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
        """Return what is held back, at the end of the stream."""
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


def train_tokenizer(
    texts: Iterable[str], path: PathLike, vocab_size: int, symbols: Sequence[str] = ()
) -> Tokenizer:
    """Train SentencePiece BPE in Llama's settings (Sec. 2.2), write it to `path` and return it.

    `symbols` are texts that get a piece each, so that a small vocabulary need not spend many ids
    on every tag of the chat format. The same texts give the same file. InputError if the texts
    cannot fill `vocab_size` or have more characters than it holds.
    """
    sentences = list(_sentences(texts))
    if not sentences:
        raise InputError(f"{path}: there is no text to train a tokenizer on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size,
            user_defined_symbols=list(symbols),
            **_LLAMA,
        )
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path}: vocab_size {vocab_size}: {_reason(error)}") from None
    write_bytes(path, model.getvalue())
    return Tokenizer(path)


# What the released tokenizer.model says about its own training, but for the corpus and one
# thread in place of 80, which makes the result repeatable.
_LLAMA: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "split_digits": True,
    "split_by_number": True,
    "split_by_whitespace": True,
    "split_by_unicode_script": True,
    "allow_whitespace_only_pieces": True,
    "character_coverage": 0.99995,
    "max_sentence_length": _MAX_SENTENCE,
    "max_sentencepiece_length": 16,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "num_threads": 1,
    "minloglevel": 2,
}


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Lines short enough for the trainer, cut before a space, which no piece crosses."""
    for text in texts:
        for line in _BREAKS.split(text):
            while _size(line) > _MAX_SENTENCE:
                cut = line.rfind(" ", 1, _MAX_SENTENCE // 4)
                cut = cut if cut > 0 else _MAX_SENTENCE // 4
                yield line[:cut]
                line = line[cut:]
            if line:
                yield line


def _size(text: str) -> int:
    """The bytes of a text in UTF-8."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InputError(_NOT_TEXT) from None


def _reason(error: Exception) -> str:
    """The trainer's own words, without the place in its source code."""
    words = re.sub(r"^INTERNAL: |\S+\.cc\(\d+\) ", "", str(error))
    return words or type(error).__name__


def _width(piece: str | int | None) -> int:
    if isinstance(piece, str):
        return len(piece.replace(" ", _SPACE).encode())
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
