"""Agreement: how far people agree, and who wins, from exported files alone.

    puna agreement preferences.jsonl ratings.jsonl
    puna agreement ratings.jsonl --how mean --weights quadratic --out figures.json

Reads files of `puna export preferences` or `puna export ratings`, or preferences of any origin
whose `annotator` is named; more than one file counts as one. Shows Gwet's AC1 and AC2,
Krippendorff's alpha and percent agreement with 95 % intervals, by batch too; each annotator's
agreement with the others; of an evaluation win, tie and loss of each pair of versions and all
versions on Elo's scale; of severities the share of violations. Items are those with the same
dialogue and the same two answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from puna.errors import InputError
from puna.evaluation import annotators, bradley_terry, drift, ratings
from puna.evaluation.agreement import CannotBeComputed
from puna.evaluation.judgements import POINTS, Judgement, agreed
from puna.text.dialog import Dialog, Preference
from puna.text.files import read_jsonl, write_json

POSITIONAL = "files..."
ASKED = {"choice": "which answer", "degree": "how much better", "safety": "which are safe"}


@dataclass(frozen=True, kw_only=True)
class Config:
    files: tuple[Path, ...]  # JSON Lines of preferences or ratings
    # nearness of two degrees, for AC2 and percent agreement
    weights: Literal["identity", "linear", "quadratic", "ordinal", "radical"] = "ordinal"
    how: Literal["majority", "mean"] = "majority"  # of a prompt's raters, who says who won it
    out: Path | None = None  # file for all figures as JSON
    seed: int = 0  # of the bootstrap


@dataclass
class Read:
    """What the files hold, people and items numbered in the order in which they come."""

    judgements: list[Judgement] = field(default_factory=list)
    rated: list[tuple[Judgement, Mapping[str, Any], Dialog]] = field(default_factory=list)
    severities: list[ratings.SafetyRating] = field(default_factory=list)
    people: dict[str, int] = field(default_factory=dict)
    items: dict[object, int] = field(default_factory=dict)
    unnamed: int = 0  # preferences without an annotator
    other: int = 0  # records of another kind, such as thumbs

    def person(self, name: str) -> int:
        """The number of somebody."""
        return self.people.setdefault(name, len(self.people) + 1)

    def item(self, *key: object) -> int:
        """The number of an item."""
        return self.items.setdefault(key, len(self.items) + 1)


def main(config: Config) -> dict:
    read = Read()
    for path in config.files:
        for kind, record in read_jsonl(path, parsed):
            add(read, kind, record)
    if not read.judgements and not read.severities:
        raise InputError(f"files: no judgement with an annotator in {len(config.files)} files")
    figures = computed(read, config.weights, config.how, np.random.default_rng(config.seed))
    for table in shown(figures):
        Console().print(table)
    if config.out is not None:
        write_json(config.out, figures)
    return {name: len(getattr(read, name)) for name in ("judgements", "severities")} | {
        "annotators": len(read.people),
        "without_annotator": read.unnamed,
        "other_records": read.other,
    }


def parsed(record: dict[str, Any]) -> tuple[str, Any]:
    """A line as its kind and a checked record. InputError names the field."""
    kind = str(record.get("kind", "preference" if "chosen" in record else "other"))
    if kind == "preference":
        return kind, Preference.from_json(record)
    if kind not in ("evaluation", "severity"):
        return "other", record
    name, scale = ("rating", POINTS) if kind == "evaluation" else ("points", ratings.LIKERT)
    if record.get(name) not in scale or isinstance(record[name], bool | float):
        raise InputError(f"field {name!r}: expected {scale[0]} to {scale[-1]}")
    for key in ("annotator", "id", *(("model",) if kind == "severity" else ())):
        if not isinstance(record.get(key), str) or not record[key]:
            raise InputError(f"field {key!r}: expected text")
    if kind == "evaluation":
        check_answers(record.get("answers"))
    return kind, (record, Dialog.from_json(record))


def check_answers(found: object) -> None:
    """InputError unless these are two answers."""
    answers = found if isinstance(found, list) else []
    if len(answers) != 2 or not all(
        isinstance(answer, dict) and isinstance(answer.get("text"), str) for answer in answers
    ):
        raise InputError("field 'answers': expected two, each with its text")


def add(read: Read, kind: str, record: Any) -> None:
    """Count one record."""
    if kind == "other":
        read.other += 1
    elif kind == "preference":
        add_preference(read, record)
    elif kind == "evaluation":
        add_rating(read, *record)
    else:
        said, dialog = record
        who, item = read.person(said["annotator"]), read.item("turn", said["id"])
        facts = (str(said.get("risk") or ""), dialog.turns)
        read.severities.append(
            ratings.SafetyRating(item, who, said["model"], said["points"], *facts)
        )


def add_preference(read: Read, one: Preference) -> None:
    """A preference: its two answers in alphabetical order are the item's first and second."""
    if not one.annotator:
        read.unnamed += 1
        return
    texts = sorted((one.chosen, one.rejected))
    item = read.item(one.dialog.messages, *texts)
    read.judgements.append(
        Judgement(
            id=len(read.judgements),
            item=item,
            annotator=read.person(one.annotator),
            batch=batch_of(one.dialog.tags),
            chosen=texts.index(one.chosen),
            strength=one.strength,
            safety=one.safety,
            words=(len(texts[0].split()), len(texts[1].split())),
        )
    )


