"""The laboratory on a terminal: what the running load feels, and a line for each run that is over.

Does: redraw two rows while a run goes on; append finished runs; plain lines without a terminal.
Does not know: how figures come about.
"""

import shutil
from dataclasses import dataclass, field
from typing import TextIO

from clients.console import CLEAR_LINE, CURSOR_UP, columns_of, fit
from clients.lag import percentile
from clients.load.judge import Point
from clients.load.search import Verdict
from clients.load.share import Tick

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 40
RECENT = 6
"""Ticks that the shown percentiles look back: one may hold no chunk at all."""
FULL_MS = 400.0
"""Lag that fills a bar."""
MARKS = {Verdict.HELD: "held", Verdict.BROKEN: "broke", Verdict.VOID: "void"}


@dataclass(slots=True)
class View:
    """Where the laboratory shows what it does."""

    stream: TextIO
    is_terminal: bool
    _title: str = ""
    _total_s: float = 1.0
    _history: list[float] = field(default_factory=list)
    _recent: list[tuple[float, ...]] = field(default_factory=list)
    _rows: int = 0

    def begin(self, title: str, total_s: float) -> None:
        """Start to show a run."""
        self._title, self._total_s = title, total_s
        self._history.clear()
        self._recent.clear()

    def tick(self, at_s: float, tick: Tick) -> None:
        """Show what happened since the last tick."""
        if not self.is_terminal:
            return
        self._recent = [*self._recent, tick.lags_s][-RECENT:]
        lags = [lag for lags_s in self._recent for lag in lags_s]
        p50, p99 = (1000 * percentile(lags, p) if lags else 0.0 for p in (50, 99))
        self._history = [*self._history, p99][-HISTORY:]
        share = min(1.0, max(0.0, at_s / self._total_s))
        filled = round(24 * share)
        self._draw(
            f"{self._title}  [{'#' * filled}{'-' * (24 - filled)}] {max(0.0, at_s):3.0f} s",
            f"live {tick.live:4d}   lag p50 {p50:5.0f}  p99 {p99:5.0f} ms  {bars(self._history)}"
            f"   client late {1000 * tick.late_s:.1f} ms   ended {tick.ended}"
            + (f"   failed {tick.failed}" if tick.failed else ""),
        )

    def end(self, point: Point) -> None:
        """Write the line of a finished run."""
        self.note(line_of(point))

    def note(self, text: str) -> None:
        """Write a line that stays."""
        self._draw()
        self.stream.write(text + "\n")
        self.stream.flush()

    def _draw(self, *rows: str) -> None:
        if not self.is_terminal:
            return
        width = max(20, shutil.get_terminal_size((100, 24)).columns - 1)
        out = CLEAR_LINE + (CURSOR_UP + CLEAR_LINE) * max(0, self._rows - 1)
        cut = [row if columns_of(row) <= width else fit(row, width) for row in rows]
        self.stream.write(out + "\n".join(cut))
        self.stream.flush()
        self._rows = len(rows)


def bars(values: list[float]) -> str:
    """Return a bar for each lag in ms."""
    top = len(BARS) - 1
    return "".join(BARS[min(top, max(0, int(value / FULL_MS * top)))] for value in values)


def line_of(point: Point) -> str:
    """One run in one line."""
    parts = [f"{point.streams:5d} streams  {MARKS[point.verdict]:5s}"]
    for latency, figures in point.classes.items():
        lag, end = figures.chunk_lag, figures.finalize
        shown = f"{lag.p50:.0f} / {lag.p95:.0f} / {lag.p99:.0f} / {lag.max:.0f}" if lag else "none"
        last = f"{end.p50:.0f} / {end.p99:.0f}" if end else "none"
        parts.append(
            f"{latency}: lag p50/95/99/max {shown} ms, final p50/99 {last} ms, "
            f"drift {figures.drift_ms_per_min:+.0f}±{figures.drift_error:.0f} ms/min"
        )
    if point.cost.cpu_ms_per_audio_s is not None:
        parts.append(f"cpu {point.cost.cpu_ms_per_audio_s:.1f} ms/s")
    if point.is_void and point.client_late:
        parts.append(f"this program was late itself: p99 {point.client_late.p99:.1f} ms")
    return "  ".join([*parts, *point.breaks])
