"""Recipes with adapters: every step of the alignment on one trunk, stopped, resumed, refused."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from puna import cli, config, console
from puna.errors import InputError
from puna.model import checkpoint, lora
from puna.model.lora import LoraConfig
from puna.model.transformer import Transformer
from puna.numerics.optim import OptimConfig
from puna.recipes import align, distill, paper, ppo, rejection, results, reward, sft, steps
from puna.recipes.sft import Tuning
from puna.run import Run
from puna.text.dialog import Dialog, Message, Preference
from puna.text.files import read_json, sha256, write_dialogs, write_preferences
from puna.text.tokenizer import Tokenizer
from tests.conftest import SENTENCES
from tests.faults import Killed
from tests.models import ARGS, generator

LORA = LoraConfig(rank=4, alpha=8)
SMALL = replace(ARGS, max_seq_len=160)
TUNING = Tuning(epochs=2, batch_size=2, micro_batch_size=1, seq_len=128, save_every=2,
                optim=OptimConfig(lr=1e-2))  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Path:
    """A base model, dialogues, prompts and preferences."""
    folder = tmp_path_factory.mktemp("lora")
    model = Transformer(SMALL).init_weights(generator())
    checkpoint.save(folder / "base", model, tiny_tokenizer)
    prompts = [
        Dialog((Message("user", text[:24]),), tags={"safety": number % 2 == 1})
        for number, text in enumerate(SENTENCES)
    ]
    answered = [p.with_answer(t[:30]) for p, t in zip(prompts, SENTENCES[::-1], strict=True)]
    write_dialogs(folder / "prompts.jsonl", prompts)
    write_dialogs(folder / "dialogs.jsonl", answered)
    pairs = [Preference(p, "Yes, of course.", "No", safety="chosen_safe") for p in prompts]
    write_preferences(folder / "pairs.jsonl", pairs)
    return folder


def fine_tuning(data: Path, run: Path, adapters: LoraConfig = LORA) -> dict:
    settings = sft.Config(
        run=run, model=data / "base", dialogs=(data / "dialogs.jsonl",), tuning=TUNING,
        lora=adapters,
    )  # fmt: skip
    return sft.main(settings)


def rewarding(data: Path, run: Path, model: Path, kind: str = "helpfulness", **more) -> dict:
    settings = reward.Config(
        kind=kind, run=run, model=model, preferences=(data / "pairs.jsonl",), lora=LORA,
        held_out=(data / "pairs.jsonl",), batch_size=3, save_every=2,
        optim=OptimConfig(lr=1e-2, warmup=0),
    )  # fmt: skip
    return reward.main(replace(settings, **more))


def optimising(data: Path, run: Path, **more) -> dict:
    settings = ppo.Config(
        run=run, model=data / "sft/checkpoint", helpfulness=data / "helpfulness/checkpoint",
        safety=data / "safety/checkpoint", prompts=data / "prompts.jsonl",
        held_out=data / "prompts.jsonl", steps=4, batch_size=4, mini_batch_size=2, max_tokens=6,
        rows=4, eval_every=1, eval_prompts=4, patience=9, save_every=2, lora=LORA,
        optim=OptimConfig(lr=1e-2),
    )  # fmt: skip
    return ppo.main(replace(settings, **more))


@pytest.fixture(scope="module")
def chat(data: Path) -> Path:
    """The folder with a chat adapter and two reward adapters on its base."""
    fine_tuning(data, data / "sft")
    for kind in ("helpfulness", "safety"):
        rewarding(data, data / kind, data / "sft/checkpoint", kind)
    return data


def pointers(model: nn.Module) -> set[int]:
    """Where the frozen tensors of a model are in memory."""
    return {p.data_ptr() for p in model.parameters() if not p.requires_grad}


def trunk_pointers(model: nn.Module) -> set[int]:
    """Where all tensors but adapters and heads are in memory."""
    own = {t.data_ptr() for t in lora.adapter_tensors(model).values()}
    named = [p for n, p in model.named_parameters() if not n.startswith("head.")]
    return {p.data_ptr() for p in named} - own


def adapter(run: Path) -> str:
    return sha256(run / "checkpoint/adapter_model.safetensors")


def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int, main: Callable[[], dict]) -> None:
    """Run, and end as if killed after logging a step."""
    log = Run.log

    def stopping(run: Run, number: int, **numbers: object) -> None:
        log(run, number, **numbers)
        if number == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stopping)
        with pytest.raises(Killed):
            main()


# --- training


def test_fine_tuning_with_adapters_learns_and_saves_an_adapter(data, tmp_path):
    fine_tuning(data, tmp_path / "run")
    curve = results.curve(tmp_path / "run")
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert not (tmp_path / "run/checkpoint/model.safetensors").exists()
    found = read_json(tmp_path / "run/checkpoint/adapter_config.json")
    assert (found["r"], found["lora_alpha"]) == (4, 8)


def test_training_leaves_the_base_as_it_was(data, tmp_path):
    before = sha256(data / "base/model.safetensors")
    fine_tuning(data, tmp_path / "run")
    model, _ = checkpoint.load(tmp_path / "run/checkpoint")
    plain, _ = checkpoint.load(data / "base")
    kept = {name.replace(".base.", "."): t for name, t in model.state_dict().items()}
    assert all(torch.equal(kept[name], t) for name, t in plain.state_dict().items())
    assert sha256(data / "base/model.safetensors") == before


def test_fine_tuning_with_the_same_seed_gives_the_same_bytes(data, tmp_path):
    for name in ("one", "two"):
        fine_tuning(data, tmp_path / name)
    assert adapter(tmp_path / "one") == adapter(tmp_path / "two")


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_fine_tuning_on_a_quantised_trunk_learns(data, tmp_path, kind):
    fine_tuning(data, tmp_path / "run", replace(LORA, base=kind))
    curve = results.curve(tmp_path / "run")
    assert curve[-1]["loss"] < curve[0]["loss"]
    loaded, _ = checkpoint.load(tmp_path / "run/checkpoint")
    assert lora.config_of(loaded).base == kind


def test_a_reward_adapter_starts_from_the_chat_adapter(chat, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(steps, "announce_memory", lambda model, **_: seen.append(lora.share(model)))
    rewarding(chat, tmp_path / "run", chat / "sft/checkpoint")
    started, (model,) = checkpoint.load(chat / "sft/checkpoint")[0], seen
    one, two = lora.adapter_tensors(started), lora.adapter_tensors(model)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert pointers(started) == pointers(model)


def test_a_reward_model_of_another_rank_than_its_chat_adapter_is_refused(chat, tmp_path):
    with pytest.raises(InputError, match=r"lora\.rank=4, .* lora\.rank=2 was asked for"):
        more = {"lora": LoraConfig(rank=2, alpha=8)}
        rewarding(chat, tmp_path / "run", chat / "sft/checkpoint", **more)


def test_ppo_holds_policy_reference_critic_and_judges_on_one_trunk(chat, tmp_path, monkeypatch):
    seen: list[nn.Module] = []
    monkeypatch.setattr(steps, "announce_memory", lambda m, beside, **_: seen.extend((m, *beside)))
    optimising(chat, tmp_path / "run")
    policy, reference, critic, helpfulness, safety = seen
    trunk = trunk_pointers(policy)
    assert len(trunk) == len(list(Transformer(SMALL).parameters()))
    for model in (reference, critic, helpfulness, safety):
        assert trunk_pointers(model) == trunk
    plain, _ = checkpoint.load(chat / "base")
    kept = {n.replace(".base.", "."): p for n, p in policy.named_parameters()}
    assert all(torch.equal(kept[name], p) for name, p in plain.named_parameters())


def test_ppo_moves_policy_and_critic_and_nothing_else(chat, tmp_path, monkeypatch):
    seen: list[nn.Module] = []
    monkeypatch.setattr(steps, "announce_memory", lambda m, beside, **_: seen.extend((m, *beside)))
    optimising(chat, tmp_path / "run")
    start = lora.adapter_tensors(checkpoint.load(chat / "sft/checkpoint")[0])
    judged = lora.adapter_tensors(checkpoint.load_reward(chat / "helpfulness/checkpoint")[0])
    policy, reference, critic, helpfulness, _ = map(lora.adapter_tensors, seen)
    assert all(torch.equal(start[name], reference[name]) for name in start)
    assert all(torch.equal(judged[name], helpfulness[name]) for name in judged)
    assert not all(torch.equal(start[name], policy[name]) for name in start)
    assert not all(torch.equal(judged[name], critic[name]) for name in judged)


def test_ppo_with_adapters_starts_from_whole_models_too(data, tmp_path, monkeypatch):
    seen: list[nn.Module] = []
    whole = LoraConfig()
    fine_tuning(data, tmp_path / "sft", whole)
    for kind in ("helpfulness", "safety"):
        rewarding(data, tmp_path / kind, tmp_path / "sft/checkpoint", kind, lora=whole)
    announce = steps.announce_memory

    def keep(model: Transformer, beside, **counts) -> None:
        seen.extend((model, *beside))
        announce(model, beside, **counts)

    monkeypatch.setattr(steps, "announce_memory", keep)
    places = {
        "model": tmp_path / "sft/checkpoint",
        "helpfulness": tmp_path / "helpfulness/checkpoint",
        "safety": tmp_path / "safety/checkpoint",
    }
    optimising(data, tmp_path / "ppo", **places)
    policy, reference, critic, helpfulness, _ = seen
    assert trunk_pointers(policy) == trunk_pointers(reference)
    assert trunk_pointers(critic) == trunk_pointers(helpfulness)
    assert (tmp_path / "ppo/checkpoint/adapter_config.json").exists()


def test_rejection_and_distillation_with_adapters_end_with_adapters(chat, tmp_path):
    chosen = rejection.Config(
        run=tmp_path / "rejection", base=chat / "base", model=chat / "sft/checkpoint",
        helpfulness=chat / "helpfulness/checkpoint", safety=chat / "safety/checkpoint",
        prompts=chat / "prompts.jsonl", dialogs=(chat / "dialogs.jsonl",), samples=2,
        temperatures=(1.0,), sweep_prompts=2, max_tokens=6, rows=8, tuning=TUNING, lora=LORA,
    )  # fmt: skip
    rejection.main(chosen)
    told = distill.Config(
        run=tmp_path / "distill", model=tmp_path / "rejection/checkpoint", personas=None,
        helpfulness=chat / "helpfulness/checkpoint", safety=chat / "safety/checkpoint",
        prompts=chat / "prompts.jsonl", replay=(chat / "dialogs.jsonl",), max_tokens=6, rows=8,
        preprompts=("Be kind.",), tuning=TUNING, lora=LORA,
    )  # fmt: skip
    distill.main(told)
    models = [checkpoint.load(tmp_path / n / "checkpoint")[0] for n in ("rejection", "distill")]
    assert pointers(models[0]) == pointers(models[1])
    assert adapter(tmp_path / "rejection") != adapter(tmp_path / "distill")


# --- stopped and resumed


@pytest.mark.parametrize("stop", [0, 2, 3])
def test_fine_tuning_with_adapters_goes_on_bit_for_bit(data, tmp_path, monkeypatch, stop):
    fine_tuning(data, tmp_path / "whole")
    assert results.curve(tmp_path / "whole")[-1]["step"] >= 3
    run = tmp_path / "stopped"
    stopped_at(monkeypatch, stop, lambda: fine_tuning(data, run))
    assert (run / "state").exists() == (stop >= 2)
    fine_tuning(data, run)
    assert adapter(run) == adapter(tmp_path / "whole")
    assert results.curve(run) == results.curve(tmp_path / "whole")


@pytest.mark.parametrize("stop", [0, 2])
def test_ppo_with_adapters_goes_on_bit_for_bit(chat, tmp_path, monkeypatch, stop):
    optimising(chat, tmp_path / "whole")
    run = tmp_path / "stopped"
    stopped_at(monkeypatch, stop, lambda: optimising(chat, run))
    optimising(chat, run)
    assert adapter(run) == adapter(tmp_path / "whole")
    assert results.curve(run) == results.curve(tmp_path / "whole")


def test_a_state_is_small_beside_its_trunk(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    stopped_at(monkeypatch, 2, lambda: fine_tuning(data, run))
    [state] = (run / "state").iterdir()
    numbers = sum(t.numel() for t in lora.adapter_tensors(adapted(data)).values())
    stored = (state / "modules.safetensors").stat().st_size
    assert 4 * numbers <= stored < 4 * numbers + 8192


def adapted(data: Path) -> Transformer:
    return checkpoint.load_tuned(data / "base", LORA, generator())[0]


# --- the console


def said(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the console was told."""
    display = console.Display(Console(file=(text := io.StringIO()), width=200))
    with monkeypatch.context() as patch:
        patch.setattr(console, "current", lambda: display)
        action()
    return text.getvalue()


