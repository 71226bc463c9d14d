"""The whole paper: text → tokenizer → base → chat → V1 ... Vn → report, in one command.

    puna paper presets/tiny/cafe.toml
    puna paper presets/tiny/taskmaster.toml --data ../shared/data

Runs every stage in order and checks what each found; a stage whose check fails stops the run with
one line that says which and why. Run the same command again to go on where it stopped. Ends with
report.html and results.json.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from puna import config as settings_of
from puna.console import Board
from puna.evaluation import report
from puna.model import memory, places
from puna.model.lora import LoraConfig
from puna.recipes import align, compare, evaluate, prepare, pretrain, results, sft, steps
from puna.recipes.align import Config as AlignConfig
from puna.recipes.pipeline import Gate, Pipeline
from puna.recipes.prepare import Config as PrepareConfig
from puna.recipes.pretrain import Config as PretrainConfig
from puna.recipes.sft import Config as SFTConfig
from puna.text.files import write_json


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What a stage must reach before the next one builds on it."""

    stop: bool = True  # false: a failed check is shown and the run goes on
    pretrain_loss: float = 6.0  # most nats a token on held-out text after pretraining
    sft_loss: float = 6.0  # most nats a token on held-out answers after fine-tuning


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/paper")  # folder of everything
    data: Path = Path(".")  # folder that the files named under [prepare] are relative to
    seed: int = 0  # every stage derives its own seed from it
    # a model of any format to start from, with its own tokenizer; [pretrain] is then not read
    base: str = ""
    gates: Gates = field(default_factory=Gates)  # checks between stages
    prepare: PrepareConfig = field(default_factory=PrepareConfig)  # corpus, tokenizer, dialogues
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)  # base model
    sft: SFTConfig = field(default_factory=SFTConfig)  # first chat model
    align: AlignConfig = field(default_factory=AlignConfig)  # V1 ... Vn
    # adapters of every fine-tuning that asks for none of its own; rank=0: every weight is trained
    lora: LoraConfig = field(default_factory=LoraConfig)


def main(config: Config) -> None:
    within = versions(config)
    align.check(within)
    first_stages = ["prepare", *(() if config.base else ("pretrain",)), "sft", "sft/evaluate"]
    names = [*first_stages, *align.plan(within), "compare"]
    with Board([(name, "") for name in names], title=f"puna paper → {config.run}") as board:
        if config.base and config.lora.rank:
            board.note(memory_of_ppo(config))
        pipeline = Pipeline(config.run, board, config.gates.stop)
        first = foundation(pipeline, config, within)
        aligned = align.versions(pipeline, within, first)
        evaluations = (first, *map(Path, aligned["evaluations"]))
        settings = compare.Config(
            run=config.run / "compare",
            evaluations=evaluations,
            names=tuple(version_name(path, config.run) for path in evaluations),
            helpfulness=Path(aligned["helpfulness"]),
            safety=Path(aligned["safety"]),
        )
        pipeline.stage("compare", compare.main, settings, "wins {win_rate_by_reward:.2f} over SFT")
    found = results.collect(config.run, settings_of.dump(config), Path(aligned["final"]))
    write_json(config.run / "results.json", found)
    report.write(config.run / "report.html", found)
    board.console.print(closing(config.run, found))


def versions(config: Config) -> AlignConfig:
    """The settings of V1 ... Vn, on the files that the stages before them write."""
    return replace(
        config.align,
        run=config.run,
        base=base_of(config),
        model=config.run / "sft/checkpoint",
        data=config.run / "prepare",
        world=config.prepare.world,
        gates=config.gates.stop,
        seed=steps.derive(config.seed, "align"),
        lora=config.align.lora if config.align.lora.rank else config.lora,
    )


def memory_of_ppo(config: Config) -> str:
    """What the largest stage will hold: policy, reference, critic and two judges on one trunk."""
    args, ppo = places.open_source(config.base, verify=False).args, config.align.ppo
    found = memory.plan(
        args,
        config.lora,
        models=5,
        trained=2,
        heads=3,
        trained_heads=1,
        rows=min(ppo.rows, ppo.batch_size),
        length=config.prepare.prompt_tokens + ppo.max_tokens,
    )
    return f"the largest stage, PPO: {found.line()}"


def base_of(config: Config) -> Path:
    """The model that every version starts from."""
    return Path(config.base) if config.base else config.run / "pretrain/checkpoint"


def foundation(pipeline: Pipeline, config: Config, within: AlignConfig) -> Path:
    """Corpus, base model, first chat model and its evaluation; returns the evaluation's folder."""
    run, seed = config.run, config.seed
    data = replace(
        config.prepare,
        run=run / "prepare",
        data=config.data,
        tokenizer=config.base or config.prepare.tokenizer,
        seed=steps.derive(seed, "prepare"),
    )
    pipeline.stage("prepare", prepare.main, data, "{documents} documents")
    if not config.base:
        pretrained(pipeline, config, data.run)
    chat = replace(
        config.sft,
        lora=config.sft.lora if config.sft.lora.rank else config.lora,
        run=run / "sft",
        model=base_of(config),
        dialogs=(data.run / "dialogs.jsonl",),
        held_out=data.run / "dialogs_held_out.jsonl",
        seed=steps.derive(seed, "sft"),
    )
    gate = Gate(
        lambda f: f["held_out_loss"] < config.gates.sft_loss,
        f"held-out loss {{held_out_loss:.2f}}, at most {config.gates.sft_loss} was wanted",
    )
    pipeline.stage("sft", sft.main, chat, "loss {held_out_loss:.2f}", [gate])
    judged = align.judging(within, within.model, run / "sft/evaluate", None)
    pipeline.stage("sft/evaluate", evaluate.main, judged, align.evaluation_key(within.world))
    return judged.run


def pretrained(pipeline: Pipeline, config: Config, data: Path) -> None:
    """The base model, from the corpus."""
    settings = replace(
        config.pretrain,
        run=config.run / "pretrain",
        data=data,
        seed=steps.derive(config.seed, "pretrain"),
    )
    gate = Gate(
        lambda f: f["held_out_loss"] < config.gates.pretrain_loss,
        f"held-out loss {{held_out_loss:.2f}}, at most {config.gates.pretrain_loss} was wanted",
    )
    key = "loss {held_out_loss:.2f}, {tokens_per_second:.0f} tokens/s, MFU {mfu:.0%}"
    pipeline.stage("pretrain", pretrain.main, settings, key, [gate])


def version_name(evaluation: Path, run: Path) -> str:
    """ "sft/evaluate" → "sft", "v1/evaluate_distill" → "v1+distill"."""
    folder, name = evaluation.relative_to(run).parts[:2]
    return folder + name.removeprefix("evaluate").replace("_", "+")


def closing(run: Path, found: dict) -> str:
    """The last words on the console: what came out and how to talk to it."""
    shown: Sequence[tuple[str, str]] = (
        ("helpfulness", "helpfulness by ground truth"),
        ("violation", "unsafe answers"),
        ("false_refusal", "false refusals"),
    )
    figures = found["figures"]
    program = sys.argv[0] if Path(sys.argv[0]).name == "puna" else "python -m puna"
    lines = [
        f"{text}: {figures[f'{name}.sft']:.2f} after SFT, {figures[f'{name}.final']:.2f} at the end"
        for name, text in shown
        if f"{name}.sft" in figures
    ]
    lines += [
        "",
        f"report    {run / 'report.html'}",
        f"results   {run / 'results.json'}",
        f"talk      {program} chat {run}",
    ]
    return "\n".join(lines)
