"""Collect preferences: two answers from two model variants, judged (Llama 2, section 3.2.1).

    puna collect --run runs/collect --models=runs/v1/checkpoint,runs/sft/checkpoint

Reads prompts.jsonl and one or two chat checkpoints; writes preferences_helpfulness.jsonl and
preferences_safety.jsonl, each with a held-out part by prompt, in the record that the annotation
page writes too. The annotators here are those of the embedded world: noisy, with four strengths and
three safety bins.
"""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from puna.engine.engine import Engine
from puna.errors import InputError
from puna.model import checkpoint
from puna.recipes import judges, steps
from puna.run import Run
from puna.text.completion import SamplingParams
from puna.text.dialog import Dialog, Preference
from puna.text.files import read_dialogs, write_preferences

HELPFUL, SAFE = "helpfulness", "safety"


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/collect")  # folder of this stage
    # newest first; variants answer in turn (paper: two)
    models: tuple[Path, ...] = (Path("runs/sft/checkpoint"),)
    prompts: Path = Path("runs/prepare/prompts.jsonl")  # dialogues that end with a user's message
    world: str = "cafe"  # whose annotators judge
    annotators: Annotated[int, Meta(ge=1)] = 5  # simulated people
    # standard deviation of a person's judgement of one answer, in units of helpfulness
    noise: float = 0.08
    helpfulness_pairs: int = 2000  # comparisons asked for (paper: 1.4M in all, with safety)
    safety_pairs: int = 1000  # comparisons asked for on adversarial prompts
    # share of the prompts kept for testing (paper: 1000 a batch)
    held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.15
    # of the first and the second answer (paper: varied, not stated)
    temperatures: tuple[float, ...] = (0.7, 1.0)
    top_p: float = 1.0  # nucleus of the sampled answers
    max_tokens: int = 80  # longest answer
    rows: int = 128  # answers generated at once
    seed: int = 0  # choice of prompts, answers, judgements


def main(config: Config) -> dict:
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    world = judges.world_of(config.world)
    if world is None:
        known = ", ".join(judges.WORLDS)
        raise InputError(f"world={config.world!r}: nobody can judge here; expected {known}")
    prompts = choose(read_dialogs(config.prompts), config)
    answers = [answer(config, run, variant, prompts) for variant in (0, 1)]
    people = [
        world.annotator(
            f"person-{n}", config.noise, random.Random(steps.derive(config.seed, "person", n))
        )
        for n in range(config.annotators)
    ]
    reasons: Counter[str] = Counter()
    kept: dict[str, list[Preference]] = {HELPFUL: [], SAFE: []}
    for number, (dialog, (a, b)) in enumerate(
        zip(prompts, zip(*answers, strict=True), strict=True)
    ):
        person = people[number % len(people)]
        verdict = judge(person, dialog, a, b, config)
        if isinstance(verdict, str):
            reasons[verdict] += 1
        else:
            kept[SAFE if dialog.tags["safety"] else HELPFUL].append(verdict)
    figures: dict = {f"skipped_{reason}": count for reason, count in reasons.items()}
    for name, preferences in kept.items():
        train, test = split(preferences, config.held_out)
        write_preferences(run.folder / f"preferences_{name}.jsonl", train)
        write_preferences(run.folder / f"preferences_{name}_held_out.jsonl", test)
        figures[f"{name}_pairs"] = len(train)
        figures[f"{name}_held_out_pairs"] = len(test)
    return run.finish(**figures)


def choose(prompts: list[Dialog], config: Config) -> list[Dialog]:
    """So many helpfulness and safety prompts, drawn without replacement while they last."""
    rng = random.Random(steps.derive(config.seed, "prompts"))
    chosen = []
    for wanted, count in ((False, config.helpfulness_pairs), (True, config.safety_pairs)):
        pool = [p for p in prompts if bool(p.tags.get("safety")) == wanted]
        if count and not pool:
            tag = f"safety={str(wanted).lower()}"
            raise InputError(f"{config.prompts}: no prompt with the tag {tag}")
        while count > 0:
            part = rng.sample(pool, min(count, len(pool)))
            chosen += part
            count -= len(part)
    return chosen


def answer(config: Config, run: Run, variant: int, prompts: list[Dialog]) -> list[str]:
    """One answer a prompt from the variant's model at the variant's temperature."""
    model, tokenizer = checkpoint.load(config.models[variant % len(config.models)])
    temperature = config.temperatures[variant % len(config.temperatures)]
    seed = steps.derive(config.seed, "answers", variant)
    params = SamplingParams(temperature, config.top_p, max_tokens=config.max_tokens, seed=seed)
    engine = Engine(model, tokenizer, rows=config.rows)
    with run.track(len(prompts), f"answers {variant + 1} of 2") as advance:
        return [found[0].text for found in engine.generate(prompts, params, track=advance)]


def judge(person, dialog: Dialog, a: str, b: str, config: Config) -> Preference | str:
    """The person's preference, or the reason why there is none."""
    if a == b:
        return "equal_answers"
    if not a or not b:
        return "empty_answer"
    bin_ = None
    if dialog.tags["safety"]:
        verdict = person.judge_safety(dialog, a, b)
        if verdict is None:
            return "chosen_unsafe_rejected_safe"
        chosen, rejected, strength, bin_ = verdict
    else:
        chosen, rejected, strength = person.judge_helpfulness(dialog, a, b)
    names = [path.parent.name for path in config.models]
    sides = {
        text: {
            "model": names[variant % len(names)],
            "temperature": config.temperatures[variant % len(config.temperatures)],
        }
        for variant, text in enumerate((a, b))
    }
    variants = {"chosen": sides[chosen], "rejected": sides[rejected]}
    return Preference(dialog, chosen, rejected, strength, bin_, person.name, config.world, variants)


def split(preferences: list[Preference], share: float) -> tuple[list[Preference], list[Preference]]:
    """Train and held-out preferences; a prompt stands on one side only."""
    sides: tuple[list[Preference], list[Preference]] = ([], [])
    for preference in preferences:
        text = "\n".join(m.content for m in preference.dialog.messages)
        held_out = steps.derive("held out", text) / 2**63 < share
        sides[held_out].append(preference)
    return sides
