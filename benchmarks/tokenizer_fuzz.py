"""Encode and decode many strange strings by Puna's tokenizer and by the library `tokenizers`.

    python benchmarks/tokenizer_fuzz.py TOKENIZER --count=100000 [--seed=0] [--text=FILE ...]

For a tokenizer.model the library reads the tokenizer.json that `puna.text.export` writes, so that
SentencePiece is compared with it; for a tokenizer.json it reads that; for SmolLM2's GGUF file its
tokenizer is put together from the file's keys by the library's own classes.
Prints how many strings of which kind were tried and how many differ; the status is 1 if one does.
Needs `pip install -e '.[dev]'`.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from puna.text.export import export_json
from puna.text.gguf import read_metadata
from puna.text.tokenizer import SentencePieceTokenizer, Tokenizer, open_tokenizer

TAGS = (
    "</s>", "<s>", "<unk>", "<0x0A>", "<0x00>", "<0xFF>", "<0x0a>", "<pad>", "[INST]", "[/INST]",
    "<<SYS>>", "<</SYS>>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "[INST",
    "INST]", "<<SYS", "s>", "<s", "<0x", "<0x4", "\u2581</s>", "\u2581<s>", "<mask>", "[UNK]",
)  # fmt: skip
BLANKS = " \u2581\t\n\r\v\f\0\u00a0\u2002\u2003\u3000\u200b\u200c\u2028\u2029\u0085\x1c\x1f\ufeff"
SCRIPTS = (
    (0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x600, 0x6FF),
    (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x1D400, 0x1D7FF),
    (0x20000, 0x2A6DF),
)  # fmt: skip
EMOJI = "🙂😀👍👩👨👧💻🏳🌈❤🦙🇳🇱🏽🏿\u200d\ufe0f\u20e3#*1"
WORDS = (
    "the there where were here owntown downtown banana ananas abracadabra error mirror ishi sushi "
    "Mississippi hello world don't I'm we've THE End café naïve Straße größer déjà vu привет мир "
    "κόσμε 世界 こんにちは 안녕 def return self.x += 1 {'a': [1, 2]} https://example.org/?q=a%20 "
    "e-mail@example.com 3.14159 1,000,000 0xFF \\n \\u2581 ... ---- ==== //// ;;; )))) 'll 're 'S"
).split(" ")


class Maker:
    """Draws strings of every kind; the same seed draws the same ones."""

    def __init__(self, seed: int, words: Sequence[str], pieces: Sequence[str]) -> None:
        """`words` are of real text, `pieces` the entries of the vocabulary."""
        self.random = random.Random(seed)
        self.words, self.pieces = words, pieces
        self.kinds: dict[str, Callable[[], str]] = {
            "unicode": self.unicode,
            "ascii": lambda: self.soup([chr(code) for code in range(32, 127)]),
            "few letters": lambda: self.soup(self.random.sample("abenorstwi .", 3), 40),
            "blanks": lambda: self.soup([*BLANKS, *"   ", "a", "."]),
            "runs": self.runs,
            "control": lambda: self.soup([chr(code) for code in range(160)] + ["a", " "]),
            "digits": lambda: self.soup([*"01234567890123456789 .,-", "٣", "²", "Ⅷ", "\uff11"]),
            "emoji": lambda: self.soup([*EMOJI, " ", "a"]),
            "scripts": self.script,
            "marks": self.marks,
            "tags": self.tags,
            "words": self.sentence,
            "pieces": lambda: "".join(
                self.random.choices(self.pieces, k=self.random.randint(1, 9))
            ),
            "mixture": self.mixture,
        }

    def soup(self, parts: Sequence[str], longest: int = 24) -> str:
        """Parts in any order."""
        return "".join(self.random.choices(parts, k=self.random.randint(0, longest)))

    def unicode(self) -> str:
        """Characters of all planes, without halves of surrogate pairs."""
        return "".join(map(self.character, range(self.random.randint(1, 16))))

    def character(self, _: int = 0) -> str:
        """Any character of any plane, the first plane as often as all others."""
        while True:
            code = self.random.randrange(self.random.choice((0x10000, 0x110000)))
            if not 0xD800 <= code < 0xE000:
                return chr(code)

    def runs(self) -> str:
        """One or two texts many times, often blanks."""
        found = ""
        for _ in range(self.random.randint(1, 4)):
            text = self.random.choice([" ", " ", "\u2581", "  ", *"a.-=\n0", "ab", "🙂", "é", " a"])
            text = self.random.choice([text, text, self.character(), self.random.choice(WORDS)])
            found += text * self.random.choice([1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 100, 400])
        return found

    def script(self) -> str:
        """A row of one script, with some spaces."""
        low, high = self.random.choice(SCRIPTS)
        codes = (self.random.randint(low, high) for _ in range(self.random.randint(1, 20)))
        return "".join(chr(code) if self.random.random() > 0.1 else " " for code in codes)

    def marks(self) -> str:
        """Letters with combining marks, decomposed and composed."""
        return self.soup(
            [*"aeiouAOn ", *map(chr, range(0x300, 0x330)), "é", "ü", "\u0323", "अ", "ि"]
        )

    def tags(self) -> str:
        """What looks like a control token, in text and side by side."""
        return self.soup([*TAGS, *TAGS, "a", " ", "hello", "\n", self.character()], 6)

    def sentence(self) -> str:
        """Words of real text, with odd spaces and cuts."""
        words = self.random.choices(self.words, k=self.random.randint(1, 12))
        text = self.random.choice([" ", " ", " ", "", "  ", "\n"]).join(words)
        return text[self.random.choice([0, 0, 1, 2]) :]

    def mixture(self) -> str:
        """Two to four strings of any kind, one after the other."""
        kinds = [kind for kind in self.kinds if kind not in ("mixture", "runs")]
        return "".join(self.kinds[kind]() for kind in self.random.choices(kinds, k=3))

    def draw(self, number: int) -> tuple[str, str]:
        """The kind and text of one string."""
        kind = list(self.kinds)[number % len(self.kinds)]
        return kind, self.kinds[kind]()


def differs(own: Tokenizer, other: tokenizers.Tokenizer, text: str) -> str | None:
    """What is not the same for a text; None if all is."""
    ids = own.encode(text)
    if other.encode(text, add_special_tokens=False).ids != ids:
        return "encode"
    if other.decode(ids) != own.decode(ids):
        return "decode"
    around = [*([] if own.bos_id is None else [own.bos_id]), *ids, own.eos_id]
    if other.decode(around) != own.decode(around):
        return "decode with begin and end"
    return None


def reference(own: Tokenizer) -> tokenizers.Tokenizer:
    """What a tokenizer is compared with: its export, its file, or one built from GGUF's keys."""
    if isinstance(own, SentencePieceTokenizer):
        with tempfile.TemporaryDirectory() as folder:
            export_json(own, Path(folder) / "tokenizer.json")
            return tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    if own.path.suffix == ".json":
        other = tokenizers.Tokenizer.from_file(str(own.path))
    else:
        other = from_keys(read_metadata(own.path))
    other.encode_special_tokens = True
    return other