def test_the_memory_plan_is_told_before_a_training_with_adapters(chat, tmp_path, monkeypatch):
    text = said(lambda: optimising(chat, tmp_path / "run"), monkeypatch)
    [line] = [line for line in text.splitlines() if line.startswith("memory:")]
    assert "(shared by 5) + adapters 5 x " in line
    numbers = sum(t.numel() for t in lora.adapter_tensors(adapted(chat)).values())
    assert f"gradients {4 * (2 * numbers + 33) / 1e3:.1f} kB" in line  # two adapters and a head


def test_without_adapters_there_is_no_memory_plan(data, tmp_path, monkeypatch):
    action = lambda: fine_tuning(data, tmp_path / "run", LoraConfig())  # noqa: E731
    assert "memory:" not in said(action, monkeypatch)


def test_models_on_another_trunk_are_counted_whole(data, monkeypatch):
    model, other = adapted(data), checkpoint.load(data / "base")[0]
    text = said(lambda: steps.announce_memory(model, (other, lora.share(model))), monkeypatch)
    weights = sum(p.nbytes for p in other.parameters())
    assert "(shared by 2)" in text
    assert f"other models {weights / 1e3:.0f} kB" in text


# --- settings


@pytest.mark.parametrize("recipe", [sft, reward, rejection, distill, ppo, align, paper])
def test_every_recipe_that_tunes_takes_the_settings_of_adapters(recipe):
    given = config.load(recipe.Config, ["--lora.rank=16", "--lora.targets=wq,wv"])
    assert given.lora == LoraConfig(rank=16, targets=("wq", "wv"))


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("--lora.rank=-1", "lora.rank is -1, expected 0"),
        ("--lora.alpha=nan", "lora.alpha is nan, expected a positive number"),
        ("--lora.targets=wq,up", "lora.targets is 'wq,up', expected some of wq,wk"),
        ("--lora.base=int4", "expected one of none, int8, nf4"),
    ],
)
def test_a_bad_setting_on_the_command_line_is_refused_in_one_line(word, wanted, capsys):
    assert cli.main(["sft", word]) == 2
    text = capsys.readouterr().err
    assert wanted in text and text.count("\n") == 1


def test_the_adapters_of_a_whole_run_are_those_of_every_stage_without_its_own():
    own = LoraConfig(rank=2)
    given = align.Config(lora=LORA, helpfulness=reward.Config(lora=own))
    assert align.adapted(given, given.helpfulness).lora == own
    assert align.adapted(given, given.safety).lora == LORA
    assert paper.versions(paper.Config(lora=LORA)).lora == LORA
    assert align.adapted(align.Config(), ppo.Config()).lora == LoraConfig()
