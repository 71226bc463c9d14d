"""A conversion at full size: time, peak memory and the disk's own speed.

    python benchmarks/conversion.py --size llama2-7b --folder big

Writes Meta's folder of that size with random bfloat16 weights (13 GB at 7B), converts it to a
Hugging Face folder in a process of its own, and prints seconds, MB/s, and the peak resident memory
of that process beside the largest tensor; before it, the seconds of a plain copy of the same bytes.
Needs twice the model's size on the disk, removed at the end, and Linux's /proc.
"""

import argparse
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from puna.model import meta
from puna.model.presets import preset
from puna.model.safetensors import size_of
from puna.model.source import Source, Stored, expected_tensors
from puna.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
CONVERT = """
import re, sys, time
from puna.recipes import convert
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before, started = peak(), time.perf_counter()
convert.main(convert.Config(src=sys.argv[1], dst=convert.Path(sys.argv[2]), to="hf"))
peak = peak()
print(f"RESULT {time.perf_counter() - started:.1f} {before / 1024:.0f} {peak / 1024:.0f}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="llama2-7b")
    parser.add_argument("--folder", type=Path, default=Path("puna-conversion"))
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True)
    try:
        source = random_source(options.size, folder)
        started = time.perf_counter()
        meta.write_meta(source, folder / "meta")
        size = sum(map(size_of, source.tensors.values())) / 1e6
        largest = max(map(size_of, source.tensors.values())) / 1e6
        print(f"{options.size}: {size:.0f} MB written in {time.perf_counter() - started:.1f} s")
        started = time.perf_counter()
        shutil.copyfile(folder / "meta/consolidated.00.pth", folder / "copy")
        print(f"a plain copy of it: {time.perf_counter() - started:.1f} s", flush=True)
        (folder / "copy").unlink()
        words = [sys.executable, "-c", CONVERT, str(folder / "meta"), str(folder / "hf")]
        done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
        seconds, before, peak = map(float, line.split()[1:])
        print(f"meta to hf: {seconds:.1f} s, {size / seconds:.0f} MB/s; peak resident memory")
        print(
            f"{peak:.0f} MB, {before:.0f} of them before it began; largest tensor {largest:.0f} MB"
        )
    finally:
        shutil.rmtree(folder)


def random_source(size: str, folder: Path) -> Source:
    """Weights of a size, drawn when they are read; a small tokenizer stands in for the real one."""
    pages = [page.read_text(encoding="utf-8") for page in ROOT.glob("docs/*.md")]
    tokenizer = train_tokenizer(pages, folder / "tokenizer.model", 512)
    args = preset(size)
    tensors = {
        name: Stored(shape, torch.bfloat16, partial(drawn, shape))
        for name, shape in expected_tensors(args).items()
    }
    return Source(args, tensors, tokenizer.path)


def drawn(shape: tuple[int, ...]) -> Tensor:
    """Random bits of finite bfloat16 numbers: quicker than normal ones, and as hard to pack."""
    bits = torch.randint(-(1 << 14), 1 << 14, shape, dtype=torch.int16)
    return bits.view(torch.bfloat16)


if __name__ == "__main__":
    main()
