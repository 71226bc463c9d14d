"""Damaged files, without end: every reader of foreign input, for as long as you like.

    python benchmarks/fuzz_loaders.py --seconds 300

Takes a small valid file of each kind and changes it: single bits and bytes, numbers set to
extremes, pieces cut or repeated. A reader may read what comes out or refuse it by InputError;
anything else (another exception, more than a second, more than 50 MB) is a fault, and the file is
kept. Prints the counts; exits with 1 on a fault.
"""

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from puna.errors import InputError
from puna.model import checkpoint, folders, gguf, huggingface, places
from puna.model.pickled import read_pth, write_pth
from puna.model.safetensors import read_safetensors
from puna.model.settings import model_args
from puna.model.source import Source, Stored, expected_tensors
from puna.model.transformer import ModelArgs, Transformer
from puna.text.dialog import Dialog, Message
from puna.text.export import export_json
from puna.text.files import read_dialogs
from puna.text.template import encode_dialog
from puna.text.tokenizer import open_tokenizer, train_tokenizer

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)
MOST_SECONDS, MOST_BYTES = 1.0, 50 << 20
WORDS = [f"word{n} {n} a cup of tea, please? é🙂" for n in range(60)]


@dataclass
class Found:
    """How often a damaged file was read and refused."""

    read: int = 0
    refused: int = 0


def weights(place: Path) -> Path:
    model = Transformer(ModelArgs(dim=16, n_layers=1, n_heads=2, vocab_size=300, max_seq_len=32))
    model.init_weights(torch.Generator().manual_seed(0))
    tokenizer = train_tokenizer(WORDS, place / "t.model", 300)
    checkpoint.save(place / "model", model, tokenizer)
    return place / "model"


def a_gguf(place: Path) -> Path:
    gguf.write_gguf(places.open_source(weights(place)), place / "x.gguf", "F16")
    return place / "x.gguf"


def a_pth(place: Path) -> Path:
    write_pth(place / "x.pth", {"a": Stored((3,), torch.float32, lambda: torch.ones(3))})
    return place / "x.pth"


def a_folder(place: Path) -> Path:
    args = ModelArgs(dim=16, n_layers=1, n_heads=2, vocab_size=300, max_seq_len=32)
    made = {
        name: Stored(shape, torch.float32, lambda shape=shape: torch.ones(shape))
        for name, shape in expected_tensors(args).items()
    }
    (place / "hf").mkdir()
    huggingface.write_folder(Source(args, made, None), place / "hf")
    return place / "hf"


def a_json_tokenizer(place: Path) -> Path:
    export_json(train_tokenizer(WORDS, place / "t.model", 300), place / "tokenizer.json")
    return place / "tokenizer.json"


def a_dialog(place: Path) -> Path:
    train_tokenizer(WORDS, place / "t.model", 300)
    said = (("system", "Be kind."), ("user", "Tea? [INST"), ("assistant", "Yes."))
    turns = tuple(Message(role, text) for role, text in said)
    lines = (line(Dialog(turns, str(number), {})) for number in range(3))
    (place / "x.jsonl").write_bytes(b"".join(lines))
    return place / "x.jsonl"


def line(dialog: Dialog) -> bytes:
    return json.dumps(dialog.to_json()).encode() + b"\n"


def encode(path: Path) -> None:
    tokenizer = open_tokenizer(path.with_name("t.model"))
    for dialog in read_dialogs(path):
        encode_dialog(dialog, tokenizer)


# the file to damage, and how it is read
TARGETS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "gguf": (a_gguf, gguf.open_gguf),
    "gguf tokenizer": (a_gguf, open_tokenizer),
    "pth": (a_pth, lambda path: [tensor.read() for tensor in read_pth(path).values()]),
    "safetensors": (lambda p: weights(p) / "model.safetensors", read_safetensors),
    "manifest": (lambda p: weights(p) / "manifest.json", lambda p: folders.verify(p.parent, ())),
    "params.json": (lambda p: weights(p) / "params.json", model_args),
    "config.json": (lambda p: a_folder(p) / "config.json", huggingface.read_config),
    "tokenizer.model": (lambda p: weights(p) / "tokenizer.model", open_tokenizer),
    "tokenizer.json": (a_json_tokenizer, open_tokenizer),
    "chat": (a_dialog, encode),
}


def fuzz(name: str, place: Path, rounds: int, seed: int, seconds: float = 1e9) -> Found:
    """Read `rounds` damaged files of a kind. AssertionError with the file's place on a fault."""
    make, read = TARGETS[name]
    path = make(place)
    whole, rng, found = path.read_bytes(), random.Random(f"{seed}/{name}"), Found()
    until = time.monotonic() + seconds
    for _ in range(rounds):
        if time.monotonic() > until:
            break
        path.write_bytes(damaged(whole, rng))
        started, before = time.process_time(), peak()
        try:
            read(path)
            found.read += 1
        except InputError as error:
            assert "\n" not in str(error), f"{path}: more than one line: {error}"
            found.refused += 1
        except Exception as error:
            raise AssertionError(f"{path}: {type(error).__name__}: {error}") from error
        spent = time.process_time() - started
        assert spent < MOST_SECONDS, f"{path}: took {spent:.1f} s"
        assert peak() - before < MOST_BYTES, f"{path}: took {peak() - before} bytes"
    return found


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three changes, most of them near the beginning, where headers are."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        if not data:
            break
        at = int(len(data) * rng.random() ** rng.choice((1, 4)))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(EXTREMES) & ((1 << 8 * size) - 1)
            data[at : at + size] = number.to_bytes(size, "little")
        elif kind == 3:
            del data[at : at + rng.choice((1, 3, 64, len(data)))]
        elif kind == 4:
            data[at:at] = data[at : at + rng.choice((1, 8, 64))]
        else:
            digits = [i for i in range(at, min(at + 400, len(data))) if chr(data[i]).isdigit()]
            if digits:
                data[digits[0] : digits[0] + 1] = str(rng.choice(EXTREMES)).encode()
    return bytes(data)


def peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faults = 0
    for name in TARGETS:
        folder = Path(tempfile.mkdtemp(prefix="puna-fuzz-"))
        try:
            found = fuzz(name, folder, 10**9, options.seed, options.seconds / len(TARGETS))
        except AssertionError as fault:  # the file stays
            faults += 1
            print(f"{name:<16} FAULT {fault}", flush=True)
            continue
        shutil.rmtree(folder)
        print(f"{name:<16} {found.refused:>7} refused {found.read:>7} read", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
