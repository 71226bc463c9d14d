"""What every tokenizer can do, and text from ids as they arrive."""

import codecs
import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from puna.errors import InputError
from puna.text.files import PathLike, write_bytes

# The prompt formats that `puna.text.template` writes; a tokenizer says which is its model's.
FORMATS = ("llama2", "llama3", "chatml", "smollm2", "plain")

NOT_TEXT = "half a UTF-16 surrogate pair is not text and has no tokens"

_END = {"chatml": "<|im_end|>", "smollm2": "<|im_end|>", "llama3": "<|eot_id|>"}


class Tokenizer(ABC):
    """Text to token ids and back; `open_tokenizer` makes one from a file.

    `path` is the file it was read from, `content` that of the file `save` writes, which gives the
    same tokenizer again. No text that is encoded yields one of `control`, the ids that have no
    text. `bos_id` and `eos_id` stand around a sequence and end an answer; None: there is none.
    """

    path: Path
    content: bytes
    file_name: str  # "tokenizer.model" or "tokenizer.json"
    format: str  # one of FORMATS
    bos_id: int | None
    eos_id: int
    unk_id: int | None
    control: Mapping[str, int]  # the name of each control id

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The number of ids, all below this number."""

    @abstractmethod
    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of a text, with a leading `bos_id` and a final `eos_id` where asked for.

        No text yields a control id. InputError if the text has half a surrogate pair.
        """

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text. InputError as `encode`."""

    @abstractmethod
    def encode_continuation(self, text: str) -> list[int]:
        """Return the ids of a text that goes on from earlier text: without a leading space."""

    @abstractmethod
    def encode_bytes(self, text: str) -> list[int]:
        """Return one id for each byte of the text's UTF-8, whatever longer pieces would spell it.

        InputError if the tokenizer has no id for one of the bytes.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; control ids have none. IndexError on an id out of range."""

    @abstractmethod
    def piece(self, token: int) -> str | int | bytes | None:
        """Return what one id stands for: text, a byte (an int), bytes that need not be whole
        characters, or None for a control id. IndexError on an id out of range."""

    @abstractmethod
    def stream(self) -> "Stream":
        """Return what turns ids into text one by one, at the beginning of a text."""

    @abstractmethod
    def covering(self, ids: Sequence[int], text: str) -> int:
        """Return how many of the first ids spell nothing beyond `text`.

        `ids` encode a text that begins with `text`, without control ids. An id that spells both
        the end of `text` and something after it is not counted.
        """

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of `content`: equal for the same tokenizer saved anywhere."""
        return hashlib.sha256(self.content).hexdigest()

    def save(self, folder: PathLike) -> Path:
        """Write `content` into a folder under `file_name`, and return the file's path."""
        path = Path(folder) / self.file_name
        write_bytes(path, self.content)
        return path

    def control_id(self, name: str) -> int:
        """Return the id of a control token. InputError if the tokenizer has none of that name."""
        if name not in self.control:
            raise InputError(
                f"{self.path}: has no special token {name!r}, which the prompt format "
                f"{self.format!r} needs"
            )
        return self.control[name]

    def _take_format(self, wanted: str | None, found: str) -> None:
        """Set the format, and with it the id that ends an answer. InputError on a wrong one."""
        if wanted is not None and wanted not in FORMATS:
            raise InputError(f"format {wanted!r} is unknown, expected one of {', '.join(FORMATS)}")
        self.format = wanted or found
        if self.format in _END:
            self.eos_id = self.control_id(_END[self.format])
        if self.format in ("chatml", "smollm2"):
            self.bos_id = None  # the first token of a dialog is <|im_start|>


class Stream(ABC):
    """Text from ids as they arrive; a tokenizer's `stream` makes one."""

    @abstractmethod
    def push(self, token: int) -> str:
        """Take one id and return the text that is now certain."""

    @abstractmethod
    def flush(self) -> str:
        """Return what is held back, at the end."""


class StreamDecoder:
    """Text from ids as they arrive: the pieces joined are `decode` of all ids.

    Half of a character is held back until its other bytes arrive, so that no piece ends in
    U+FFFD; bytes that cannot become a character are given out as U+FFFD, as `decode` does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Start a stream at the beginning of a text."""
        self._stream = tokenizer.stream()

    def push(self, token: int) -> str:
        """Take one id and return the text that is now certain, often one piece, maybe empty."""
        return self._stream.push(token)

    def flush(self) -> str:
        """Return what is held back, at the end of the stream."""
        return self._stream.flush()


class ByteStream(Stream):
    """A stream of ids that stand for bytes; a control id stands for none."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """Start a stream; `pieces` are the bytes of each id."""
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Take one id and return the text that is now certain."""
        return self._decoder.decode(self._pieces[_index(token, self._pieces)])

    def flush(self) -> str:
        """Return what is held back, at the end."""
        return self._decoder.decode(b"", final=True)


def _index(token: int, pieces: Sequence[bytes]) -> int:
    if not 0 <= token < len(pieces):
        raise IndexError(f"id {token} is out of range, expected 0 to {len(pieces) - 1}")
    return token


def within(widths: Sequence[int], ids: Sequence[int], limit: int) -> int:
    """How many of the first ids are at most `limit` wide together."""
    return bisect_right(list(accumulate(map(widths.__getitem__, ids))), limit)
