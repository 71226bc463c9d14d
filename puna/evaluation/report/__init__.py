"""The report: one self-contained page from the numbers of a run.

`write(path, results)` makes a single HTML file that opens offline, runs no script and loads
nothing. `results` is the object of `results.json` (docs/results.md describes every field):

    {
      "format": 1,
      "name": "tiny cafe",                  # title of the run
      "final": "stages/v3/checkpoint",      # where the final model is, relative to the run
      "figures": {"helpfulness.sft": 0.61, "helpfulness.final": 0.83, "seconds.sft": 31.0, ...},
      "stages": [{"name", "seconds", "peak_memory_mb", "energy_wh", "figures": {...}}],
      "curves": {"pretrain": [{"step": 10, "loss": 5.1}, ...]},
      "reward_models": {"helpfulness": {...}, "safety": {...}},     # preference.reward_report
      "temperatures": {"n", "max", "median", "best", "best_n"},     # compare.TemperatureCurves
      "versions": [{"name", "helpfulness", "helpfulness_interval", "violation", ...}],
      "persona": {"baseline": {"1": RATE}, "gatt": {"1": RATE}},    # chat.persona_retention
      "samples": [{"prompt": [{"role", "content"}], "before", "after", "kind"}],
      "tables": [{"title", "columns", "rows"}],
      "settings": {...}
    }

A RATE, and every other measured value, is a number or {"value", "low", "high", "n"}. Every field
but "format" may be absent: its section then says that it was not measured.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from puna.errors import InputError
from puna.evaluation.report import alignment, cards, rewards, training
from puna.evaluation.report.blocks import Section
from puna.text.files import write_text

FORMAT = 1
FIELDS = (
    "format",
    "name",
    "final",
    "figures",
    "stages",
    "curves",
    "reward_models",
    "temperatures",
    "versions",
    "persona",
    "samples",
    "tables",
    "settings",
)
SECTIONS: Sequence[Callable[[Mapping[str, Any]], Section | None]] = (
    training.pipeline,
    training.losses,
    rewards.reward_models,
    alignment.temperatures,
    alignment.versions,
    alignment.persona,
    training.ppo,
    training.samples,
    training.further_tables,
    training.settings,
)


def check(results: Mapping[str, Any]) -> None:
    """InputError for another format or for a field that this report does not know."""
    if results.get("format") != FORMAT:
        raise InputError(f"results: format: {FORMAT} was expected, not {results.get('format')!r}")
    unknown = sorted(set(results) - set(FIELDS))
    if unknown:
        raise InputError(f"results: unknown field {unknown[0]!r}; known: {', '.join(FIELDS)}")


def render(results: Mapping[str, Any]) -> str:
    """The page as text. InputError names the field that is not as described above."""
    check(results)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("puna.evaluation.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [section for build in SECTIONS if (section := build(results))]
    return environment.get_template("page.html.j2").render(
        name=str(results.get("name") or "Unnamed run"),
        final=results.get("final"),
        cards=cards.key_figures(results),
        sections=sections,
    )


def write(path: str | Path, results: Mapping[str, Any]) -> None:
    """Write the report to `path`, atomically."""
    write_text(Path(path), render(results))