def add_rating(read: Read, said: dict[str, Any], dialog: Dialog) -> None:
    """A rating of the evaluation."""
    texts = [answer["text"] for answer in said["answers"]]
    who, item = read.person(said["annotator"]), read.item(dialog.messages, *texts)
    one = Judgement(
        id=len(read.judgements),
        item=item,
        annotator=who,
        batch=batch_of(said),
        rating=said["rating"],
        words=(len(texts[0].split()), len(texts[1].split())),
    )
    read.judgements.append(one)
    read.rated.append((one, said, dialog))


def sides(read: Read) -> list[ratings.Rating]:
    """The ratings with a name for each version; an answer beside another of its own is left out."""
    called = ratings.called(writer(a) for _, said, _ in read.rated for a in said["answers"])
    found = []
    for one, said, dialog in read.rated:
        first, second = (called[writer(answer)] for answer in said["answers"])
        if first != second and one.rating is not None:
            words = sum(len(message.content.split()) for message in dialog.messages)
            facts = (str(said.get("category") or ""), dialog.turns, words)
            points = one.rating
            found.append(ratings.Rating(one.item, one.annotator, first, second, points, *facts))
    return found


def writer(answer: Mapping[str, Any]) -> ratings.Writer:
    """Who wrote an answer."""
    named = (str(answer.get("model") or ""), str(answer.get("version") or ""))
    return (*named, answer.get("temperature"))


def batch_of(tags: Mapping[str, Any]) -> int:
    """The number of a record's batch; 0 without one."""
    found = tags.get("batch", 0)
    return found if isinstance(found, int) else 0


def computed(read: Read, weights: str, how: str, rng: np.random.Generator) -> dict[str, Any]:
    """All figures, as JSON values."""
    named = {number: name for name, number in read.people.items()}
    rows = annotators.figures(read.judgements, rng)
    rated = sides(read)
    parts = {
        "preferences": [j for j in read.judgements if j.rating is None],
        "evaluation": [j for j in read.judgements if j.rating is not None],
    }
    keys = ("judged", "agreement", "without", "length", "strengths")
    try:
        scale: dict[str, Any] = bradley_terry.fit(ratings.games(rated, how), rng)
    except CannotBeComputed as error:
        scale = {"why": str(error)}
    return {
        "agreement": {n: agreed(part, weights, rng) for n, part in parts.items() if part},
        "batches": {n: drift.batches(part, {}, weights, rng) for n, part in parts.items()},
        "annotators": [
            {"name": named[row["annotator"]], **{key: row[key] for key in keys}} for row in rows
        ],
        "pairs": ratings.pairs(rated, rng, how, weights),
        "scale": scale,
        "safety": ratings.safety(read.severities, rng),
    }


def shown(figures: Mapping[str, Any]) -> list[Table]:
    """The tables for a terminal; those without a row are left out."""
    tables = []
    wholes = list(figures["agreement"].items())
    wholes += [
        (f"{name}, batch {row['batch']}", row["agreement"])
        for name, rows in figures["batches"].items()
        for row in rows
        if len(rows) > 1
    ]
    heads = ("agreement on", "of", "AC1, AC2", "alpha", "observed", "items")
    tables.append(table(heads, [row for name, one in wholes for row in coefficients(name, one)]))
    people = [
        (row["name"], row["judged"], estimate(row["agreement"]), short(row["without"]))
        for row in figures["annotators"]
    ]
    tables.append(table(("annotator", "judged", "agrees with others", "AC1 without"), people))
    pairs = [
        (
            *(f"{row['first']} - {row['second']}", row["prompts"]),
            *(estimate(row[name]) for name in ("win", "tie", "loss")),
        )
        for row in figures["pairs"]
    ]
    tables.append(table(("versions", "prompts", "win", "tie", "loss"), pairs))
    versions = [
        (row["name"], f"{row['elo']:.0f} ({row['low']:.0f} to {row['high']:.0f})", row["games"])
        for row in figures["scale"].get("versions", ())
    ]
    tables.append(table(("version", "Elo", "games"), versions))
    safety = [
        (row["model"], row["prompts"], estimate(row["violation"]), estimate(row["mean"]))
        for row in figures["safety"]
    ]
    tables.append(table(("model", "answers", "violations", "mean of 1 to 5"), safety))
    return [one for one in tables if one.row_count]


def coefficients(name: str, found: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """The rows of one part of the judgements; nothing where nobody was asked."""
    return [
        (
            *(ASKED[what], name, estimate(one["AC"]), estimate(one["alpha"])),
            *(estimate(one["percent"]), one["AC"].get("items", 0)),
        )
        for what, one in found.items()
    ]


def estimate(found: Mapping[str, Any] | None) -> str:
    """A value with its interval, or why there is none."""
    if found is None or "why" in found:
        return (found or {"why": "-"})["why"].removeprefix("cannot be computed: ")
    if found["low"] is None:
        return short(found["value"])
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def short(value: float | None) -> str:
    """Three digits after the point."""
    return "-" if value is None else f"{value:.3f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A plain table; the first column is text."""
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, head in enumerate(heads):
        found.add_column(head, justify="left" if index < 1 else "right")
    for row in rows:
        found.add_row(*(escape(str(cell)) for cell in row))
    return found
