"""From the tally of a run to its figures, and whether the limits of N* held.

Does: spreads, drift, words changed under load, WER; names each limit that broke.
Does not know: sockets, processes; costs of the server are handed in.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from clients.accuracy import plain_words, word_error_rate
from clients.load.drift import drift_of
from clients.load.host import Cost
from clients.load.search import Verdict
from clients.load.tally import Ended, Series, Tally

Texts = Mapping[tuple[int, str], str]
"""What was heard of a (voice, latency class) in quiet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a number of streams counts as held (design, N*)."""

    lag_ms: float = 200.0
    """p99 chunk lag, or the chunk itself when that is shorter."""
    finalize_ms: float = 300.0
    """p99."""
    drift_ms_per_min: float = 10.0
    """Upwards, in runs of a minute or more; a shorter run knows its slope worse (``_steepest``)."""
    late_ms: float = 5.0
    """p99 lateness of the load program itself; a run above it is void."""
    wer_rise: float | None = None
    """None: no transcript may change. A number: WER may rise by it (absolute)."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in ms."""

    count: int
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: "Sequence[float] | np.ndarray") -> "Spread | None":
        """Return the spread; None of nothing."""
        if not len(seconds):
            return None
        ordered = np.sort(np.asarray(seconds, float)) * 1000
        # Nearest rank, as in clients.lag.percentile: a value that was measured.
        ranks = [max(0, int(np.ceil(len(ordered) * p / 100)) - 1) for p in (50, 90, 95, 99)]
        return cls(len(ordered), *(round(float(ordered[r]), 1) for r in (*ranks, -1)))


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """What one latency class felt inside the window."""

    chunk_ms: int
    chunk_lag: Spread | None
    partial_lag: Spread | None
    finalize: Spread | None
    drift_ms_per_min: float
    drift_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run in figures."""

    streams: int
    classes: dict[str, ClassFigures]
    client_late: Spread | None
    calls: int
    failures: dict[str, int]
    compared: int
    """Whole calls with a transcript to compare with."""
    changed: int
    """Of them, those that say other words than in quiet."""
    wer: float | None
    wer_quiet: float | None
    """Of the same calls as they were heard in quiet."""
    cost: Cost = field(default_factory=Cost)
    breaks: tuple[str, ...] = ()
    """A sentence for each limit that broke."""
    is_void: bool = False
    timeline: tuple[tuple[float, float, float], ...] = ()
    """Second of the run, p50 and p99 of chunk lag in ms, all classes."""

    @property
    def verdict(self) -> Verdict:
        """What the search makes of it."""
        if self.is_void:
            return Verdict.VOID
        return Verdict.BROKEN if self.breaks else Verdict.HELD

    def as_json(self) -> dict[str, Any]:
        """Return everything."""
        return asdict(self) | {"verdict": self.verdict.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What a tally is compared with."""

    limits: Limits
    window_s: tuple[float, float]
    references: Sequence[str]
    """What each voice says."""
    quiet: Texts = field(default_factory=dict)

    def point(self, streams: int, tally: Tally, cost: Cost) -> Point:
        """Return the figures of a run."""
        figures = {
            latency: self._class(tally, latency)
            for latency in sorted({call.latency for call in tally.calls})
        }
        late = Spread.of(tally.late.values)
        whole = [call for call in tally.calls if call.is_whole and not call.failure]
        known = [call for call in whole if (call.voice, call.latency) in self.quiet]
        changed = sum(
            plain_words(call.text) != plain_words(self.quiet[call.voice, call.latency])
            for call in known
        )
        point = Point(
            streams=streams,
            classes=figures,
            client_late=late,
            calls=len(tally.calls),
            failures=dict(Counter(call.failure for call in tally.calls if call.failure)),
            compared=len(known),
            changed=changed,
            wer=self._wer([(call, call.text) for call in known or whole]),
            wer_quiet=self._wer([(c, self.quiet[c.voice, c.latency]) for c in known]),
            cost=cost,
            is_void=late is not None and late.p99 > self.limits.late_ms,
            timeline=timeline(tally),
        )
        begin, end = self.window_s
        return _with_breaks(point, self.limits, end - begin)

    def _class(self, tally: Tally, latency: str) -> ClassFigures:
        lags = tally.lags[latency].within(self.window_s)
        drift = drift_of(lags.at_s, lags.values)
        begin = self.window_s[0]
        return ClassFigures(
            chunk_ms=max(call.chunk_ms for call in tally.calls if call.latency == latency),
            chunk_lag=Spread.of(lags.values),
            partial_lag=Spread.of(tally.words[latency].within(self.window_s).values),
            # Callers who stay hang up when the window closes: their ends belong to it.
            finalize=Spread.of(tally.ends[latency].within((begin, float("inf"))).values),
            drift_ms_per_min=round(drift.ms_per_min, 2),
            drift_error=round(drift.error, 2),
        )

    def _wer(self, heard: Sequence[tuple[Ended, str]]) -> float | None:
        pairs = [(self.references[call.voice], text) for call, text in heard]
        return round(word_error_rate(pairs), 5) if pairs else None


