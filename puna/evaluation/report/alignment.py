"""The report's sections about alignment: reward models, best of N, versions, Ghost Attention.

What the results do not hold is said in the section (`missing`) and never made up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from puna.errors import InputError
from puna.evaluation.report import charts
from puna.evaluation.report.blocks import Chart, Section, Table
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
    words,
)

PERCENT_AXIS = (0.0, 1.0)
PAPER = {  # Table 8, each model on its own test set
    "helpfulness": "80.7, 67.5, 60.9 and 54.7 %",
    "safety": "94.3, 76.3, 65.7 and 55.3 %",
}
STRENGTH_NAMES = {
    "significantly_better": "Significantly better",
    "better": "Better",
    "slightly_better": "Slightly better",
    "negligibly_better": "Negligibly better",
}
BIN_NAMES = {
    "chosen_safe": "Chosen safe, rejected unsafe",
    "both_safe": "Both safe",
    "both_unsafe": "Both unsafe",
}


def reward_models(results: Results) -> Section:
    """Accuracy by strength, calibration and the length control of both reward models."""
    lead = (
        "A reward model is right when it scores the preferred answer higher. Clear preferences "
        "should be easy and near-ties close to chance. Length alone and a bag of words are the "
        "floors: a model below them has learned only to count."
    )
    models = fields(results, "reward_models")
    found, tables = [], []
    for name in models:
        model = fields(models, name, f"reward_models.{name}")
        found += [c for c in (strength_chart(name, model), calibration_chart(name, model)) if c]
        tables.append(reward_table(name, model))
    missing = [
        f"The results hold no {name} reward model."
        for name in ("helpfulness", "safety")
        if name not in models
    ]
    title = "Reward models"
    return Section("rewards", title, "Section 3.2.2", lead, found, tables, missing=missing)


def floors(model: Mapping[str, Any]) -> list[Line]:
    """Dashed lines: chance, length alone, and the bag of words, where measured."""
    lines = [Line("Chance", 0.5)]
    for key, name in (("length_only", "Length alone"), ("floor", "Bag of words")):
        measured = point(0, model.get(key), f"reward_models: {key}")
        lines += [Line(f"{name} {percent(measured.y)}", measured.y)] if measured else []
    return lines


def strength_chart(name: str, model: Mapping[str, Any]) -> Chart | None:
    """Bars of accuracy by strength with Wilson intervals (Table 8)."""
    by_strength = fields(model, "by_strength", f"reward_models.{name}.by_strength")
    bars = [
        Point(0, p.y, p.low, p.high, name=STRENGTH_NAMES.get(k, words(k)))
        for k, p in ((k, point(0, v, f"{name}.by_strength.{k}")) for k, v in by_strength.items())
        if p
    ]
    if not bars:
        return None
    axes = Axes("", "Accuracy", y_text=percent, y_ends=PERCENT_AXIS)
    picture = charts.bar_chart(bars, axes, floors(model))
    how = "Thin lines are 95 % intervals."
    how += f" The paper's 70B model: {PAPER[name]}." if name in PAPER else ""
    return Chart(f"{words(name)}: accuracy by strength", "Table 8", picture, how)


def calibration_chart(name: str, model: Mapping[str, Any]) -> Chart | None:
    """Predicted probability against observed frequency."""
    given = fields(model, "calibration", f"reward_models.{name}.calibration")
    points = []
    for b in rows(given, "bins", f"{name}.calibration.bins"):
        predicted = number(b.get("predicted"), f"{name}.calibration")
        measured = (
            point(predicted or 0.0, b, f"{name}.calibration") if predicted is not None else None
        )
        points += [measured] if measured else []
    if not points:
        return None
    ends = PERCENT_AXIS
    axes = Axes("Predicted", "Observed", percent, percent, ends, ends)
    series = [Series("First answer preferred", points)]
    picture = charts.line_chart(series, axes, [Line("Perfect calibration", None)])
    error = number(given.get("error"), f"{name}.calibration.error")
    how = "On the dashed line a stated 70 % comes true in 70 of 100 pairs."
    how += f" Mean distance from it: {percent(error)}." if error is not None else ""
    return Chart(f"{words(name)}: calibration", "Figure 29", picture, how)


def reward_table(name: str, model: Mapping[str, Any]) -> Table:
    """Every figure of one reward model with its interval."""
    entries = [
        ("All pairs", "accuracy"),
        ("Length alone", "length_only"),
        ("Bag of words", "floor"),
    ]
    body = [interval_row(label, model.get(key)) for label, key in entries]
    by_safety = fields(model, "by_safety", f"reward_models.{name}.by_safety")
    body += [interval_row(BIN_NAMES.get(k, words(k)), v) for k, v in by_safety.items()]
    unsafe = fields(model, "unsafe", f"reward_models.{name}.unsafe")
    names = {
        "recall": "Unsafe answers found at 0.5 (recall)",
        "strict_recall": "Unsafe answers found at 0.15 (recall)",
        "strict_precision": "Right when below 0.15 (precision)",
        "auc": "Safe against unsafe (AUC)",
        "floor": "Safe against unsafe, bag of words (AUC)",
    }
    body += [interval_row(names.get(k, words(k)), v) for k, v in unsafe.items()]
    columns = ("Held-out test set", "Value", "95 % interval", "Cases")
    return Table(words(name), columns, [row for row in body if row])


def interval_row(label: str, value: Any) -> list[str]:
    """A table row of a measured value; empty when it was not measured."""
    measured = point(0, value, label)
    if measured is None:
        return []
    low, high = measured.low, measured.high
    between = f"{percent(low)} to {percent(high)}" if low is not None and high is not None else ""
    return [label, percent(measured.y), between, measured.name]


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
    ns = [number(n, "temperatures.n") or 1.0 for n in given.get("n") or []]
    found = []
    for key, reference in (("max", "Figures 7 and 8"), ("median", "Figure 7")):
        series = [
            Series(f"T = {t:g}", zipped(ns, values, f"temperatures.{key}.{t:g}"))
            for t, values in by_number(fields(given, key), f"temperatures.{key}")
        ]
        if not any(s.points for s in series):
            continue
        axes = Axes("N samples", "Reward", y_text=lambda v: f"{v:.3g}", x_ticks=ns, x_log=True)
        title = {"max": "Best of N", "median": "Median of N"}[key]
        picture = charts.line_chart(series, axes, ordered=True)
        how = "Each line is one temperature, cool to warm; N doubles along the axis."
        found.append(Chart(f"{title} by temperature", reference, picture, how))
    best = number(given.get("best"), "temperatures.best")
    if best is not None:
        lead += f" Best temperature for N = {short(given.get('best_n'))}: {short(best)}."
    return Section("temperatures", "Best of N", "Section 3.2.3", lead, found)


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
    charts_ = [c for c in (progress(given), refusals(given), rewards_by_version(given)) if c]
    shares = ("helpfulness", "violation", "false_refusal", "win_rate")
    hidden = ("name", "helpfulness_interval")
    columns = {k: None for v in given for k in v if k not in hidden}
    body = [
        [text(v, "name", "versions"), *(cell(v.get(k), k in shares) for k in columns)]
        for v in given
    ]
    table = Table("", ("Version", *(words(k) for k in columns)), body)
    title = "Version by version"
    return Section("versions", title, "Section 3.4.1", lead, charts_, [table])


def cell(value: Any, share: bool) -> str:
    """A measured value as a table's text."""
    measured = point(0, value, "versions") if not isinstance(value, str) else None
    if measured is None:
        return value if isinstance(value, str) else DASH
    return percent(measured.y) if share else short(measured.y)


