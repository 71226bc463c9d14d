"""Byte-level BPE: the tokenizers of GPT-2, Llama 3 and SmolLM2, by the library `tokenizers`.

A text is cut into words by a rule, each word is spelled in the UTF-8 bytes of its characters, and
bytes are joined by a list of pairs. The rules are the known ones and no others: a pattern out of a
file could take for ever to match.

The library reads a `tokenizer.json` of which only the parts that were understood are left.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from puna.errors import InputError
from puna.text.files import PathLike
from puna.text.tokens import NOT_TEXT, ByteStream, Stream, Tokenizer, within

Json = dict[str, Any]

_SPLIT = {"behavior": "Isolated", "invert": False}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_GPT2 = {**_BYTES, "use_regex": True}


def _by_pattern(pattern: str) -> list[Json]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, **_SPLIT}
    return [split, {**_BYTES, "use_regex": False}]


# how a text is cut into words, by llama.cpp's names
WORDS: dict[str, list[Json]] = {
    "gpt-2": [_GPT2],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2],
    "llama-bpe": _by_pattern(_LLAMA3),
    "qwen2": _by_pattern(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")),
}

_BEGIN = ("<|begin_of_text|>", "<s>", "<bos>")
_END = ("<|end_of_text|>", "</s>", "<eos>", "<|endoftext|>")

# the bytes that stand for themselves in a piece; the others are written as U+0100 and following
_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
ALPHABET = {chr(byte): byte for byte in _VISIBLE} | {
    chr(256 + index): byte for index, byte in enumerate(_HIDDEN)
}
# letters to the characters of their bytes, and what is no letter to one that is no byte's
_LETTERS = str.maketrans(
    {chr(byte): "\ufffd" for byte in _HIDDEN} | {name: chr(b) for name, b in ALPHABET.items()}
)


class BpeTokenizer(Tokenizer):
    """Text to token ids and back, by byte-level BPE.

    A byte that the vocabulary does not have is left out of the ids, as `tokenizers` does.
    InputError if the parts do not fit together, or text could become a control token.
    """

    file_name = "tokenizer.json"

    def __init__(
        self, path: PathLike, content: bytes, parts: "Parts", format: str | None = None
    ) -> None:
        """Build the tokenizer that a file at `path` says `parts` of; `content` is that of its
        tokenizer.json."""
        self.path, self.content, self.unk_id = Path(path), content, None
        self.parts = parts
        self.control = {text: token for text, token in parts.added.items() if parts.special(text)}
        self._ids = frozenset(self.control.values())
        self._pieces = self._spelling(parts)
        self._fast = self._load(parts)
        self.bos_id = self._first(_BEGIN)
        end = self._first(_END)
        self.eos_id = -1 if end is None else end
        self._take_format(format, self._format())
        if self.eos_id < 0:
            raise InputError(f"{path}: has no end token, expected one of {', '.join(_END)}")
        self._check(parts)

    @property
    def vocab_size(self) -> int:
        """The number of ids, all below this number."""
        return len(self._pieces)

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Return the ids of a text, with a leading `bos_id` and a final `eos_id` where asked for.

        No text yields a control id. InputError if the text has half a surrogate pair.
        """
        begin = [self.bos_id] if bos and self.bos_id is not None else []
        return begin + self.encode_batch([text])[0] + [self.eos_id] * eos

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text. InputError as `encode`."""
        try:
            found = self._fast.encode_batch(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):  # what tokenizers says to half a pair
            raise InputError(NOT_TEXT) from None
        rows: list[list[int]] = [encoding.ids for encoding in found]
        if not all(map(self._ids.isdisjoint, rows)):
            raise InputError(f"{self.path}: makes a control token out of text")
        return rows

    def encode_continuation(self, text: str) -> list[int]:
        """Return the ids of a text that goes on from earlier text: those of `encode`."""
        return self.encode(text)

    def encode_bytes(self, text: str) -> list[int]:
        """Return one id for each byte of the text's UTF-8, whatever longer pieces would spell it.

        InputError if the vocabulary does not have one of the bytes.
        """
        try:
            return [self._byte_ids[byte] for byte in text.encode()]
        except KeyError as error:
            raise InputError(f"{self.path}: has no id for the byte {error}") from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; control ids have none. IndexError on an id out of range."""
        return b"".join(map(self._spelled, ids)).decode(errors="replace")

    def covering(self, ids: Sequence[int], text: str) -> int:
        """Return how many of the first ids spell nothing beyond `text`.

        `ids` encode a text that begins with `text`, without control ids. An id that spells both
        the end of `text` and something after it is not counted.
        """
        known = (byte for byte in text.encode() if byte in self._byte_ids)
        return within(self._widths, ids, len(bytes(known)))

    def piece(self, token: int) -> str | int | bytes | None:
        """Return what one id stands for: text, bytes that are not whole characters, or None."""
        spelled = self._spelled(token)
        if token in self._ids:
            return None
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return spelled

    def stream(self) -> Stream:
        """Return what turns ids into text one by one, at the beginning of a text."""
        return ByteStream(self._pieces)

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        found = enumerate(self._pieces)
        return {piece[0]: token for token, piece in found if len(piece) == 1}

    @cached_property
    def _widths(self) -> list[int]:
        return [len(piece) for piece in self._pieces]

    def _spelled(self, token: int) -> bytes:
        if not 0 <= token < len(self._pieces):
            raise IndexError(f"id {token} is out of range, expected 0 to {len(self._pieces) - 1}")
        return self._pieces[token]

    def _spelling(self, parts: "Parts") -> list[bytes]:
        """The bytes of every id, none for control ids. InputError on an id without a piece."""
        names = {token: text for text, token in parts.vocab.items()}
        added = {token: text for text, token in parts.added.items()}
        size = len(names | added)
        if len(names) != len(parts.vocab) or len(added) != len(parts.added):
            raise InputError(f"{self.path}: two pieces have the same id")
        if any(not 0 <= token < size for token in names | added):
            raise InputError(f"{self.path}: the ids of {size} pieces are not 0 to {size - 1}")
        wrong = [text for text, token in parts.added.items() if names.get(token, text) != text]
        if wrong or any(parts.vocab.get(t, i) != i for t, i in parts.added.items()):
            raise InputError(f"{self.path}: an added token has the id of another piece")
        rows = []
        for token in range(size):
            text = added.get(token)
            if text is None:
                rows.append(_plain(names[token]))
            else:
                rows.append(b"" if text in self.control else text.encode())
        return rows

    def _load(self, parts: "Parts") -> Any:
        try:
            import tokenizers
        except ImportError:
            raise InputError(
                f"{self.path}: byte-level BPE needs the package tokenizers: pip install tokenizers"
            ) from None
        try:
            fast = tokenizers.Tokenizer.from_buffer(parts.content)
        except BaseException as error:  # a fault in its Rust is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            reason = " ".join(str(error).split())
            raise InputError(f"{self.path}: is not a tokenizer: {reason}") from None
        fast.encode_special_tokens = True  # a text that names a control token stays a text
        return fast

    def _first(self, names: Sequence[str]) -> int | None:
        return next((self.control[name] for name in names if name in self.control), None)

    def _format(self) -> str:
        """The prompt format that the special tokens are for."""
        if {"<|im_start|>", "<|im_end|>"} <= self.control.keys():
            ours = {"<repo_name>", "<jupyter_script>"} <= self.control.keys()
            return "smollm2" if ours else "chatml"
        llama3 = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>"}
        return "llama3" if llama3 <= self.control.keys() else "plain"

    def _check(self, parts: "Parts") -> None:
        """InputError if a text could become a control token, or the library has other ids."""
        made = {first + second for first, second in parts.merges} | ALPHABET.keys()
        for name in self.control:
            if name in made:
                raise InputError(f"{self.path}: the control token {name!r} can be made by text")
            if self.decode(self.encode(name)) != name:
                raise InputError(f"{self.path}: does not give the text {name!r} back")
        if self._fast.get_vocab_size() != self.vocab_size:
            raise InputError(f"{self.path}: two tokens have the same text")
        if any(self._fast.token_to_id(text) != token for text, token in parts.added.items()):
            raise InputError(f"{self.path}: an added token has another id than the file says")


