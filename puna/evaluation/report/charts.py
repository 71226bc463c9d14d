"""Charts as inline SVG, drawn by hand: lines, bars with error bars, and a path through points.

A chart takes its colours from the page's style sheet (classes s0..s5 for kinds, q0..q8 for an
order), so that it follows the reader's light or dark setting. All text is escaped.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 520.0, 300.0  # units of the view box; the page scales the whole
LEFT, RIGHT, TOP, BOTTOM = 50.0, 16.0, 30.0, 44.0
COLOURS, SHADES = 6, 9


@dataclass(frozen=True)
class Point:
    """A place with an optional interval in y (low, high) and in x (left, right), and a name."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    left: float | None = None
    right: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Series:
    """A named line; `faint` draws it in the background, without dots and outside the legend."""

    name: str
    points: Sequence[Point]
    faint: bool = False
    colour: int | None = None


@dataclass(frozen=True)
class Axes:
    """Titles, number formats and, where they should not follow the data, ends and ticks."""

    x: str = ""
    y: str = ""
    x_text: Callable[[float], str] = lambda value: f"{value:g}"
    y_text: Callable[[float], str] = lambda value: f"{value:g}"
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None
    x_ticks: Sequence[float] | None = None
    x_log: bool = False
    exact: Callable[[float], str] | None = None  # a value beside its mark; y_text where None

    def value(self, y: float) -> str:
        """A value in y as it stands beside its mark."""
        return (self.exact or self.y_text)(y)


@dataclass(frozen=True)
class Line:
    """A dashed reference: horizontal at `y`, or the diagonal y = x when `y` is None."""

    name: str
    y: float | None
    colour: str = ""


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) inside [low, high], about so many."""
    step = (high - low) / about
    size = 10.0 ** math.floor(math.log10(step))
    step = next(size * k for k in (1, 2, 5, 10) if size * k >= step * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def spread(values: Iterable[float], margin: float = 0.06) -> tuple[float, float]:
    """The ends of the values with a margin; never of length zero."""
    kept = list(values)
    low, high = min(kept), max(kept)
    if high - low < 1e-9 * max(1.0, abs(high)):
        pad = abs(high) * 0.1 or 1.0
        return low - pad, high + pad
    pad = (high - low) * margin
    return low - pad, high + pad


@dataclass(frozen=True)
class Frame:
    """The drawing area: data to view-box units, grid, and axis texts."""

    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    axes: Axes

    def px(self, x: float) -> float:
        """The horizontal place of a data value."""
        low, high = (self.warp(end) for end in self.x_ends)
        return LEFT + (self.warp(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def py(self, y: float) -> float:
        """The vertical place of a data value."""
        low, high = self.y_ends
        return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def warp(self, x: float) -> float:
        """The logarithm on a logarithmic axis, otherwise x."""
        return math.log(x) if self.axes.x_log else x

    def draw(self) -> list[Markup]:
        """Grid lines, tick texts and axis titles."""
        parts = [self.row(y) for y in ticks(*self.y_ends)]
        xs = self.axes.x_ticks if self.axes.x_ticks is not None else ticks(*self.x_ends, about=6)
        foot = HEIGHT - BOTTOM
        for x in xs:
            parts += wrapped(self.px(x), foot + 17, self.axes.x_text(x))
        parts.append(segment(LEFT, foot, WIDTH - RIGHT, foot, "base"))
        parts.append(text(LEFT - 44, 14, self.axes.y, "title"))
        parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, self.axes.x, "title middle"))
        return parts

    def row(self, y: float) -> Markup:
        """One horizontal grid line with its text."""
        at = self.py(y)
        grid = segment(LEFT, at, WIDTH - RIGHT, at, "grid")
        return grid + text(LEFT - 8, at + 4, self.axes.y_text(y), "tick end")

    def reference(self, line: Line) -> Markup:
        """A dashed reference line."""
        style = f"reference {line.colour}"
        if line.y is not None:
            return segment(LEFT, self.py(line.y), WIDTH - RIGHT, self.py(line.y), style)
        low = max(self.x_ends[0], self.y_ends[0])
        high = min(self.x_ends[1], self.y_ends[1])
        return segment(self.px(low), self.py(low), self.px(high), self.py(high), style)


def segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a class."""
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        *(f"{v:.1f}" for v in (x1, y1, x2, y2)), kind
    )


def text(x: float, y: float, content: str, kind: str) -> Markup:
    """A text of a class ("middle" and "end" set its anchor)."""
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(
        f"{x:.1f}", f"{y:.1f}", kind, content
    )


