"""The report's section about the reward models: accuracy, calibration, and the floors.

What the results do not hold is said in the section (`missing`) and never made up.
"""

from collections.abc import Callable, Mapping
from typing import Any

from puna.evaluation.report import charts
from puna.evaluation.report.blocks import PERCENT_AXIS, Chart, Section, Table, sorted_out
from puna.evaluation.report.charts import Axes, Line, Point, Series
from puna.evaluation.report.reading import (
    Results,
    fields,
    number,
    percent,
    point,
    rows,
    short,
    whole_percent,
    words,
)

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
    found: list[Chart] = []
    tables: list[Table] = []
    missing = [
        f"The results hold no {name} reward model."
        for name in ("helpfulness", "safety")
        if name not in models
    ]
    for name in models:
        model = fields(models, name, f"reward_models.{name}")
        drawn, notes = sorted_out(
            {
                f"{name} accuracy by strength": strength_chart(name, model),
                f"{name} calibration": calibration_chart(name, model),
            }
        )
        found, missing = found + drawn, missing + notes
        tables.append(reward_table(name, model))
    title = "Reward models"
    return Section("rewards", title, "Section 3.2.2", lead, found, tables, missing=missing)


def floors(model: Mapping[str, Any]) -> list[Line]:
    """Dashed lines: chance, length alone, and the bag of words, where measured."""
    lines = [Line("Chance", 0.5)]
    for key, name, colour in (
        ("length_only", "Length alone", "s1"),
        ("floor", "Bag of words", "s4"),
    ):
        measured = point(0, model.get(key), f"reward_models: {key}")
        lines += [Line(f"{name} {percent(measured.y)}", measured.y, colour)] if measured else []
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
    axes = Axes("", "Accuracy", y_text=whole_percent, y_ends=PERCENT_AXIS, exact=percent)
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
    axes = Axes("Predicted", "Observed", whole_percent, whole_percent, ends, ends)
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
    areas = {"Good against bad (AUC)": "auc", "Good against bad, bag of words (AUC)": "auc_floor"}
    body += [interval_row(label, model.get(key), short) for label, key in areas.items()]
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
    body += [
        interval_row(names.get(k, words(k)), v, short if k in ("auc", "floor") else percent)
        for k, v in unsafe.items()
    ]
    columns = ("Held-out test set", "Value", "95 % interval", "Cases")
    return Table(f"{words(name)}: all figures", columns, [row for row in body if row])


def interval_row(
    label: str, value: Any, shown: Callable[[float | None], str] = percent
) -> list[str]:
    """A table row of a measured value; empty when it was not measured."""
    measured = point(0, value, label)
    if measured is None:
        return []
    low, high = measured.low, measured.high
    between = f"{shown(low)} to {shown(high)}" if low is not None and high is not None else ""
    return [label, shown(measured.y), between, measured.name]