def timeline(tally: Tally) -> tuple[tuple[float, float, float], ...]:
    """Return p50 and p99 of the lag in each second of a run."""
    whole = Series()
    for series in tally.lags.values():
        whole.merge(series)
    if not len(whole.values):
        return ()
    seconds = np.floor(np.asarray(whole.at_s)).astype(int)
    order = np.argsort(seconds, kind="stable")
    values = np.asarray(whole.values)[order]
    numbers, begins = np.unique(seconds[order], return_index=True)
    rows = []
    for number, part in zip(numbers, np.split(values, begins[1:]), strict=True):
        spread = Spread.of(part)
        assert spread is not None
        rows.append((float(number), spread.p50, spread.p99))
    return tuple(rows)


def _with_breaks(point: Point, limits: Limits, seconds: float) -> Point:
    breaks = [f"{count} calls failed: {why}" for why, count in point.failures.items()]
    for latency, figures in point.classes.items():
        breaks += [f"{latency}: {text}" for text in _broken(figures, limits, seconds)]
    if limits.wer_rise is None and point.changed:
        breaks.append(f"{point.changed} of {point.compared} transcripts changed under load")
    elif limits.wer_rise is not None and point.wer is not None and point.wer_quiet is not None:
        rise = point.wer - point.wer_quiet
        if rise > limits.wer_rise:
            breaks.append(f"WER rose by {100 * rise:.2f} points under load")
    return replace(point, breaks=tuple(breaks))


def _broken(figures: ClassFigures, limits: Limits, seconds: float) -> list[str]:
    breaks = []
    lag, finalize = figures.chunk_lag, figures.finalize
    lag_limit = min(figures.chunk_ms or limits.lag_ms, limits.lag_ms)
    if lag is None:
        breaks.append("no chunk was decoded inside the window")
    elif lag.p99 > lag_limit:
        breaks.append(f"p99 chunk lag {lag.p99:.0f} ms > {lag_limit:.0f} ms")
    if finalize is not None and finalize.p99 > limits.finalize_ms:
        breaks.append(f"p99 finalize delay {finalize.p99:.0f} ms > {limits.finalize_ms:.0f} ms")
    drift, error = figures.drift_ms_per_min, figures.drift_error
    if drift - 2 * error > _steepest(limits, seconds):
        breaks.append(f"lag drifts by {drift:.0f} ms a minute")
    return breaks


def _steepest(limits: Limits, seconds: float) -> float:
    """Return the slope that a run of this length must stay below.

    The scatter of a fitted slope falls with the length to the power of 3/2, and a queue that grows
    for want of capacity grows by thousands of ms a minute: a short run finds that one, too.
    """
    return limits.drift_ms_per_min * max(1.0, 60.0 / max(seconds, 1.0)) ** 1.5
