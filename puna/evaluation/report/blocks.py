"""What a section of the report is made of: charts, tables, samples, and what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

PERCENT_AXIS = (0.0, 1.0)


@dataclass(frozen=True)
class Chart:
    """One chart with its place in the paper and a sentence on how to read it."""

    title: str
    reference: str
    picture: Markup
    how: str


@dataclass(frozen=True)
class Table:
    """Texts in columns; `bars` are lengths in [0, 1] drawn behind the second column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[float] = ()
    total: Sequence[str] = ()


@dataclass(frozen=True)
class Sample:
    """One prompt as (role, text) messages, and the two answers to it."""

    messages: Sequence[tuple[str, str]]
    before: str
    after: str
    kind: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, its place in the paper, a short explanation, and what was measured."""

    key: str
    title: str
    reference: str
    lead: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    samples: Sequence[Sample] = ()
    missing: Sequence[str] = ()
    folded: bool = False


def sorted_out(
    wanted: Mapping[str, Chart | None], suffix: str = ""
) -> tuple[list[Chart], list[str]]:
    """The charts that could be drawn, and a note for each that could not."""
    missing = [
        f"The results hold no {f'{name} {suffix}'.rstrip()}."
        for name, chart in wanted.items()
        if chart is None
    ]
    return [chart for chart in wanted.values() if chart], missing