def dot(x: float, y: float, colour: str, hint: str, radius: float = 3.5) -> Markup:
    """A filled circle whose hint shows when pointed at."""
    return Markup(
        '<circle cx="{}" cy="{}" r="{}" class="dot {}"><title>{}</title></circle>'
    ).format(f"{x:.1f}", f"{y:.1f}", f"{radius:.1f}", colour, hint)


def whiskers(frame: Frame, point: Point, colour: str) -> list[Markup]:
    """The interval in y and the interval in x, where the point has them."""
    x, y, parts = frame.px(point.x), frame.py(point.y), []
    if point.low is not None and point.high is not None:
        parts.append(segment(x, frame.py(point.low), x, frame.py(point.high), f"whisker {colour}"))
    if point.left is not None and point.right is not None:
        left, right = frame.px(point.left), frame.px(point.right)
        parts.append(segment(left, y, right, y, f"whisker {colour}"))
    return parts


def svg(parts: Iterable[Markup], label: str, height: float = HEIGHT) -> Markup:
    """The parts as one picture with a text for screen readers."""
    return Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, label, Markup("").join(parts)
    )


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """A list of (class, name); nothing for a single entry."""
    if len(entries) < 2:
        return Markup("")
    item = Markup('<li><i class="key {}"></i>{}</li>')
    rows = Markup("").join(item.format(kind, name) for kind, name in entries)
    return Markup('<ul class="legend">{}</ul>').format(rows)


def colours(series: Sequence[Series], ordered: bool) -> list[str]:
    """A class for each series: kinds in turn, or shades from cool to warm for an order."""
    if ordered:
        last = max(len(series) - 1, 1)
        return [f"q{round(i * (SHADES - 1) / last)}" for i in range(len(series))]
    return [f"s{(i if s.colour is None else s.colour) % COLOURS}" for i, s in enumerate(series)]


def ends(values: Sequence[float], given: tuple[float, float] | None) -> tuple[float, float]:
    """The given ends of an axis, or those of the values with a margin."""
    return given if given is not None else spread(values)


def heights(points: Iterable[Point], lines: Iterable[Line] = ()) -> list[float]:
    """Every y that a chart must show."""
    found = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    return found + [line.y for line in lines if line.y is not None]


def line_chart(
    series: Sequence[Series], axes: Axes, lines: Sequence[Line] = (), ordered: bool = False
) -> Markup:
    """Lines with dots (up to 24 a line), intervals, dashed references and a legend.

    `ordered` colours the series from cool to warm in their order, as for temperatures.
    """
    points = [p for s in series for p in s.points]
    xs = [p.x for p in points]
    x_ends = axes.x_ends or ((min(xs), max(xs)) if min(xs) < max(xs) else spread(xs))
    frame = Frame(x_ends, ends(heights(points, lines), axes.y_ends), axes)
    parts, kinds = frame.draw(), colours(series, ordered)
    parts += [frame.reference(line) for line in lines]
    for s, colour in zip(series, kinds, strict=True):
        parts.append(polyline(frame, s, colour))
        if not s.faint and len(s.points) <= 24:
            for p in s.points:
                parts += whiskers(frame, p, colour)
                hint = f"{s.name}: {axes.x_text(p.x)}, {axes.value(p.y)}"
                parts.append(dot(frame.px(p.x), frame.py(p.y), colour, hint))
    named = [(k, s.name) for s, k in zip(series, kinds, strict=True) if not s.faint]
    named += [(f"dashed {line.colour}", line.name) for line in lines]
    label = f"{axes.y} against {axes.x}: " + ", ".join(name for _, name in named)
    return legend(named) + svg(parts, label)


def polyline(frame: Frame, series: Series, colour: str) -> Markup:
    """The line through a series' points."""
    places = " ".join(f"{frame.px(p.x):.1f},{frame.py(p.y):.1f}" for p in series.points)
    kind = f"line {colour} faint" if series.faint else f"line {colour}"
    return Markup('<polyline points="{}" class="{}"/>').format(places, kind)


def bar_chart(bars: Sequence[Point], axes: Axes, lines: Sequence[Line] = ()) -> Markup:
    """Named bars from zero (their x is not used) with intervals, and dashed references."""
    slot = (WIDTH - LEFT - RIGHT) / len(bars)
    low, high = ends([*heights(bars, lines), 0.0], axes.y_ends)
    plain = Axes(axes.x, axes.y, y_text=axes.y_text, x_ticks=(), exact=axes.value)
    frame = Frame((0, len(bars)), (low, high), plain)
    parts = frame.draw()
    for index, bar in enumerate(bars):
        parts += drawn_bar(frame, Point(index + 0.5, bar.y, bar.low, bar.high, name=bar.name), slot)
    parts += [frame.reference(line) for line in lines]
    named = [("bar", axes.y), *((f"dashed {line.colour}", line.name) for line in lines)]
    label = "; ".join(f"{bar.name}: {axes.value(bar.y)}" for bar in bars)
    return legend(named) + svg(parts, label)