class Parts:
    """What a byte-level BPE tokenizer is made of, as it was read from a file."""

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        added: Sequence[Json],
        words: str,
        whole_words: bool,
    ) -> None:
        """Take the pieces with their ids, the pairs in order, the added tokens with `id`, `content`
        and `special`, the rule of `WORDS`, and whether a word that is a piece is that piece."""
        self.vocab, self.merges, self.words, self.whole = vocab, merges, words, whole_words
        self.added = {token["content"]: token["id"] for token in added}
        self._ordinary = {token["content"] for token in added if not token["special"]}

    def special(self, text: str) -> bool:
        """Whether an added token is a control token: declared so, or written `<|name|>`."""
        return text not in self._ordinary or (text.startswith("<|") and text.endswith("|>"))

    @cached_property
    def content(self) -> bytes:
        """The content of a tokenizer.json of these parts and no others."""
        return json.dumps(self._to_json(), ensure_ascii=False).encode()

    def _to_json(self) -> Json:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = sorted(self.added.items(), key=lambda item: item[1])
        words = WORDS[self.words]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": token, "content": text, **flags, "special": self.special(text)}
                for text, token in added
            ],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": words},
            "post_processor": None,
            "decoder": {**_BYTES, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": self.whole,
                "vocab": dict(self.vocab),
                "merges": [list(pair) for pair in self.merges],
            },
        }


def _plain(text: str) -> bytes:
    """The bytes that a piece spells; a piece in other letters stands for itself."""
    try:
        return text.translate(_LETTERS).encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
