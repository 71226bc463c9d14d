"""A tokenizer from a file of any kind: SentencePiece's model, a `tokenizer.json`, a GGUF file."""

from pathlib import Path

from puna.errors import InputError
from puna.text.byte_pairs import BpeTokenizer
from puna.text.files import PathLike
from puna.text.gguf import is_gguf
from puna.text.gguf_tokenizer import open_gguf
from puna.text.sentence_pieces import SentencePieceTokenizer
from puna.text.tokenizer_json import open_json
from puna.text.tokens import FORMATS, StreamDecoder, Tokenizer
from puna.text.training import train_tokenizer

__all__ = [
    "FORMATS",
    "BpeTokenizer",
    "SentencePieceTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "open_tokenizer",
    "train_tokenizer",
]


def open_tokenizer(path: PathLike, format: str | None = None) -> Tokenizer:
    """Return the tokenizer in a file: GGUF by its first bytes, or by its name's end .model, .json.

    Of a folder, its tokenizer.model, or else its tokenizer.json.
    `format` names the prompt format of the model it belongs to; None takes what the file shows:
    llama2 for SentencePiece, and for byte-level BPE what its special tokens are for. InputError if
    the file is missing or damaged, or does not have the format's special tokens.
    """
    path = Path(path)
    if path.is_dir():
        inside = (path / name for name in ("tokenizer.model", "tokenizer.json"))
        path = next((file for file in inside if file.exists()), path / "tokenizer.model")
    ending = ".gguf" if is_gguf(path) else path.suffix
    if ending == ".json":
        return open_json(path, format)
    if ending == ".gguf":
        return open_gguf(path, format)
    if ending != ".model":
        raise InputError(f"{path}: a tokenizer's file ends in .model, .json or .gguf")
    return SentencePieceTokenizer(path, format)
