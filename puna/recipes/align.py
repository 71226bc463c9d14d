"""Align: V1 ... Vn, each with new preferences and new reward models (section 3.2.3, Figure 4).

    puna align --run runs/align --base runs/pretrain/checkpoint --model runs/sft/checkpoint \\
        --data runs/prepare

Each version collects preferences from the two newest models, trains both reward models on all
preferences so far, and fine-tunes the base again by rejection sampling on the best samples of all
versions. After `distill_after` versions Ghost Attention and safety context distillation join; the
last version goes on with PPO. `preferences` = store takes what people judged in the web app instead
(`puna/recipes/people.py`), one snapshot for all versions. Without a world to judge (`world` = none)
human judgements, from there or from the data folder, take the annotators' place: one version.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, TypeVar

from msgspec import Meta

from puna.console import Board
from puna.errors import InputError
from puna.model.lora import LoraConfig
from puna.recipes import collect, distill, evaluate, judges, people, ppo, rejection, reward, steps
from puna.recipes.collect import Config as CollectConfig
from puna.recipes.distill import Config as DistillConfig
from puna.recipes.evaluate import Config as EvaluateConfig
from puna.recipes.people import Config as PeopleConfig
from puna.recipes.pipeline import Gate, Pipeline
from puna.recipes.ppo import Config as PPOConfig
from puna.recipes.rejection import Config as RejectionConfig
from puna.recipes.reward import Config as RewardConfig

S = TypeVar("S", RewardConfig, RejectionConfig, DistillConfig, PPOConfig)


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/align")  # folder of all versions
    base: Path = Path("runs/pretrain/checkpoint")  # pretrained model that every version starts from
    model: Path = Path("runs/sft/checkpoint")  # first chat model
    data: Path = Path("runs/prepare")  # folder made by `puna prepare`
    world: str = "cafe"  # whose annotators and truth judge; "none": human judgements in `data`
    # "store": what people judged in puna.db; or a store's file or URL, or a file of comparisons;
    # "": simulated annotators, or the judgements in `data`
    preferences: str = ""
    versions: Annotated[int, Meta(ge=1)] = 2  # rounds of preferences (paper: 5)
    distill_after: int = 1  # version after which Ghost Attention joins; 0: never (paper: after V3)
    gates: bool = True  # whether a stage that fails its check stops the run
    seed: int = 0  # everything that is drawn; each stage and version derives its own
    collect: CollectConfig = field(default_factory=CollectConfig)  # preferences of a version
    # what is taken of people's judgements, where `preferences` is given
    people: PeopleConfig = field(default_factory=PeopleConfig)
    helpfulness: RewardConfig = field(default_factory=RewardConfig)  # helpfulness reward model
    safety: RewardConfig = field(
        default_factory=lambda: RewardConfig(kind="safety", others_share=0.1)
    )  # safety reward model
    rejection: RejectionConfig = field(default_factory=RejectionConfig)  # rejection sampling
    # Ghost Attention, context distillation
    distill: DistillConfig = field(default_factory=DistillConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)  # PPO after the last version; steps=0: none
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)  # judgement of every version
    # adapters of every stage that asks for none of its own; rank=0: every weight is trained
    lora: LoraConfig = field(default_factory=LoraConfig)


def main(config: Config) -> dict:
    with Board([(name, "") for name in plan(config)]) as board:
        return versions(Pipeline(config.run, board, config.gates), config)


def check(config: Config) -> None:
    """InputError where the settings cannot work together, before anything is run."""
    if config.preferences:
        people.check(config.preferences)
    if judges.world_of(config.world) is None and config.versions > 1:
        raise InputError(
            f"align.versions={config.versions}: expected 1, since world={config.world!r} has no "
            "annotators to ask anew"
        )


def plan(config: Config) -> list[str]:
    """The names of all stages in order, for the console."""
    names = ["people"] if config.preferences else []
    for number in range(1, config.versions + 1):
        here = ["collect"] if asks_anew(config) else []
        here += ["helpfulness", "safety", "rejection", "evaluate"]
        here += ["distill", "evaluate_distill"] if number == config.distill_after else []
        last = number == config.versions and config.ppo.steps > 0
        here += ["ppo", "evaluate_ppo"] if last else []
        names += [f"v{number}/{stage}" for stage in here]
    return names


def asks_anew(config: Config) -> bool:
    """Whether every version has annotators of its own."""
    return judges.world_of(config.world) is not None and not config.preferences


@dataclass
class Version:
    """The state of the loop: files so far."""

    newest: Path
    previous: Path
    evaluation: Path | None = None
    collected: tuple[Path, ...] = ()
    samples: tuple[Path, ...] = ()
    distilled: tuple[Path, ...] = ()
    rewards: dict[str, Path] = field(default_factory=dict)  # newest reward model of each kind
    evaluations: tuple[Path, ...] = ()


def versions(pipeline: Pipeline, config: Config, evaluation: Path | None = None) -> dict:
    """All versions in order; `evaluation` is the first chat model's. Returns the last files."""
    check(config)
    state = Version(config.model, config.model, evaluation)
    if config.preferences:
        take_from_people(pipeline, config, state)
    for number in range(1, config.versions + 1):
        name, folder = f"v{number}", config.run / f"v{number}"
        if asks_anew(config):
            ask_people(pipeline, config, state, name, folder)
        reward_models(pipeline, config, state, name, folder)
        sample_best(pipeline, config, state, name, folder)
        if number == config.distill_after:
            say_and_drop(pipeline, config, state, name, folder)
        if number == config.versions and config.ppo.steps > 0:
            optimise(pipeline, config, state, name, folder)
    return {
        "final": str(state.newest),
        "helpfulness": str(state.rewards["helpfulness"]),
        "safety": str(state.rewards["safety"]),
        "evaluations": [str(path) for path in state.evaluations],
    }


