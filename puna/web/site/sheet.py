"""A table as a CSV file that spreadsheet programs open without running anything in it."""

import csv
import io
from collections.abc import Iterable, Sequence

from starlette.responses import Response

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")  # with these a cell is taken for a formula


def sheet(name: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Response:
    """The answer that a browser saves as NAME.csv. Texts that look like formulas get a "'"."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(head)
    writer.writerows([cell(value) for value in row] for row in rows)
    return Response(
        file.getvalue(),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}.csv"'},
    )


def cell(value: object) -> object:
    """Numbers as they are; None as nothing; a text, with "'" before what looks like a formula."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(value)
        return f"'{text}" if text.startswith(STARTS) else text
    return value
