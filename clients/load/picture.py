"""Lag against streams and against time, as one SVG; several systems side by side.

Does: two panels with logarithmic lag, a colour for each system, limits and N* marked.
Does not know: how anything was measured.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, MARGIN = 960, 410, 60
"""HEIGHT is that of the panels; names stand below, a line each."""
NAME_HEIGHT = 20
COLOURS = ("#0b7285", "#d9480f", "#6741d9", "#2b8a3e", "#a61e4d")
LOWEST_MS, HIGHEST_MS = 1.0, 100_000.0
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #343a40 }
.title { font-weight: 600; font-size: 14px }
.grid { stroke: #dee2e6 } .axis { stroke: #868e96 } .back { fill: #ffffff }
.limit { stroke: #868e96; stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
  text { fill: #dee2e6 } .grid { stroke: #343a40 } .back { fill: #16191d } }
"""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line: (x, lag in ms)."""

    points: tuple[tuple[float, float], ...]
    is_bold: bool = True
    """p99 is bold, p50 is not."""


@dataclass(frozen=True, slots=True)
class System:
    """What was measured of one server."""

    name: str
    by_streams: tuple[Curve, ...]
    by_time: tuple[Curve, ...]
    most_streams: int
    """Its N*, 0 when unknown."""
    streams_in_time: int
    """How many streams the lag against time belongs to."""


@dataclass(frozen=True, slots=True)
class _Panel:
    """A pair of axes."""

    left: float
    right: float
    x_from: float
    x_until: float
    y_from: float
    y_until: float

    def x(self, value: float) -> float:
        span = max(1e-9, self.x_until - self.x_from)
        return self.left + (value - self.x_from) / span * (self.right - self.left)

    def y(self, ms: float) -> float:
        low, high = math.log10(self.y_from), math.log10(self.y_until)
        bounded = min(max(ms, self.y_from), self.y_until)
        share = (math.log10(bounded) - low) / (high - low)
        return HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN - 20)


def draw(systems: Sequence[System], *, limit_ms: float) -> str:
    """Return the picture."""
    lags = [y for s in systems for c in (*s.by_streams, *s.by_time) for _, y in c.points]
    bottom, top = _decades([*lags, limit_ms])
    middle = WIDTH / 2
    height = HEIGHT + NAME_HEIGHT * len(systems)
    most = max((x for s in systems for c in s.by_streams for x, _ in c.points), default=1.0)
    times = [x for s in systems for c in s.by_time for x, _ in c.points] or [0.0, 1.0]
    left = _Panel(MARGIN, middle - 20, 0, most, bottom, top)
    right = _Panel(middle + MARGIN - 10, WIDTH - 20, min(times), max(times), bottom, top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="Chunk lag against streams and against time">',
        f'<style>{STYLE}</style><rect class="back" width="{WIDTH}" height="{height}"/>',
        *_axes(left, "Chunk lag against streams (thin p50, bold p99)", "streams", limit_ms),
        *_axes(right, "Chunk lag against time", "seconds of the run", limit_ms),
    ]
    for number, system in enumerate(systems):
        colour = COLOURS[number % len(COLOURS)]
        parts += _lines(left, system.by_streams, colour, has_dots=True)
        parts += _lines(right, system.by_time, colour, has_dots=False)
        parts += _mark(left, system, colour)
        y = HEIGHT + NAME_HEIGHT * number
        parts.append(f'<rect x="{MARGIN}" y="{y - 6}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{MARGIN + 20}" y="{y}">{escape(_label(system))}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _label(system: System) -> str:
    most = f"N* {system.most_streams}, " if system.most_streams else ""
    return f"{system.name}: {most}over time with {system.streams_in_time} streams"


def _decades(lags: Iterable[float]) -> tuple[float, float]:
    bounded = [min(max(lag, LOWEST_MS), HIGHEST_MS) for lag in lags]
    low = 10 ** math.floor(math.log10(min(bounded)))
    return low, max(10 * low, 10 ** math.ceil(math.log10(max(bounded))))


def _axes(panel: _Panel, title: str, x_label: str, limit_ms: float) -> Iterable[str]:
    bottom = HEIGHT - MARGIN
    yield f'<text class="title" x="{panel.left:.0f}" y="28">{title}</text>'
    decade = panel.y_from
    while decade <= panel.y_until * 1.001:
        y = panel.y(decade)
        yield _line("grid", panel.left, y, panel.right, y)
        label = f"{decade:g} ms" if decade < 1000 else f"{decade / 1000:g} s"
        yield f'<text x="{panel.left - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        decade *= 10
    for number in range(5):
        value = panel.x_from + (panel.x_until - panel.x_from) * number / 4
        x = panel.x(value)
        yield f'<text x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">{value:.0f}</text>'
    y = panel.y(limit_ms)
    yield _line("limit", panel.left, y, panel.right, y)
    yield f'<text x="{panel.right:.0f}" y="{y - 5:.1f}" text-anchor="end">limit</text>'
    yield _line("axis", panel.left, bottom, panel.right, bottom)
    middle = (panel.left + panel.right) / 2
    yield f'<text x="{middle:.0f}" y="{bottom + 32}" text-anchor="middle">{x_label}</text>'


def _lines(panel: _Panel, curves: Sequence[Curve], colour: str, *, has_dots: bool) -> Iterable[str]:
    for curve in curves:
        points = [(panel.x(x), panel.y(y)) for x, y in curve.points]
        width = 2.5 if curve.is_bold else 1
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        if has_dots and curve.is_bold:
            for x, y in points:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _mark(panel: _Panel, system: System, colour: str) -> Iterable[str]:
    if system.most_streams:
        x = panel.x(system.most_streams)
        yield (
            f'<line x1="{x:.1f}" y1="{MARGIN - 10}" x2="{x:.1f}" y2="{HEIGHT - MARGIN}" '
            f'stroke="{colour}" stroke-dasharray="2 3"/>'
        )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
