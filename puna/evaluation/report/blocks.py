"""What a section of the report is made of: charts, tables, samples, and what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup


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
class Section:
    """A heading, its place in the paper, a short explanation, and what was measured."""

    key: str
    title: str
    reference: str
    lead: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[str] = ()
    folded: bool = False