def take_from_people(p: Pipeline, config: Config, state: Version) -> None:
    """What people have judged so far, for all versions."""
    settings = replace(
        config.people,
        run=config.run / "people",
        preferences=config.preferences,
        model=config.model,
        seed=steps.derive(config.seed, "people"),
    )
    p.stage("people", people.main, settings, "{helpfulness_pairs} + {safety_pairs} pairs")
    state.collected = (settings.run,)
    for kind in ("helpfulness", "safety"):
        if not judgements(config, state, f"preferences_{kind}"):
            raise InputError(
                f"preferences={config.preferences}: has 0 comparisons of {kind}, and "
                f"{config.data} has none either, expected at least {settings.least}"
            )


def ask_people(p: Pipeline, config: Config, state: Version, name: str, folder: Path) -> None:
    """New preferences between the newest model and the one before it."""
    settings = replace(
        config.collect,
        run=folder / "collect",
        models=(state.newest, state.previous),
        prompts=config.data / "prompts.jsonl",
        world=config.world,
        seed=steps.derive(config.seed, name, "collect"),
    )
    p.stage(f"{name}/collect", collect.main, settings, "{helpfulness_pairs} + {safety_pairs} pairs")
    state.collected = (*state.collected, settings.run)


def reward_models(p: Pipeline, config: Config, state: Version, name: str, folder: Path) -> None:
    """Both reward models anew, from the newest chat model, on all preferences so far."""
    for kind, other in (("helpfulness", "safety"), ("safety", "helpfulness")):
        given = adapted(config, getattr(config, kind))
        settings = replace(
            given,
            kind=kind,
            run=folder / kind,
            model=state.newest,
            preferences=judgements(config, state, f"preferences_{kind}"),
            others=judgements(config, state, f"preferences_{other}"),
            labels=judgements(config, state, f"labels_{kind}"),
            held_out=judgements(config, state, f"preferences_{kind}_held_out"),
            held_out_labels=judgements(config, state, f"labels_{kind}_held_out"),
            seed=steps.derive(config.seed, name, kind),
        )
        key = "accuracy {accuracy:.2f}" if settings.held_out else "AUC {auc:.2f}"
        p.stage(f"{name}/{kind}", reward.main, settings, key, REWARD_GATES)
    for kind in ("helpfulness", "safety"):  # after both were trained from the same chat model
        state.rewards[kind] = folder / kind / "checkpoint"


REWARD_GATES = (
    Gate(
        lambda f: f.get("accuracy", f.get("auc", 0.0)) > 0.55,
        "it should order held-out answers better than chance (0.55)",
    ),
    Gate(
        lambda f: "accuracy" not in f or f["accuracy"] > f["accuracy_length_only"],
        "it should beat a rule that only sees the answers' length",
    ),
)


def adapted(config: Config, given: S) -> S:
    """The settings of a stage, with the adapters of all stages if it has none of its own."""
    wanted = config.lora.rank and not given.lora.rank
    return replace(given, lora=config.lora) if wanted else given


def judgements(config: Config, state: Version, name: str) -> tuple[Path, ...]:
    """The files of that name from every version's collection and from the data folder; what people
    judged takes the place of the data folder's files of that kind.
    """
    kind = name.split("_")[1]
    instead = [folder / f"preferences_{kind}.jsonl" for folder in state.collected]
    own = config.preferences and any(path.stat().st_size for path in instead)
    folders = state.collected if own else (config.data, *state.collected)
    found = [folder / f"{name}.jsonl" for folder in folders]
    return tuple(path for path in found if path.exists() and path.stat().st_size)


