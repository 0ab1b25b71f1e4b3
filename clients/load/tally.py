"""What the streams of a run felt, as numbers that travel between processes.

Does: collect and merge.
Does not know: sockets, judgement. Times count from the run's zero.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Series:
    """Values and when they were due."""

    at_s: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, at_s: float, value: float) -> None:
        """Append one."""
        self.at_s.append(at_s)
        self.values.append(value)

    def merge(self, other: "Series") -> None:
        """Append all of another."""
        self.at_s.extend(other.at_s)
        self.values.extend(other.values)

    def within(self, window_s: tuple[float, float]) -> "Series":
        """Return what was due inside the window."""
        at_s, values = np.asarray(self.at_s), np.asarray(self.values)
        is_kept = (at_s >= window_s[0]) & (at_s < window_s[1])
        return Series(array("d", at_s[is_kept]), array("d", values[is_kept]))


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a call."""

    voice: int
    latency: str
    text: str
    is_whole: bool
    chunk_ms: int
    end_s: float
    failure: str = ""


def _series() -> defaultdict[str, Series]:
    return defaultdict(Series)


@dataclass(slots=True)
class Tally:
    """Everything a run counted, by latency class where that matters."""

    lags: defaultdict[str, Series] = field(default_factory=_series)
    words: defaultdict[str, Series] = field(default_factory=_series)
    """Arrival of words, less the due time of the packet in which they end."""
    ends: defaultdict[str, Series] = field(default_factory=_series)
    """The last final, less the due time of the last packet."""
    late: Series = field(default_factory=Series)
    """How late this program woke for its packets."""
    calls: list[Ended] = field(default_factory=list)

    def merge(self, other: "Tally") -> None:
        """Take in what another process counted."""
        for mine, theirs in (
            (self.lags, other.lags),
            (self.words, other.words),
            (self.ends, other.ends),
        ):
            for latency, series in theirs.items():
                mine[latency].merge(series)
        self.late.merge(other.late)
        self.calls += other.calls

    @classmethod
    def of(cls, parts: Iterable["Tally"]) -> "Tally":
        """Return all parts as one."""
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole
