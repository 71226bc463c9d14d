"""Reading `results.json`: checked access to its fields, and numbers as the report prints them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from puna.errors import InputError
from puna.evaluation.report.charts import Point

Results = Mapping[str, Any]
DASH = "\u2013"  # what a table shows where nothing was measured
NAMES = {
    "sft": "SFT",
    "ppo": "PPO",
    "gatt": "Ghost Attention",
    "kl": "KL",
    "rm": "Reward model",
    "auc": "AUC",
    "lr": "learning rate",
}


def fields(record: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any]:
    """An object by its key, {} when absent or null; InputError when it is anything else."""
    value = record.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"results: {where or key}: an object was expected, not {kind(value)}")
    return value


def rows(record: Mapping[str, Any], key: str, where: str = "") -> list[Mapping[str, Any]]:
    """A list of objects by its key, [] when absent or null; InputError otherwise."""
    value = record.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise InputError(f"results: {where or key}: a list of objects was expected")
    return value


def text(record: Mapping[str, Any], key: str, where: str) -> str:
    """A text by its key; InputError when it is absent or not a text."""
    value = record.get(key)
    if not isinstance(value, str):
        raise InputError(f"results: {where}.{key}: a text was expected, not {kind(value)}")
    return value


def number(value: Any, where: str) -> float | None:
    """A finite number; None for null, NaN and infinity; InputError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"results: {where}: a number was expected, not {kind(value)}")
    return float(value) if math.isfinite(value) else None


def kind(value: Any) -> str:
    """The type of a JSON value in a message."""
    return "nothing" if value is None else type(value).__name__


def point(x: float, value: Any, where: str) -> Point | None:
    """A number, or {"value", "low", "high", "n"}, as a point at x whose name is n; None if null."""
    if not isinstance(value, Mapping):
        y = number(value, where)
        return None if y is None else Point(x, y)
    y, low, high = (number(value.get(key), f"{where}.{key}") for key in ("value", "low", "high"))
    n = number(value.get("n"), f"{where}.n")
    return None if y is None else Point(x, y, low, high, name="" if n is None else f"{n:,.0f}")


def by_number(record: Mapping[str, Any], where: str) -> list[tuple[float, Any]]:
    """The entries of an object whose keys are numbers, in their order."""
    try:
        return sorted(((float(key), value) for key, value in record.items()), key=lambda e: e[0])
    except ValueError:
        raise InputError(f"results: {where}: keys that are numbers were expected") from None


def flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects as (dotted key, value)."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """At most `limit` points: means of neighbours in equal groups."""
    if len(points) <= limit:
        return list(points)
    cuts = [round(i * len(points) / limit) for i in range(limit + 1)]
    groups = [points[a:b] for a, b in pairwise(cuts)]
    return [Point(mean([p.x for p in g]), mean([p.y for p in g])) for g in groups]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return math.fsum(values) / len(values)


def words(name: str) -> str:
    """A field's or stage's name in words: "false_refusal" -> "False refusal"."""
    found = name.replace("_", " ").replace(".", " ").replace("/", " / ").split()
    spoken = " ".join(NAMES.get(word.lower(), word) for word in found)
    return spoken[:1].upper() + spoken[1:]


def percent(value: float | None) -> str:
    """0.8237 -> "82.4 %", with a narrow space that never breaks."""
    return DASH if value is None else f"{100 * value:.1f}\u202f%"


def whole_percent(value: float) -> str:
    """0.8 -> "80 %": a tick of an axis."""
    return f"{100 * value:g}\u202f%"


def short(value: Any) -> str:
    """A number with three significant digits; a dash for null."""
    found = number(value, "number") if not isinstance(value, bool) else float(value)
    if found is None:
        return DASH
    return f"{found:,.0f}" if abs(found) >= 1000 else f"{found:.3g}"


def duration(seconds: Any) -> str:
    """Seconds as "45 s", "2 min 05 s" or "3 h 10 min"."""
    found = number(seconds, "seconds")
    if found is None:
        return DASH
    whole = round(found)
    if whole < 60:
        return f"{found:.1f} s" if found < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(megabytes: Any) -> str:
    """Megabytes as "850 MB" or "1.2 GB"."""
    found = number(megabytes, "peak_memory_mb")
    if found is None:
        return DASH
    return f"{found:.0f} MB" if found < 1000 else f"{found / 1000:.1f} GB"