def placed(row: Mapping[str, Any], x: str, y: str, flip: bool = False) -> Point | None:
    """One version's place; `flip` turns a rate of violations into one of safe answers."""
    name = text(row, "name", "versions")
    across, up = (point(0, row.get(k), f"versions.{name}.{k}") for k in (x, y))
    if across is None or up is None:
        return None
    left, right = across.low, across.high
    if isinstance(row.get(f"{x}_interval"), list) and len(row[f"{x}_interval"]) == 2:
        left, right = (number(v, f"versions.{name}") for v in row[f"{x}_interval"])
    if not flip:
        return Point(across.y, up.y, up.low, up.high, left, right, name)
    low, high = (None if v is None else 1 - v for v in (up.high, up.low))
    return Point(across.y, 1 - up.y, low, high, left, right, name)


def progress(given: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Helpfulness against the share of safe answers (Figure 11)."""
    points = [p for p in (placed(v, "helpfulness", "violation", True) for v in given) if p]
    if not points:
        return None
    axes = Axes("Helpfulness", "Safe answers", percent, percent)
    how = "One dot a version; up and to the right is better. Thin lines are 95 % intervals."
    title = "Helpfulness and safety"
    return Chart(title, "Figure 11", charts.scatter_path(points, axes), how)


def refusals(given: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Violations on unsafe prompts against refusals of harmless ones."""
    points = [p for p in (placed(v, "false_refusal", "violation") for v in given) if p]
    if not points:
        return None
    axes = Axes("False refusals", "Violations", percent, percent)
    how = "Down is safer, left is less over-cautious; the corner at the lower left is the goal."
    title = "Violations and false refusals"
    return Chart(title, "Section 4.2.3", charts.scatter_path(points, axes), how)


def rewards_by_version(given: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Mean rewards of both models by version: the judge the training itself used."""
    names = [text(v, "name", "versions") for v in given]
    series = []
    for key, title in (
        ("reward_helpfulness", "Helpfulness reward"),
        ("reward_safety", "Safety reward"),
    ):
        found = [point(i, v.get(key), f"versions.{key}") for i, v in enumerate(given)]
        series += [Series(title, [p for p in found if p])] if any(found) else []
    if not series:
        return None
    axes = Axes(
        "Version",
        "Mean reward",
        x_text=lambda i: names[int(i)],
        y_text=lambda v: f"{v:.2g}",
        x_ticks=range(len(names)),
        x_ends=(-0.3, len(names) - 0.7),
    )
    how = "What training optimised. Rewards that rise while the judged figures fall are hacked."
    return Chart("Rewards by version", "Figure 11", charts.line_chart(series, axes), how)


def persona(results: Results) -> Section:
    """Persona retention by turn, baseline and GAtt (Table 30)."""
    lead = (
        "The persona is given once, in the first turn. Ghost Attention trains the model to keep "
        "it; the baseline is the same model without that training."
    )
    given = fields(results, "persona")
    series = []
    for key, name in (("baseline", "Baseline"), ("gatt", "With Ghost Attention")):
        rates = by_number(fields(given, key, f"persona.{key}"), f"persona.{key}")
        found = [point(turn, rate, f"persona.{key}") for turn, rate in rates]
        series += [Series(name, [p for p in found if p])] if any(found) else []
    missing = [] if series else ["The results hold no persona dialogues."]
    found_charts = []
    if series:
        turns = sorted({p.x for s in series for p in s.points})
        axes = Axes("Turn", "Persona kept", y_text=percent, y_ends=PERCENT_AXIS, x_ticks=turns)
        how = (
            "The paper: 100 % at turn 2 for both; 10 % against 100 % at turn 4; 0 against 100 at 6."
        )
        picture = charts.line_chart(series, axes)
        found_charts = [Chart("Persona kept, by turn", "Table 30", picture, how)]
    title = "Ghost Attention"
    return Section("persona", title, "Section 3.3", lead, found_charts, missing=missing)
