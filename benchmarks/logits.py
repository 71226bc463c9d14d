"""SmolLM2's real weights: our logits beside transformers', position by position.

    python benchmarks/logits.py --positions 10000

Needs puna[smollm2] and transformers. Converts the packaged GGUF to a Hugging Face folder in a
temporary place, reads the same text by both (rows of 256 tokens of this project's own pages), and
prints the largest difference relative to the largest logit, and at how many positions the most
likely token differs. Then the same for bfloat16 against its own float32. Exits with 1 if the
difference is above 1e-4 or a most likely token differs.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from puna.model import checkpoint
from puna.recipes import convert
from puna.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 256  # tokens of a row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=10_000)
    positions = parser.parse_args().positions
    ours, tokenizer = checkpoint.load("smollm2")
    with tempfile.TemporaryDirectory() as folder:
        hf = Path(folder) / "hf"
        convert.main(convert.Config(src="smollm2", dst=hf, to="hf"))
        from transformers import AutoModelForCausalLM

        theirs = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32).eval()
    worst, different, seen = 0.0, 0, 0
    for row in rows(tokenizer, positions):
        with torch.inference_mode():
            found, wanted = ours(row)[0], theirs(row).logits[0]
        worst = max(worst, ((found - wanted).abs().max() / wanted.abs().max()).item())
        different += int((found.argmax(-1) != wanted.argmax(-1)).sum())
        seen += row.shape[1]
    print(f"float32 against transformers: {seen} positions, largest difference {worst:.1e} of the")
    print(f"largest logit, another most likely token at {different}")
    half(ours, tokenizer)
    return int(worst > 1e-4 or different > 0)


def rows(tokenizer: Tokenizer, positions: int) -> Iterator[torch.Tensor]:
    """Rows [1, WIDTH] of tokens of the project's pages, as many as hold so many positions."""
    pages = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    ids = [i for page in pages for i in tokenizer.encode(page.read_text(encoding="utf-8"))]
    for start in range(0, min(positions, len(ids)), WIDTH):
        yield torch.tensor([ids[start : start + WIDTH]])


def half(whole: torch.nn.Module, tokenizer: Tokenizer) -> None:
    """Print how far bfloat16 is from the same weights in float32."""
    narrow, _ = checkpoint.load("smollm2", torch.bfloat16)
    for weight, rounded in zip(whole.parameters(), narrow.parameters(), strict=True):
        weight.data = rounded.data.float()  # its own float32
    gap, same, seen = 0.0, 0, 0
    for row in rows(tokenizer, 1024):
        with torch.inference_mode():
            found, wanted = narrow(row)[0], whole(row)[0]
        gap += ((found - wanted).abs().mean() / wanted.abs().max()).item() * row.shape[1]
        same += int((found.argmax(-1) == wanted.argmax(-1)).sum())
        seen += row.shape[1]
    print(
        f"bfloat16 against its own float32: mean difference {gap / seen:.1e} of the largest logit,"
    )
    print(f"the same most likely token at {same} of {seen} positions")


if __name__ == "__main__":
    sys.exit(main())
