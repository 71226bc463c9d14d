"""The report's sections about the run itself: pipeline, loss curves, PPO, samples, settings.

What the results do not hold is said in the section (`missing`) and never made up.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from puna.evaluation.report import charts
from puna.evaluation.report.blocks import Chart, Sample, Section, Table
from puna.evaluation.report.charts import Axes, Point, Series
from puna.evaluation.report.reading import (
    Results,
    duration,
    fields,
    flat,
    memory,
    number,
    rows,
    short,
    text,
    thinned,
    words,
)


def pipeline(results: Results) -> Section:
    """Time, memory and energy of each stage."""
    stages = rows(results, "stages")
    lead = (
        "Every stage ran in this order, each starting from the files of the ones before. Time is "
        "wall-clock time, summed over restarts; memory is the peak of the process; energy is an "
        "estimate from processor time."
    )
    if not stages:
        missing = ["The results hold no stages."]
        return Section("pipeline", "The pipeline", "Figure 4", lead, missing=missing)
    seconds = [number(s.get("seconds"), "stages: seconds") or 0.0 for s in stages]
    longest, energy = max(seconds) or 1.0, [s.get("energy_wh") for s in stages]
    body = [
        [
            words(text(s, "name", "stages")),
            duration(s.get("seconds")),
            memory(s.get("peak_memory_mb")),
            short(s.get("energy_wh")),
            key_figures(fields(s, "figures")),
        ]
        for s in stages
    ]
    peak = max((number(s.get("peak_memory_mb"), "stages") or 0.0 for s in stages), default=0.0)
    watt_hours = sum(number(e, "stages: energy_wh") or 0.0 for e in energy)
    total = ["Together", duration(sum(seconds)), memory(peak or None), short(watt_hours), ""]
    columns = ("Stage", "Time", "Peak memory", "Energy, Wh", "What it reached")
    table = Table("", columns, body, [s / longest for s in seconds], total)
    return Section("pipeline", "The pipeline", "Figure 4", lead, tables=[table])


# What tells most about a stage, in this order; a stage without any of them shows its first numbers.
TELLING = (
    "helpfulness",
    "violation",
    "persona_turn6",
    "accuracy",
    "accuracy_significantly_better",
    "accuracy_length_only",
    "auc",
    "auc_floor",
    "reward_mean",
    "reward_best_of_k",
    "temperature",
    "reward_before",
    "reward_after",
    "kl",
    "ghost_examples",
    "context_kept",
    "context_asked",
    "helpfulness_pairs",
    "safety_pairs",
    "held_out_loss",
)


def key_figures(figures: Mapping[str, Any], limit: int = 3) -> str:
    """The most telling numbers of a stage in words."""
    found = [(k, v) for k, v in flat(figures) if isinstance(v, (int, float))]
    found.sort(key=lambda pair: TELLING.index(pair[0]) if pair[0] in TELLING else len(TELLING))
    kept = found[:limit]
    return ", ".join(f"{words(key)} {short(value)}" for key, value in kept)


def curve(records: Sequence[Mapping[str, Any]], name: str, where: str) -> list[Point]:
    """One field of a stage's metrics against the step; records without the field are skipped."""
    found = []
    for record in records:
        step, y = number(record.get("step"), f"{where}: step"), number(record.get(name), where)
        if step is not None and y is not None:
            found.append(Point(step, y))
    return found


# PPO logs the two rewards and their combination under their own names.
ALSO = {"reward": ("combined", "helpfulness", "safety")}


def names_with(records: Iterable[Mapping[str, Any]], part: str) -> list[str]:
    """The numeric fields of a family, by a word in the name, in order of appearance."""
    seen = {k: None for r in records for k, v in r.items() if isinstance(v, (int, float))}
    return [
        name for name in seen if name != "step" and (part in name or name in ALSO.get(part, ()))
    ]


def curve_chart(
    stage: str, records: Sequence[Mapping[str, Any]], part: str, title: str, how: str
) -> Chart | None:
    """All fields of a family as lines: raw points faint, their running mean above."""
    series: list[Series] = []
    for colour, name in enumerate(names_with(records, part)):
        points = curve(records, name, f"curves.{stage}.{name}")
        if not points:
            continue
        if len(points) > 60:
            series.append(Series(name, thinned(points, 260), faint=True, colour=colour))
        series.append(Series(words(name), thinned(points, 40), colour=colour))
    if not series:
        return None
    axes = Axes("Step", words(part), y_text=lambda v: f"{v:.3g}")
    return Chart(title, "", charts.line_chart(series, axes), how)


def losses(results: Results) -> Section:
    """A loss curve for each stage that logged one."""
    lead = (
        "The loss is the mean negative log-likelihood a token, or of a pair for a reward model. "
        "It should fall and flatten; a validation loss that rises again means over-fitting."
    )
    found = []
    for stage, records in curves(results):
        if not names_with(records, "kl"):
            chart = curve_chart(stage, records, "loss", words(stage), "")
            found += [chart] if chart else []
    missing = [] if found else ["The results hold no loss curves."]
    return Section("losses", "Loss curves", "Figure 5", lead, found, missing=missing)


def curves(results: Results) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The stages' metrics in their order; InputError where a record is not an object."""
    given = fields(results, "curves")
    return [(str(stage), rows(given, stage, f"curves.{stage}")) for stage in given]


def ppo(results: Results) -> Section:
    """Reward and divergence during PPO."""
    lead = (
        "PPO moves the policy towards answers with a higher reward, and pays for every step away "
        "from where it started. The reward should rise while the divergence stays small."
    )
    found = []
    for stage, records in curves(results):
        if names_with(records, "kl"):
            for part, title in (("reward", "reward"), ("kl", "divergence from the start (KL)")):
                chart = curve_chart(stage, records, part, f"{words(stage)}: {title}", "")
                found += [chart] if chart else []
    missing = [] if found else ["The results hold no PPO curves."]
    return Section("ppo", "PPO", "Section 3.2.3", lead, found, missing=missing)


def samples(results: Results) -> Section:
    """Dialogues before and after, side by side."""
    lead = "The same prompt, answered after supervised fine-tuning and by the final model."
    found = [sample(record) for record in rows(results, "samples")]
    missing = [] if found else ["The results hold no sample dialogues."]
    return Section("samples", "Before and after", "", lead, samples=found, missing=missing)


def sample(record: Mapping[str, Any]) -> Sample:
    """One entry of "samples"; InputError names the field that is not a text."""
    where = "samples.prompt"
    return Sample(
        messages=[
            (text(message, "role", where), text(message, "content", where))
            for message in rows(record, "prompt", where)
        ],
        before=text(record, "before", "samples"),
        after=text(record, "after", "samples"),
        kind=str(record.get("kind") or ""),
    )


def further_tables(results: Results) -> Section | None:
    """Further tables that the results bring along; None without any."""
    tables = [
        Table(
            text(t, "title", "tables"),
            [str(c) for c in t.get("columns", [])],
            [[v if isinstance(v, str) else short(v) for v in row] for row in t.get("rows", [])],
        )
        for t in rows(results, "tables")
    ]
    return Section("tables", "Further tables", "", "", tables=tables) if tables else None


def settings(results: Results) -> Section:
    """Every setting of the run."""
    lead = "What this run was given; the same settings give the same run again."
    body = [[key, str(value)] for key, value in flat(fields(results, "settings"))]
    if not body:
        missing = ["The results hold no settings."]
        return Section("settings", "Settings", "", lead, missing=missing)
    table = Table("", ("Setting", "Value"), body)
    return Section("settings", "Settings", "", lead, tables=[table], folded=True)
