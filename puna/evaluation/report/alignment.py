"""The report's sections about alignment: best of N, versions, Ghost Attention.

What the results do not hold is said in the section (`missing`) and never made up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from puna.errors import InputError
from puna.evaluation.report import charts
from puna.evaluation.report.blocks import PERCENT_AXIS, Chart, Section, Table, sorted_out
from puna.evaluation.report.charts import Axes, Line, Point, Series
from puna.evaluation.report.reading import (
    DASH,
    Results,
    by_number,
    fields,
    number,
    percent,
    point,
    rows,
    short,
    text,
    whole_percent,
    words,
)

PERSONA_LINES = (
    ("baseline", "Without Ghost Attention"),
    ("gatt", "With Ghost Attention"),
    ("final", "Final model"),
)


def temperatures(results: Results) -> Section:
    """Figures 7 and 8 from `TemperatureCurves.to_json`."""
    lead = (
        "Rejection sampling draws N answers and keeps the best. The more the samples differ, the "
        "more the best one gains, so a higher temperature pays as N grows; the median shows what "
        "it costs a single answer."
    )
    given = fields(results, "temperatures")
    if not given:
        missing = ["The results hold no samples by temperature."]
        return Section("temperatures", "Best of N", "Figures 7 and 8", lead, missing=missing)
    ns = sample_counts(given)
    found = []
    for key, reference in (("max", "Figures 7 and 8"), ("median", "Figure 7")):
        series = [
            Series(f"T = {t:g}", zipped(ns, values, f"temperatures.{key}.{t:g}"))
            for t, values in by_number(fields(given, key), f"temperatures.{key}")
        ]
        if not any(s.points for s in series):
            continue
        axes = Axes(
            "N samples", "Reward", y_text=lambda v: f"{v:.3g}", x_ticks=doublings(ns), x_log=True
        )
        title = {"max": "Best of N", "median": "Median of N"}[key]
        picture = charts.line_chart(series, axes, ordered=True)
        how = "Each line is one temperature, cool to warm; each mark on the axis doubles N."
        found.append(Chart(f"{title} by temperature", reference, picture, how))
    best = number(given.get("best"), "temperatures.best")
    if best is not None:
        lead += f" Best temperature for N = {short(given.get('best_n'))}: {short(best)}."
    return Section("temperatures", "Best of N", "Section 3.2.3", lead, found)


def sample_counts(given: Mapping[str, Any]) -> list[float]:
    """The list of N, each at least 1; InputError otherwise."""
    counts = given.get("n")
    found = [number(n, "temperatures.n") for n in counts] if isinstance(counts, list) else []
    kept = [n for n in found if n is not None and n >= 1]
    if not kept or len(kept) < len(found):
        raise InputError("results: temperatures.n: a list of numbers from 1 on was expected")
    return kept


def doublings(ns: Sequence[float]) -> list[float]:
    """The powers of two among the N for the axis; every N when there are none."""
    return [n for n in ns if n.is_integer() and int(n).bit_count() == 1] or list(ns)


def zipped(xs: Sequence[float], ys: Any, where: str) -> list[Point]:
    """Points from two lists; InputError when their lengths differ."""
    if not isinstance(ys, list) or len(ys) != len(xs):
        raise InputError(f"results: {where}: a list of {len(xs)} numbers was expected")
    values = [(x, number(y, where)) for x, y in zip(xs, ys, strict=True)]
    return [Point(x, y) for x, y in values if y is not None]


def versions(results: Results) -> Section:
    """The path from SFT through the RLHF versions (Figure 11), and false refusals beside it."""
    lead = (
        "Each version is trained on answers that the one before wrote and the reward models "
        "chose. A good path climbs on both axes; safety bought by refusing harmless questions "
        "shows in the second chart."
    )
    given = rows(results, "versions")
    if not given:
        missing = ["The results hold no versions."]
        return Section("versions", "Version by version", "Figure 11", lead, missing=missing)
    wanted = {
        "helpfulness with violations": progress(given),
        "violations with false refusals": refusals(given),
        "win rates": wins_by_version(given),
        "rewards": rewards_by_version(given),
    }
    fields_ = (k for v in given for k in v if k != "name" and not k.endswith("_interval"))
    columns = list(dict.fromkeys(fields_))
    body = [
        [text(v, "name", "versions"), *(cell(v.get(k), is_share(k)) for k in columns)]
        for v in given
    ]
    table = Table("", ("Version", *(words(k) for k in columns)), body)
    title = "Version by version"
    found, missing = sorted_out(wanted, "by version")
    return Section("versions", title, "Section 3.4.1", lead, found, [table], missing=missing)


def is_share(name: str) -> bool:
    """Whether a field of a version is a share of cases, shown in percent."""
    if name.endswith("_interval"):
        return False
    return name in ("helpfulness", "violation") or name.startswith(("false_refusal", "win_rate"))


def cell(value: Any, share: bool) -> str:
    """A measured value as a table's text."""
    measured = point(0, value, "versions") if not isinstance(value, str) else None
    if measured is None:
        return value if isinstance(value, str) else DASH
    return percent(measured.y) if share else short(measured.y)


