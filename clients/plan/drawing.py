"""The course of a simulation as one SVG.

Does: three panels over time: sessions, loads of the workers, gaps of moved sessions.
Does not know: how it was simulated.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from clients.plan.simulation import Course, Scenario

WIDTH, PANEL, MARGIN, TOP = 900, 150, 70, 60
POINTS = 400
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #343a40 }
.title { font-weight: 600; font-size: 14px }
.grid { stroke: #dee2e6 } .back { fill: #ffffff } path { fill: none; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #dee2e6 } .grid { stroke: #343a40 } .back { fill: #16191d } }
"""
Line = tuple[str, str, npt.NDArray[np.float64]]
"""Name, colour, a value a second."""


def draw(course: Course, scenario: Scenario) -> str:
    """Return the picture."""
    seconds = scenario.seconds
    gaps = np.zeros(seconds)
    np.maximum.at(gaps, course.gap_times, course.gaps_s)
    panels: list[tuple[str, Sequence[Line]]] = [
        (
            "sessions",
            (
                ("live", "#0b7285", course.live.astype(np.float64)),
                ("refused so far", "#d9480f", np.cumsum(course.refused).astype(np.float64)),
            ),
        ),
        (
            "share of a worker's room",
            (
                ("fullest worker", "#d9480f", course.load_max),
                ("99th of a hundred", "#6741d9", course.load_p99),
                ("median", "#0b7285", course.load_p50),
            ),
        ),
        ("longest gap of a moved session, s", (("gap", "#a61e4d", gaps),)),
    ]
    height = TOP + len(panels) * (PANEL + 50)
    first, last = (t / 60 for t in scenario.rolling)
    title = (
        f"{scenario.sessions} sessions on {scenario.workers} workers, seed {scenario.seed}: "
        f"{course.deaths} deaths, all restarted from minute {first:.0f} to {last:.0f}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{height}"/>',
        f'<text class="title" x="{MARGIN}" y="26">{escape(title)}</text>',
    ]
    for number, (name, lines) in enumerate(panels):
        parts += _panel(name, lines, TOP + number * (PANEL + 50), seconds)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(name: str, lines: Sequence[Line], top: float, seconds: int) -> list[str]:
    most = max(1e-9, *(float(values.max()) for _, _, values in lines)) * 1.05
    bottom, right = top + PANEL, WIDTH - 30
    parts = [f'<text x="{MARGIN}" y="{top - 6}">{escape(name)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * PANEL
        parts.append(f'<line class="grid" x1="{MARGIN}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="8" y="{y + 4}">{most * share:.3g}</text>')
    for minute in range(0, seconds // 60 + 1, 10):
        x = MARGIN + minute * 60 / seconds * (right - MARGIN)
        parts.append(f'<text x="{x:.0f}" y="{bottom + 16}">{minute} min</text>')
    for position, (label, colour, values) in enumerate(lines):
        parts.append(_path(values, colour, (MARGIN, right), (bottom, PANEL / most)))
        x = right - 150 * (len(lines) - position)
        parts.append(f'<text x="{x}" y="{top - 6}" style="fill:{colour}">{escape(label)}</text>')
    return parts


def _path(
    values: npt.NDArray[np.float64],
    colour: str,
    across: tuple[float, float],
    up: tuple[float, float],
) -> str:
    """Draw the highest value of each piece of time."""
    pieces = np.array_split(values, min(POINTS, len(values)))
    (left, right), (bottom, scale) = across, up
    step = (right - left) / max(1, len(pieces) - 1)
    points = [f"{left + i * step:.1f} {bottom - p.max() * scale:.1f}" for i, p in enumerate(pieces)]
    return f'<path stroke="{colour}" d="M{" L".join(points)}"/>'
