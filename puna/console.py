"""What a run shows while it works: progress bars on a terminal, plain appended lines anywhere else.

`Run.track` and `Run.log` report to `current()`. That is a simple `Display` for one recipe, or the
`Board` of `puna paper`, a live table of all stages.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_EVERY = 10.0  # seconds between two progress lines when stdout is not a terminal
RATE_WINDOW = 20.0  # seconds of progress from which the rate is measured
BAR = 16  # width of a bar in characters
AT_ONCE = 0.02  # what is counted this soon after the start was done before, by an earlier run
REFRESH = 4  # screen updates a second on a terminal

MARKS = {"waiting": "·", "running": "▸", "done": "✓", "failed": "✗"}
ASCII_MARKS = {"waiting": ".", "running": ">", "done": "+", "failed": "x"}
STYLES = {"waiting": "dim", "running": "bold", "done": "green", "failed": "red"}


class Meter:
    """How far one piece of work is: items done of `total`, rate and time left (from the last 20
    seconds).
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.numbers = ""
        self._seen = deque([(time.monotonic(), done)])

    def advance(self, items: int) -> None:
        """Counts `items` more as done."""
        self.done += items
        now = time.monotonic()
        if len(self._seen) == 1 and now - self._seen[0][0] < AT_ONCE:
            self._seen[0] = (now, self.done)
            return
        self._seen.append((now, self.done))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_WINDOW:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Items a second; 0 before anything is known."""
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    @property
    def left(self) -> float | None:
        """Seconds left at the present rate, or None where that is not known."""
        return max(self.total - self.done, 0) / self.rate if self.rate > 0 else None

    def line(self) -> str:
        """`120/400 (30%), 12.1/s, 0:23 left` and the last numbers that were logged."""
        parts = [f"{self.done}/{self.total} ({100 * self.done // max(self.total, 1)}%)"]
        if self.rate > 0:
            parts.append(f"{self.rate:.1f}/s" if self.rate < 100 else f"{self.rate:,.0f}/s")
        if self.left is not None and self.done < self.total:
            parts.append(f"{clock(self.left)} left")
        return ", ".join(parts + [self.numbers] * bool(self.numbers))


class Display:
    """The display of one recipe: one bar on a terminal, else a line every ten seconds."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False)
        self.live = self.console.is_terminal
        self.meter: Meter | None = None
        self._printed = 0.0

    @contextlib.contextmanager
    def track(self, total: int, label: str, done: int = 0) -> Iterator[Callable[[int], None]]:
        """A bar for `total` items of which `done` are done already; gives the function that counts
        more.
        """
        outer, meter = self.meter, Meter(label, total, done)
        self.meter = meter
        self._printed = time.monotonic()

        def advance(items: int) -> None:
            meter.advance(items)
            self._tick()

        try:
            with self._screen():
                yield advance
            if not self.live:
                self._line(f"{label}: {meter.line()}")
        finally:
            self.meter = outer

    def log(self, step: int, numbers: Mapping[str, object]) -> None:
        """Shows the numbers of one step beside the bar."""
        if self.meter is not None:
            shown = [f"{name} {short(value)}" for name, value in numbers.items()]
            self.meter.numbers = ", ".join(shown[:3])
            self._tick()

    def note(self, text: str) -> None:
        """One line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def __rich__(self) -> Group:
        return Group(*([_bar(self.meter)] if self.meter else []))

    @contextlib.contextmanager
    def _screen(self) -> Iterator[None]:
        if self.live and not isinstance(self, Board):
            with Live(self, console=self.console, refresh_per_second=REFRESH, transient=False):
                yield
        else:
            yield

    def _tick(self) -> None:
        now = time.monotonic()
        if not self.live and self.meter and now - self._printed >= PLAIN_EVERY:
            self._printed = now
            self._line(f"{self.meter.label}: {self.meter.line()}")

    def _line(self, text: str) -> None:
        self.note(text)


@dataclass
class Row:
    """One stage on the board."""

    name: str
    title: str
    state: str = "waiting"
    began: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    figure: str = ""


class Board(Display):
    """The display of `puna paper`: every stage with its state, seconds and key figure; a bar for
    the running one.

    Use it as a context; inside it is `current()`. Each stage is `begin`-ned and then ended by
    `end`, `skip` (it was finished earlier) or `fail`; `with board.stage(name):` does begin, and
    fail on an exception.
    """

    def __init__(
        self, stages: Sequence[tuple[str, str]], title: str = "", console: Console | None = None
    ) -> None:
        super().__init__(console)
        self.title = title
        self.rows = {name: Row(name, text) for name, text in stages}
        self._began = time.monotonic()
        self._live: Live | None = None
        self._ended = False
        self._before: Display | None = None

    def __enter__(self) -> "Board":
        global _current
        self._before, _current = _current, self
        self._began = time.monotonic()
        if self.live:
            self._live = Live(self, console=self.console, refresh_per_second=REFRESH)
            self._live.__enter__()
        elif self.title:
            self.note(self.title)
        return self

    def __exit__(self, *fault: object) -> None:
        global _current
        _current = self._before
        self._ended = True
        if self._live is not None:
            self._live.refresh()
            self._live.stop()
            self._live = None

    @contextlib.contextmanager
    def stage(self, name: str, title: str = "") -> Iterator[Row]:
        """Begins a stage; an exception fails it and goes on; a normal end without `end` ends it."""
        self.begin(name, title)
        row = self.rows[name]
        try:
            yield row
        except BaseException as error:
            if row.state == "running":
                stopped = isinstance(error, KeyboardInterrupt)
                self.fail(name, "stopped" if stopped else str(error) or type(error).__name__)
            raise
        if row.state == "running":
            self.end(name, row.figure)

    def begin(self, name: str, title: str = "") -> None:
        """The stage runs from now on."""
        row = self.rows.setdefault(name, Row(name, title))
        row.title = title or row.title
        row.state, row.began = "running", time.monotonic()
        self._line(f"{row.title or 'started'} ...", row)

    def end(self, name: str, key_figure: str = "", seconds: float | None = None) -> None:
        """The stage is finished; `seconds` (over all restarts) or else the time since `begin`."""
        row = self.rows[name]
        row.state, row.figure = "done", key_figure
        row.seconds = time.monotonic() - row.began if seconds is None else seconds
        self._line(f"done in {clock(row.seconds)}{_after(key_figure)}", row)

    def skip(self, name: str, key_figure: str = "", seconds: float | None = None) -> None:
        """The stage was finished by an earlier start of the command."""
        row = self.rows.setdefault(name, Row(name, ""))
        row.state, row.figure, row.seconds = "done", key_figure, seconds
        self._line(f"finished earlier{_after(key_figure)}", row)

    def fail(self, name: str, reason: str) -> None:
        """The stage failed; the reason is one line."""
        row = self.rows.setdefault(name, Row(name, ""))
        row.state, row.figure = "failed", reason
        row.seconds = time.monotonic() - row.began
        self._line(f"failed{_after(reason)}", row)

    def __rich__(self) -> Group:
        table = Table(box=None, padding=(0, 1), show_header=False, expand=True)
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right", width=6)
        table.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        marks = ASCII_MARKS if self.console.options.ascii_only else MARKS
        for row in self._shown():
            style = STYLES[row.state]
            running = row.state == "running"
            seconds = time.monotonic() - row.began if running else row.seconds
            figure = _bar(self.meter) if running and self.meter else Text(row.figure)
            mark, title = Text(marks[row.state], style), Text(row.title or row.name, style)
            table.add_row(mark, title, "" if seconds is None else clock(seconds), figure)
        done = sum(row.state == "done" for row in self.rows.values())
        passed = clock(time.monotonic() - self._began)
        foot = Text(f"{done} of {len(self.rows)} stages, {passed}", "dim")
        return Group(*([Text(self.title, "bold")] if self.title else []), table, foot)

    def _shown(self) -> list[Row]:
        """The rows that fit on the screen, around the newest that began; all of them at the end."""
        rows = list(self.rows.values())
        room = self.console.size.height - 4
        if self._ended or len(rows) <= room:
            return rows
        newest = max((i for i, row in enumerate(rows) if row.state != "waiting"), default=0)
        first = min(max(newest - room // 2, 0), len(rows) - room)
        return rows[first : first + room]

    def _line(self, text: str, row: Row | None = None) -> None:
        """A plain line `[ 3/12 0:41] sft: ...`; nothing on a terminal, where the table shows it."""
        if self.live:
            return
        row = row or next((r for r in self.rows.values() if r.state == "running"), None)
        place = list(self.rows).index(row.name) + 1 if row else 0
        passed = clock(time.monotonic() - self._began)
        head = f"[{place:2}/{len(self.rows)} {passed}] {row.name if row else ''}"
        self.note(f"{head}: {text}")


_current: Display | None = None


def current() -> Display:
    """The display in use: the board inside `with Board(...)`, else a simple one on stdout."""
    return _current if _current is not None else _simple()


def clock(seconds: float) -> str:
    """Seconds as `0:07`, `12:30` or `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(value: object) -> str:
    """A number in at most five digits or so; anything else as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_displays: list[Display] = []


def _simple() -> Display:
    """The one simple display; a new one when stdout was replaced since."""
    if not _displays or _displays[0].console.file is not sys.stdout:
        _displays[:] = [Display()]
    return _displays[0]


def _after(text: str) -> str:
    return f": {text}" if text else ""


def _bar(meter: Meter) -> Table:
    """A bar with its numbers, on one line."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=min(len(meter.label), 16), overflow="ellipsis")
    table.add_column(width=BAR)
    table.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=max(meter.total, 1), completed=meter.done, width=BAR)
    table.add_row(meter.label, bar, Text(meter.line()))
    return table