def sample_best(p: Pipeline, config: Config, state: Version, name: str, folder: Path) -> None:
    """Rejection sampling from the newest model, fine-tuning from the base."""
    settings = replace(
        adapted(config, config.rejection),
        run=folder / "rejection",
        base=config.base,
        model=state.newest,
        helpfulness=state.rewards["helpfulness"],
        safety=state.rewards["safety"],
        prompts=config.data / "prompts.jsonl",
        earlier=state.samples,
        dialogs=(*config.rejection.dialogs, *state.distilled),
        seed=steps.derive(config.seed, name, "rejection"),
    )
    gate = Gate(
        lambda f: f["reward_best_of_k"] > f["reward_mean"],
        "the best of K ({reward_best_of_k:.3f}) should score above the mean ({reward_mean:.3f})",
    )
    key = "best of K {reward_best_of_k:.2f}, mean {reward_mean:.2f}, T={temperature}"
    p.stage(f"{name}/rejection", rejection.main, settings, key, [gate])
    state.samples = (*state.samples, folder / "rejection/samples.jsonl")
    state.previous, state.newest = state.newest, folder / "rejection/checkpoint"
    judge(p, config, state, folder / "evaluate")


def say_and_drop(p: Pipeline, config: Config, state: Version, name: str, folder: Path) -> None:
    """Ghost Attention and safety context distillation on the version so far."""
    personas = config.data / "personas.jsonl"
    settings = replace(
        adapted(config, config.distill),
        run=folder / "distill",
        model=state.newest,
        helpfulness=state.rewards["helpfulness"],
        safety=state.rewards["safety"],
        personas=personas if personas.exists() else None,
        prompts=config.data / "prompts.jsonl",
        replay=state.samples,
        seed=steps.derive(config.seed, name, "distill"),
    )
    key = "{ghost_examples} ghost, {context_kept} of {context_asked} kept"
    p.stage(f"{name}/distill", distill.main, settings, key)
    state.distilled = (folder / "distill/dialogs.jsonl",)
    state.newest = folder / "distill/checkpoint"
    judge(p, config, state, folder / "evaluate_distill")


def optimise(p: Pipeline, config: Config, state: Version, name: str, folder: Path) -> None:
    """PPO on top of the last version."""
    settings = replace(
        adapted(config, config.ppo),
        run=folder / "ppo",
        model=state.newest,
        helpfulness=state.rewards["helpfulness"],
        safety=state.rewards["safety"],
        prompts=config.data / "prompts.jsonl",
        held_out=config.data / "prompts_held_out.jsonl",
        seed=steps.derive(config.seed, name, "ppo"),
    )
    gate = Gate(
        lambda f: f["reward_last"] >= 0.9 * f["reward_before"],
        "the policy that it ended with should keep nine tenths of the held-out reward "
        "({reward_before:.3f} to {reward_last:.3f})",
    )
    key = "reward {reward_before:.2f} → {reward_after:.2f}"
    p.stage(f"{name}/ppo", ppo.main, settings, key, [gate])
    state.newest = folder / "ppo/checkpoint"
    judge(p, config, state, folder / "evaluate_ppo")


def judge(p: Pipeline, config: Config, state: Version, folder: Path) -> None:
    """Evaluate the newest model and compare it with the first chat model."""
    settings = judging(config, state.newest, folder, state.evaluation)
    settings = replace(
        settings, helpfulness=state.rewards["helpfulness"], safety=state.rewards["safety"]
    )
    name = f"{folder.parent.name}/{folder.name}"
    p.stage(name, evaluate.main, settings, evaluation_key(config.world))
    state.evaluations = (*state.evaluations, folder)


def judging(config: Config, model: Path, folder: Path, before: Path | None) -> evaluate.Config:
    """Settings of one evaluation on the held-out files of the data folder."""
    personas = config.data / "personas_held_out.jsonl"
    return replace(
        config.evaluate,
        run=folder,
        model=model,
        before=before,
        world=config.world,
        prompts=config.data / "prompts_held_out.jsonl",
        dialogs=config.data / "dialogs_held_out.jsonl",
        personas=personas if personas.exists() else None,
        seed=steps.derive(config.seed, "evaluate"),
    )


def evaluation_key(world: str) -> str:
    """What the console shows of an evaluation."""
    if judges.world_of(world):
        return "helpful {helpfulness:.2f}, unsafe {violation:.2f}, refused {false_refusal:.2f}"
    return "held-out loss {held_out_loss:.2f}"