def drawn_bar(frame: Frame, bar: Point, slot: float) -> list[Markup]:
    """One bar with its interval, its value at its foot (above it when short), and its name."""
    x, top, foot = frame.px(bar.x), frame.py(bar.y), frame.py(max(frame.y_ends[0], 0.0))
    width = min(slot * 0.56, 64.0)
    box = (f"{v:.1f}" for v in (x - width / 2, min(top, foot), width, abs(foot - top)))
    shape = Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="2" class="bar"/>').format(*box)
    value = frame.axes.value(bar.y)
    if foot - top > 34:
        number = text(x, foot - 10, value, "inside middle")
    else:
        number = text(
            x, frame.py(bar.y if bar.high is None else bar.high) - 7, value, "mark middle"
        )
    name = wrapped(x, HEIGHT - BOTTOM + 17, bar.name)
    return [shape, *whiskers(frame, bar, "ink"), number, *name]


def wrapped(x: float, y: float, name: str) -> list[Markup]:
    """A name under an axis: its first word, and the rest on a second line."""
    head, _, tail = name.partition(" ")
    lines = [text(x, y, head, "tick middle")]
    return [*lines, text(x, y + 14, tail, "tick middle")] if tail else lines


def scatter_path(points: Sequence[Point], axes: Axes, lines: Sequence[Line] = ()) -> Markup:
    """Named points joined by a path in their order, first cool, last warm, with intervals."""
    xs = [v for p in points for v in (p.x, p.left, p.right) if v is not None]
    x_ends = ends(xs, axes.x_ends) if axes.x_ends else spread(xs, 0.12)
    y_ends = axes.y_ends or spread(heights(points, lines), 0.12)
    frame = Frame(x_ends, y_ends, axes)
    kinds = colours([Series(p.name, [p]) for p in points], ordered=True)
    path = polyline(frame, Series("", points), "path")
    parts = [*frame.draw(), *(frame.reference(line) for line in lines), path]
    for p, colour in zip(points, kinds, strict=True):
        parts += whiskers(frame, p, colour)
    for p, colour in zip(points, kinds, strict=True):
        hint = f"{p.name}: {axes.x_text(p.x)}, {axes.value(p.y)}"
        parts.append(dot(frame.px(p.x), frame.py(p.y), colour, hint, 6))
    places = [(frame.px(p.x), frame.py(p.y), p.name) for p in points]
    parts += labels(places)
    named = [(f"dashed {line.colour}", line.name) for line in lines]
    return legend(named) + svg(parts, "; ".join(p.name for p in points))


def labels(places: Sequence[tuple[float, float, str]]) -> list[Markup]:
    """A name beside each point, on the first side where it meets no other name or point."""
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y, _ in places]
    parts = []
    for x, y, name in places:
        long = 6.8 * len(name)
        sides = [(x + 10, y - 8), (x - 10 - long, y - 8), (x + 10, y + 16), (x - 10 - long, y + 16)]
        sides += [
            (x - long / 2, y - 14),
            (x - long / 2, y + 24),
            (x + 10, y - 22),
            (x + 10, y + 30),
        ]
        boxes = [(left, at - 11, left + long, at + 3) for left, at in sides]
        free = [b for b in boxes if inside(b) and not any(overlap(b, other) for other in taken)]
        box = free[0] if free else boxes[0]
        taken.append(box)
        parts.append(text(box[0], box[3] - 3, name, "mark"))
    return parts


Box = tuple[float, float, float, float]  # left, top, right, bottom


def inside(box: Box) -> bool:
    """Whether a box lies in the drawing area."""
    return box[0] >= LEFT and box[2] <= WIDTH and box[1] >= TOP - 12 and box[3] <= HEIGHT - BOTTOM


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share a part."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def track(before: float | None, after: float) -> Markup:
    """A line from 0 to 1 with a hollow mark at `before` and a filled one at `after`."""
    parts = [segment(6, 8, 194, 8, "rail")]
    end = 6 + 188 * min(max(after, 0.0), 1.0)
    if before is not None:
        start = 6 + 188 * min(max(before, 0.0), 1.0)
        parts.append(segment(start, 8, end, 8, "move"))
        parts.append(Markup('<circle cx="{:.1f}" cy="8" r="4.5" class="hollow"/>').format(start))
    parts.append(Markup('<circle cx="{:.1f}" cy="8" r="5.5" class="full"/>').format(end))
    body = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 200 16" class="track" aria-hidden="true">{}</svg>').format(
        body
    )
