"""Training a SentencePiece BPE tokenizer in exactly Llama's settings (Sec. 2.2)."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sentencepiece

from puna.errors import InputError
from puna.text.files import PathLike, write_bytes
from puna.text.sentence_pieces import SentencePieceTokenizer
from puna.text.tokens import NOT_TEXT

_MAX_SENTENCE = 4192  # bytes; a longer training line would be left out by the trainer
_BREAKS = re.compile("[\n\0\u2585]")  # a newline, and the two characters the trainer refuses


def train_tokenizer(
    texts: Iterable[str], path: PathLike, vocab_size: int, symbols: Sequence[str] = ()
) -> SentencePieceTokenizer:
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
    return SentencePieceTokenizer(path)


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
        raise InputError(NOT_TEXT) from None


def _reason(error: Exception) -> str:
    """The trainer's own words, without the place in its source code."""
    words = re.sub(r"^INTERNAL: |\S+\.cc\(\d+\) ", "", str(error))
    return words or type(error).__name__