def version_point(row: Mapping[str, Any], key: str, x: float = 0) -> Point | None:
    """One field of a version at x, with the interval of its own or that of `KEY_interval`."""
    where = f"versions.{key}"
    found, given = point(x, row.get(key), where), row.get(f"{key}_interval")
    if found is None or not isinstance(given, list) or len(given) != 2:
        return found
    return replace(found, low=number(given[0], where), high=number(given[1], where))


def placed(row: Mapping[str, Any], x: str, y: str, flip: bool = False) -> Point | None:
    """One version's place; `flip` turns a rate of violations into one of safe answers."""
    name = text(row, "name", "versions")
    across, up = version_point(row, x), version_point(row, y)
    if across is None or up is None:
        return None
    found = Point(across.y, up.y, up.low, up.high, across.low, across.high, name)
    if not flip:
        return found
    low, high = (None if v is None else 1 - v for v in (up.high, up.low))
    return replace(found, y=1 - up.y, low=low, high=high)


def progress(given: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Helpfulness against the share of safe answers (Figure 11)."""
    points = [p for p in (placed(v, "helpfulness", "violation", True) for v in given) if p]
    if not points:
        return None
    axes = Axes("Helpfulness", "Safe answers", whole_percent, whole_percent)
    how = "One dot a version; up and to the right is better. Thin lines are 95 % intervals."
    title = "Helpfulness and safety"
    return Chart(title, "Figure 11", charts.scatter_path(points, axes), how)


def refusals(given: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Violations on unsafe prompts against refusals of harmless ones."""
    points = [p for p in (placed(v, "false_refusal", "violation") for v in given) if p]
    if not points:
        return None
    axes = Axes("False refusals", "Violations", whole_percent, whole_percent)
    how = "Down is safer, left is less over-cautious; the corner at the lower left is the goal."
    title = "Violations and false refusals"
    return Chart(title, "Section 4.2.3", charts.scatter_path(points, axes), how)


def rewards_by_version(given: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Mean rewards of both models by version: the judge the training itself used."""
    keys = {"reward_helpfulness": "Helpfulness reward", "reward_safety": "Safety reward"}
    how = "What training optimised. Rewards that rise while judged figures fall: reward hacking."
    return by_version(given, keys, Axes("", "Mean reward"), "Rewards by version", how)


def wins_by_version(given: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Win rates by version, a tie as half a win."""
    axes = Axes("", "Win rate", y_text=whole_percent, y_ends=PERCENT_AXIS, exact=percent)
    how = "How often a version's answer beats the one it is compared with; a tie counts half."
    names = dict.fromkeys(k for v in given for k in v if is_share(k) and k.startswith("win_rate"))
    keys = {key: words(key) for key in names}
    return by_version(given, keys, axes, "Win rate by version", how, [Line("Even", 0.5)])


def by_version(
    given: Sequence[Mapping[str, Any]],
    keys: Mapping[str, str],
    axes: Axes,
    title: str,
    how: str,
    lines: Sequence[Line] = (),
) -> Chart | None:
    """Fields of the versions as lines; None when no version has any of them."""
    names = [text(v, "name", "versions") for v in given]
    series = []
    for key, name in keys.items():
        found = [version_point(v, key, i) for i, v in enumerate(given)]
        series += [Series(name, [p for p in found if p])] if any(found) else []
    if not series:
        return None
    places = range(len(names))
    ends = (-0.4, len(names) - 0.6)
    axes = replace(axes, x_text=lambda i: names[int(i)], x_ticks=places, x_ends=ends)
    return Chart(title, "Figure 11", charts.line_chart(series, axes, lines), how)


def persona(results: Results) -> Section:
    """Persona retention by turn, baseline and GAtt (Table 30)."""
    lead = (
        "The persona is given once, in the first turn. Ghost Attention trains the model to keep "
        "it; the baseline is the same model without that training."
    )
    given = fields(results, "persona")
    series: list[Series] = []
    missing: list[str] = []
    for key, name in PERSONA_LINES:
        rates = by_number(fields(given, key, f"persona.{key}"), f"persona.{key}")
        found = [point(turn, rate, f"persona.{key}") for turn, rate in rates]
        if any(found):
            series.append(Series(name, [p for p in found if p]))
        elif key != "final":
            missing.append(f"The results hold no persona dialogues {name.lower()}.")
    found_charts = []
    if series:
        turns = sorted({p.x for s in series for p in s.points})
        axes = Axes(
            "Turn", "Persona kept", y_text=whole_percent, y_ends=PERCENT_AXIS, x_ticks=turns
        )
        how = (
            "The paper: 100 % at turn 2 for both; 10 % against 100 % at turn 4; 0 against 100 at 6."
        )
        picture = charts.line_chart(series, axes)
        found_charts = [Chart("Persona kept, by turn", "Table 30", picture, how)]
    title = "Ghost Attention"
    return Section("persona", title, "Section 3.3", lead, found_charts, missing=missing)
