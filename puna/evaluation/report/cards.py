"""The key figures at the top of the report: a number, where it started, and what it means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from puna.evaluation.report import charts
from puna.evaluation.report.reading import duration, fields, number, percent, rows, short


@dataclass(frozen=True)
class Card:
    """One key figure; `track` shows the way from before to after on a line from 0 to 1."""

    label: str
    value: str
    detail: str
    track: Markup


# label, figure, figure to compare with, what to call that one, which way is better
COMPARED = (
    ("Helpfulness", "helpfulness.final", "helpfulness.sft", "after SFT", "higher is better"),
    ("Violations", "violation.final", "violation.sft", "after SFT", "lower is better"),
    ("False refusals", "false_refusal.final", "false_refusal.sft", "after SFT", "lower is better"),
    (
        "Persona kept at turn 6",
        "persona_turn6.gatt",
        "persona_turn6.baseline",
        "without Ghost Attention",
        "higher is better",
    ),
    (
        "Helpfulness reward model",
        "rm.helpfulness.accuracy",
        "rm.helpfulness.accuracy_length_only",
        "by length alone",
        "pairs in the right order",
    ),
    (
        "Safety reward model",
        "rm.safety.accuracy",
        "rm.safety.accuracy_length_only",
        "by length alone",
        "pairs in the right order",
    ),
)


def key_figures(results: Mapping[str, Any]) -> list[Card]:
    """The cards whose figures the results hold, then the cost of the run."""
    figures = fields(results, "figures")
    found = [compared(figures, *entry) for entry in COMPARED]
    return [card for card in (*found, cost(results)) if card]


def compared(
    figures: Mapping[str, Any], label: str, key: str, before_key: str, before_name: str, way: str
) -> Card | None:
    """A figure beside the one it is compared with."""
    after = number(figures.get(key), f"figures.{key}")
    before = number(figures.get(before_key), f"figures.{before_key}")
    if after is None:
        return None
    detail = f"{percent(before)} {before_name}; {way}" if before is not None else way
    return Card(label, percent(after), detail, charts.track(before, after))


def cost(results: Mapping[str, Any]) -> Card | None:
    """The run's time from the stages, or else from the figures, and its energy."""
    stages = rows(results, "stages")
    figures = fields(results, "figures")
    seconds = [number(stage.get("seconds"), "stages.seconds") for stage in stages] or [
        number(value, key) for key, value in figures.items() if key.startswith("seconds.")
    ]
    known = [s for s in seconds if s is not None]
    if not known:
        return None
    energy = [number(stage.get("energy_wh"), "stages.energy_wh") for stage in stages]
    watt_hours = [e for e in energy if e is not None]
    detail = f"{len(known)} stages" + (f", {short(sum(watt_hours))} Wh" if watt_hours else "")
    return Card("Whole run", duration(sum(known)), detail, Markup(""))