def from_keys(keys: dict[str, Any]) -> tokenizers.Tokenizer:
    """SmolLM2's tokenizer from the keys of its GGUF file, put together by the library alone."""
    texts = keys["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in keys["tokenizer.ggml.merges"]]
    vocab = {text: token for token, text in enumerate(texts)}
    other = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    if keys["tokenizer.ggml.pre"] != "smollm":
        raise SystemExit("only SmolLM2's way to cut words is known here")
    other.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    other.decoder = tokenizers.decoders.ByteLevel()
    kinds = keys["tokenizer.ggml.token_type"]
    other.add_special_tokens([text for text, kind in zip(texts, kinds, strict=True) if kind == 3])
    return other


def main() -> int:
    """Run the comparison named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    own = open_tokenizer(options.tokenizer)
    other = reference(own)
    words = [w for path in options.text for w in path.read_text(encoding="utf-8").split()]
    texts = [str(own.piece(token)) for token in range(own.vocab_size)]
    maker = Maker(options.seed, words or WORDS, texts)
    tried: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    characters, start = 0, time.perf_counter()
    for number in range(options.count):
        kind, text = maker.draw(number)
        tried[kind] += 1
        characters += len(text)
        fault = differs(own, other, text)
        if fault:
            wrong[kind] += 1
            if sum(wrong.values()) <= 10:
                print(f"{fault} of {text[:200]!r}")
    for kind, count in tried.items():
        print(f"{kind:<12} {count:>7} tried {wrong[kind]:>5} different")
    seconds = time.perf_counter() - start
    print(f"{'all':<12} {options.count:>7} tried {sum(wrong.values()):>5} different "
          f"({characters} characters, {seconds:.1f} s)")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
