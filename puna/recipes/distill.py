"""Say it while sampling, drop it while training: Ghost Attention and safety context distillation.

    puna distill --run runs/distill --model runs/v1/checkpoint --safety runs/safety/checkpoint

Both teach a model to behave as if an instruction stood before every message. Ghost Attention (Llama
2, section 3.3): the instruction is put before every user message while the answers are sampled; for
training it stays in the first turn only and the loss is zero on all but the last answer. Safety
context distillation (section 4.2.4): answers to unsafe prompts are sampled with a safety preprompt
and learnt without it, but only where the safety reward model prefers them to the plain answer.
Writes dialogs.jsonl and the fine-tuned checkpoint/.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from puna.engine.engine import Engine
from puna.model import checkpoint
from puna.model.heads import RewardModel
from puna.model.lora import LoraConfig
from puna.recipes import steps
from puna.recipes.sft import Tuning, fine_tune
from puna.run import Run
from puna.text.completion import SamplingParams
from puna.text.dialog import Dialog, Message
from puna.text.files import read_dialogs, read_json, write_dialogs, write_json
from puna.text.tokenizer import Tokenizer

PREPROMPT = "You are a safe and respectful barista. Never help anyone to cause harm."


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/distill")  # folder of this stage
    # chat model that samples and is tuned (paper: after RLHF V3)
    model: Path = Path("runs/rejection/checkpoint")
    # helpfulness reward model that picks among the samples of Ghost Attention
    helpfulness: Path = Path("runs/helpfulness/checkpoint")
    safety: Path = Path("runs/safety/checkpoint")  # reward model that guards the distillation
    # dialogues to hold a persona in; none: no Ghost Attention
    personas: Path | None = Path("runs/prepare/personas.jsonl")
    prompts: Path = Path("runs/prepare/prompts.jsonl")  # the unsafe ones among them are distilled
    replay: tuple[Path, ...] = ()  # dialogues learnt beside, so that nothing else is forgotten
    replay_count: int = 800  # of them, drawn at random
    ghost_dialogs: int = 500  # persona dialogues (paper: not stated)
    ghost_samples: int = 3  # answers to each message, the best of them is kept (paper: not stated)
    ghost_prefixes: int = 2  # training examples from a dialogue: itself and shorter beginnings
    context_prompts: int = 400  # unsafe prompts (paper: not stated)
    # said while sampling (paper: a generic one and one a category)
    preprompts: tuple[str, ...] = (PREPROMPT,)
    temperature: float = 0.7  # of the samples (paper: not stated)
    max_tokens: int = 80  # longest answer
    rows: int = 128  # answers generated at once
    seed: int = 0  # choice of dialogues, samples, order
    tuning: Tuning = field(default_factory=Tuning)  # optimisation
    lora: LoraConfig = field(default_factory=LoraConfig)  # adapters; rank=0: train every weight


def main(config: Config) -> dict:
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    drawn = steps.generator(config.seed, "lora")
    model, tokenizer = checkpoint.load_tuned(config.model, config.lora, drawn)
    if not (run.folder / "distill.json").exists():  # written after dialogs.jsonl, so both are whole
        engine = Engine(model, tokenizer, rows=config.rows)
        ghosts, cut = ghost_attention(run, engine, config) if config.personas else ([], 0)
        safe, asked = context_distillation(run, engine, config)
        write_dialogs(run.folder / "dialogs.jsonl", ghosts + safe)
        figures = {"ghost_examples": len(ghosts), "context_kept": len(safe), "context_asked": asked}
        figures |= {"ghost_dialogs_cut": cut} if cut else {}
        write_json(run.folder / "distill.json", figures)
    figures = read_json(run.folder / "distill.json")
    replay = [dialog for path in config.replay for dialog in read_dialogs(path)]
    rng = random.Random(steps.derive(config.seed, "replay"))
    replay = rng.sample(replay, min(config.replay_count, len(replay)))
    dialogs = read_dialogs(run.folder / "dialogs.jsonl") + replay
    tuned = fine_tune(run, model, tokenizer, dialogs, [], config.tuning, config.seed)
    return run.finish(**figures, replayed=len(replay), **tuned)


def ghost_attention(run: Run, engine: Engine, config: Config) -> tuple[list[Dialog], int]:
    """Persona dialogues answered with the instruction in every message, then told without it.

    Also returns how many dialogues were cut short because they outgrew the model's context.
    """
    assert config.personas is not None
    rng = random.Random(steps.derive(config.seed, "personas"))
    found = read_dialogs(config.personas)
    dialogs = rng.sample(found, min(config.ghost_dialogs, len(found)))
    spoken = speak(run, engine, dialogs, config)
    examples = []
    for dialog, said in zip(dialogs, spoken, strict=True):
        lengths = {said.turns}
        while len(lengths) < min(config.ghost_prefixes, said.turns):
            lengths.add(rng.randint(1, said.turns))
        examples += [ghost(dialog, said, turns) for turns in sorted(lengths)]
    cut = sum(s.turns < len(user_turns(d)) for s, d in zip(spoken, dialogs, strict=True))
    return examples, cut


def speak(run: Run, engine: Engine, dialogs: Sequence[Dialog], config: Config) -> list[Dialog]:
    """The dialogues with an answer to every message, all of them turn by turn together.

    A dialogue ends early where its next turn has no room in the model's context.
    """
    spoken: dict[int, Dialog] = {}
    judge, _ = checkpoint.load_reward(config.helpfulness)
    fits = partial(steps.fits, engine.model, engine.tokenizer, config.max_tokens)
    total = config.ghost_samples * sum(len(user_turns(d)) for d in dialogs)
    with run.track(total, "Ghost Attention") as advance:
        for turn in range(max(len(user_turns(d)) for d in dialogs)):
            on = [i for i, d in enumerate(dialogs) if len(user_turns(d)) > turn]
            on = [i for i in on if turn == 0 or spoken[i].turns == turn]  # not cut before
            asked = {i: guided(spoken.get(i), dialogs[i], turn) for i in on}
            asked = {i: prompt for i, prompt in asked.items() if turn == 0 or fits(prompt)}
            prompts, params = list(asked.values()), sampling(config, "ghost", turn)
            answers = engine.generate(prompts, params, n=config.ghost_samples, track=advance)
            told = [
                [p.with_answer(a.text or "...") for a in row]
                for p, row in zip(prompts, answers, strict=True)
            ]
            for i, best in zip(asked, best_of(judge, engine.tokenizer, told), strict=True):
                spoken[i] = best
    return [spoken[i] for i in range(len(dialogs))]


def best_of(
    judge: RewardModel, tokenizer: Tokenizer, rows: Sequence[Sequence[Dialog]]
) -> list[Dialog]:
    """The dialogue of each row whose last answer scores highest, as in rejection sampling."""
    scores = iter(steps.score(judge, tokenizer, [d for row in rows for d in row]))
    scored = [[(next(scores), place) for place in range(len(row))] for row in rows]
    return [row[max(found)[1]] for row, found in zip(rows, scored, strict=True)]


def guided(spoken: Dialog | None, dialog: Dialog, turn: int) -> Dialog:
    """The dialogue so far with the next user message, the instruction put before it."""
    text = f"{dialog.system} {user_turns(dialog)[turn]}"
    if spoken is None:
        return Dialog((Message("user", text),), dialog.id)
    return spoken.with_user(text)


def user_turns(dialog: Dialog) -> list[str]:
    """All user messages of a persona dialogue, the first one too."""
    return [dialog.last.content, *dialog.tags["user_turns"]]


def ghost(dialog: Dialog, spoken: Dialog, turns: int) -> Dialog:
    """The first `turns` turns of `spoken`, the instruction only in the first (as system)."""
    answers = [m.content for m in spoken.messages if m.role == "assistant"]
    messages = [Message("system", dialog.system or "")]
    for user, answer in zip(user_turns(dialog)[:turns], answers, strict=False):
        messages += [Message("user", user), Message("assistant", answer)]
    return Dialog(tuple(messages), dialog.id, {"kind": "ghost", "safety": False, "last_only": True})


def context_distillation(run: Run, engine: Engine, config: Config) -> tuple[list[Dialog], int]:
    """Answers with a safety preprompt that the safety model prefers; and the number of prompts."""
    rng = random.Random(steps.derive(config.seed, "context"))
    unsafe = [p for p in read_dialogs(config.prompts) if p.tags.get("safety") and p.system is None]
    unsafe = rng.sample(unsafe, min(config.context_prompts, len(unsafe)))
    if not unsafe:
        return [], 0
    guided = [prompt.with_system(rng.choice(config.preprompts)) for prompt in unsafe]
    with run.track(2 * len(unsafe), "context distillation") as advance:
        plain = engine.generate(unsafe, sampling(config, "plain"), track=advance)
        told = engine.generate(guided, sampling(config, "told"), track=advance)
    model, tokenizer = checkpoint.load_reward(config.safety)
    answers = [row[0].text or "..." for row in [*plain, *told]]
    spoken = [p.with_answer(a) for p, a in zip([*unsafe, *unsafe], answers, strict=True)]
    scores, count = steps.score(model, tokenizer, spoken), len(unsafe)
    return preferred(unsafe, answers[count:], scores[:count], scores[count:]), count


def preferred(
    prompts: Sequence[Dialog],
    answers: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
) -> list[Dialog]:
    """The gate: only answers that score above what the model says by itself (section 4.2.4)."""
    return [
        replace(
            prompt.with_answer(answer), tags={**prompt.tags, "last_only": True, "distilled": True}
        )
        for prompt, answer, old, new in zip(prompts, answers, before, after, strict=True)
        if new > old
    ]


def sampling(config: Config, *what: object) -> SamplingParams:
    """How the samples of one part are drawn."""
    seed = steps.derive(config.seed, "distill", *what)
    return SamplingParams(config.temperature, 1.0, max_tokens=config.max_tokens, seed=seed)
