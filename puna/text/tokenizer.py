"""A tokenizer from a file of any kind: SentencePiece's model, a `tokenizer.json`, a GGUF file."""

from puna.text.files import PathLike
from puna.text.sentence_pieces import SentencePieceTokenizer
from puna.text.tokens import StreamDecoder, Tokenizer
from puna.text.training import train_tokenizer

__all__ = ["SentencePieceTokenizer", "StreamDecoder", "Tokenizer", "open_tokenizer",
           "train_tokenizer"]  # fmt: skip


def open_tokenizer(path: PathLike, format: str | None = None) -> Tokenizer:
    """Read a tokenizer."""
    return SentencePieceTokenizer(path, format)
