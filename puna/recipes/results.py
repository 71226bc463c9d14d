"""results.json: everything a run found, gathered from its stages (docs/results.md: the format)."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna.errors import InputError
from puna.text.files import read_dialogs, read_json

FORMAT = 1
SAMPLES_PER_KIND = 2  # dialogues of each kind that the report shows
MACHINE = {  # what depends on the machine and its load
    *("seconds", "cpu_seconds", "energy_wh", "energy_how", "peak_memory_mb"),
    *("tokens_per_second", "mfu", "matmul_gflops"),
}


def collect(run: Path, settings: str, final: Path) -> dict[str, Any]:
    """The results of a finished run; `final`: last checkpoint, `settings`: the resolved TOML."""
    stages = [stage(path.parent, run) for path in ordered(run)]
    versions = read_json(run / "compare/versions.json")
    last_models = {kind: newest(run, kind) for kind in ("helpfulness", "safety")}
    result: dict[str, Any] = {
        "format": FORMAT,
        "name": run.name,
        "final": str(final.relative_to(run)),
        "figures": {},
        "stages": stages,
        "curves": {
            s["name"]: curve(run / s["name"])
            for s in stages
            if (run / s["name"] / "metrics.jsonl").exists()
        },
        "reward_models": {k: read_json(path / "report.json") for k, path in last_models.items()},
        "temperatures": read_json(newest(run, "rejection") / "rejection.json")["temperatures"],
        "versions": [version(row) for row in versions],
        "samples": samples(run, final),
        "settings": tomllib.loads(settings),
    }
    result["persona"] = personas(run)
    result["figures"] = figures(run, result, versions, last_models)
    return result


def ordered(run: Path) -> list[Path]:
    """The stage.json of all finished stages, oldest first."""
    return sorted(run.glob("**/stage.json"), key=lambda path: path.stat().st_mtime_ns)


def stage(folder: Path, run: Path) -> dict[str, Any]:
    """One stage: its name (the folder's), what it cost and what it found."""
    return {"name": str(folder.relative_to(run)), **read_json(folder / "stage.json")}


def curve(folder: Path) -> list[dict[str, Any]]:
    """The stage's metrics without the wall clock."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def newest(run: Path, name: str) -> Path:
    """The folder of that stage in the last version that has it."""
    found = sorted(run.glob(f"v*/{name}/stage.json"), key=lambda path: int(path.parts[-3][1:]))
    if not found:
        raise InputError(f"{run}: no version has a finished stage {name!r}")
    return found[-1].parent


def version(row: dict[str, Any]) -> dict[str, Any]:
    """One point of Figure 11: values, and intervals where there are any."""
    result: dict[str, Any] = {"name": row["name"]}
    for name, value in row.items():
        if isinstance(value, dict) and "value" in value:
            result[name] = value["value"]
            result[f"{name}_interval"] = [value["low"], value["high"]]
    return result


def personas(run: Path) -> dict[str, dict[str, float]]:
    """Persona retention by turn before and after Ghost Attention, and at the end (Table 30)."""
    result = {}
    for distilled in sorted(run.glob("v*/evaluate_distill/evaluation.json")):
        before = distilled.parent.parent / "evaluate/evaluation.json"
        result = {"baseline": retention(before), "gatt": retention(distilled)}
    last = sorted(run.glob("v*/evaluate_ppo/evaluation.json"))
    if last:
        result["final"] = retention(last[-1])
    return {name: rates for name, rates in result.items() if rates}


def retention(path: Path) -> dict[str, float]:
    """Share of answers that keep the persona, by turn."""
    return {turn: rate["value"] for turn, rate in read_json(path).get("persona", {}).items()}


def samples(run: Path, final: Path) -> list[dict[str, Any]]:
    """A few held-out prompts of each kind, answered by the first chat model and the final one."""
    before = read_dialogs(run / "sft/evaluate/answers.jsonl")
    latest = read_dialogs(evaluation_of(run, final) / "answers.jsonl")
    shown: dict[str, int] = {}
    result = []
    for old, new in zip(before, latest, strict=True):
        kind = str(old.tags.get("kind", "dialog"))
        if shown.get(kind, 0) == SAMPLES_PER_KIND:
            continue
        shown[kind] = shown.get(kind, 0) + 1
        prompt = [{"role": m.role, "content": m.content} for m in old.prompt().messages]
        result.append({"prompt": prompt, "before": old.answer, "after": new.answer, "kind": kind})
    return result


def evaluation_of(run: Path, checkpoint: Path) -> Path:
    """The evaluation of a stage's checkpoint: v2/ppo/checkpoint → v2/evaluate_ppo."""
    folder = checkpoint.parent
    suffix = "" if folder.name == "rejection" else f"_{folder.name}"
    return folder.parent / f"evaluate{suffix}"


def figures(
    run: Path, result: dict[str, Any], versions: list[dict], models: dict[str, Path]
) -> dict[str, float]:
    """The flat figures that a script reads."""
    found: dict[str, float] = {}
    for kind, folder in models.items():
        for name, value in read_json(folder / "stage.json")["figures"].items():
            found[f"rm.{kind}.{name}"] = value
    names = (
        "helpfulness",
        "violation",
        "false_refusal",
        "reward_helpfulness",
        "reward_safety",
        "held_out_loss",
    )
    for name in names:
        for when, row in (("sft", versions[0]), ("final", versions[-1])):
            if isinstance(row.get(name), dict):
                found[f"{name}.{when}"] = row[name]["value"]
    for name in ("win_rate", "win_rate_by_reward"):
        if name in versions[-1]:
            found[f"{name}.final"] = versions[-1][name]["value"]
    for which, rates in result["persona"].items():
        if "6" in rates:
            found[f"persona_turn6.{which}"] = rates["6"]
    for each in result["stages"]:
        found[f"seconds.{each['name'].replace('/', '_')}"] = each["seconds"]
    found["seconds.total"] = sum(each["seconds"] for each in result["stages"])
    return found


def repeatable(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the same settings and seed give again: without times, costs, speeds and the folder."""
    found = without_costs(results)
    found.pop("name", None)
    found.get("settings", {}).pop("run", None)
    return found


def without_costs(value: Any) -> Any:
    """The value without the fields that depend on the machine, at every depth."""
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if k.partition(".")[0] not in MACHINE}
        return {k: without_costs(v) for k, v in kept.items()}
    return [without_costs(each) for each in value] if isinstance(value, list) else value
