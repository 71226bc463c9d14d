"""Prompt lookup on texts that repeat themselves: tokens a second with and without guessing.

    python benchmarks/speculation.py --kind int8 --rounds 5

SmolLM2-135M, one greedy answer at a time. The prompts ask for what mostly stands in them already: a
paragraph said again, code with one name changed, a list in its order; one asks for a story, where
there is nothing to look up. Both arms run in one engine, turn about, their answers are compared
token by token (they must be equal), and medians over the rounds are shown. Needs puna[smollm2].
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from puna.engine import opening  # noqa: E402
from puna.engine.engine import Engine, Request  # noqa: E402
from puna.text.completion import SamplingParams  # noqa: E402
from puna.text.dialog import Dialog, Message  # noqa: E402
from puna.text.template import encode_prompt  # noqa: E402

PARAGRAPH = (
    "The lighthouse on the northern cape was built in 1871 from granite that ships had carried as "
    "ballast. Its lamp burned rapeseed oil at first, then paraffin, and since 1953 it has been "
    "electric. Three families kept it in turn, and the last keeper, Agnes Holm, left in 1988 when "
    "the light was made automatic. Every spring the stairs are painted, and on the first Sunday of "
    "June visitors may climb all 212 of them."
)
CODE = """def total(items):
    result = 0
    for item in items:
        if item.price is None:
            continue
        result = result + item.price * item.count
    return result


def average(items):
    count = len(items)
    if count == 0:
        return 0
    return total(items) / count
"""
NAMES = ", ".join(
    ["Ada", "Boris", "Chen", "Dalia", "Emeka", "Farah", "Goran", "Hana", "Ines", "Jonas", "Kofi"]
)
PROMPTS = {
    "repeat a paragraph": f"Repeat this paragraph word for word:\n\n{PARAGRAPH}",
    "edit code": f"Rename the variable `result` to `price` and give all the code:\n\n{CODE}",
    "copy a list": f"Write these names once more, one a line, in the same order: {NAMES}",
    "a story": "Tell me a short story about a fisherman and a storm.",
}


def answer(engine: Engine, ids: list[int], new: int, speculate: bool) -> tuple[list[int], dict]:
    """One greedy answer, and its tokens a second after the first, proposed and accepted guesses."""
    params = SamplingParams(temperature=0, max_tokens=new)
    engine.blocks.forget()  # both arms read the whole prompt
    engine.add(Request("one", ids, params, speculate=speculate))
    made: list[int] = []
    first = last = 0.0
    counts: dict = {}
    while not engine.idle:
        for output in engine.step():
            made += output.ids
            last = time.perf_counter()
            if not first:
                first, began = last, len(made)
            counts = output.timings or counts
    rate = (len(made) - began) / (last - first) if last > first else 0.0
    return made, {"rate": rate, "tokens": len(made), **counts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="int8", choices=("int8", "int4", "bfloat16", "float32"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=160, help="most tokens of an answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.rounds < 1 or options.new < 2:
        parser.error("expected --rounds of 1 or more and --new of 2 or more")
    found = opening.find("smollm2", 2048)
    opened = opening.open_runner(found, options.kind, opening.Pool(2), threads=options.threads)
    engine = Engine(opened.runner, opened.tokenizer, rows=1)
    results = {}
    for name, text in PROMPTS.items():
        ids = encode_prompt(Dialog((Message("user", text),)), opened.tokenizer)
        rates: dict[bool, list[float]] = {False: [], True: []}
        counts: dict = {}
        for number in range(-1, options.rounds):  # the first is not counted
            answers = {}
            for speculate in (False, True) if number % 2 else (True, False):
                answers[speculate], told = answer(engine, ids, options.new, speculate)
                if number >= 0:
                    rates[speculate].append(told["rate"])
                if speculate:
                    counts = told
            if answers[False] != answers[True]:
                print(f"{name}: the answers differ", file=sys.stderr)
                return 1
        plain, guessed = statistics.median(rates[False]), statistics.median(rates[True])
        ratios = [b / a for a, b in zip(rates[False], rates[True], strict=True)]
        results[name] = {"plain": plain, "guessed": guessed, "ratios": ratios, **counts}
        print(
            f"{name}: {counts['tokens']} tokens, {plain:.0f} -> {guessed:.0f} tok/s, "
            f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f}); "
            f"{counts['accepted']} of {counts['proposed']} guesses right"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
