"""The search for N*: which number of streams to try next.

Does: double until a run breaks, halve the gap, run the winner again; a void run is repeated.
Does not know: how a run is made or judged.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum


class Verdict(Enum):
    """What a run says about its number of streams."""

    HELD = "held"
    BROKEN = "broken"
    VOID = "void"
    """The load program was late itself: the run says nothing about the server."""


@dataclass(slots=True)
class Search:
    """Ask ``next_streams``, run, ``tell``; until there is no next."""

    most: int
    start: int = 1
    resolution: float = 1 / 16
    """Gap between held and broken, as a share of held, that is narrow enough."""
    confirm: int = 2
    """Further runs that N* must hold."""
    held: Counter[int] = field(default_factory=Counter)
    broken: int | None = None
    """The fewest streams that broke."""
    is_client_limited: bool = False
    """The bound was set by runs that stayed void."""
    _voids: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if not 1 <= self.start <= self.most:
            raise ValueError("a search starts between 1 and the most streams")

    @property
    def best(self) -> int:
        """The most streams that held every time, 0 when none did."""
        return max(self.held, default=0)

    def next_streams(self) -> int | None:
        """Return the streams of the next run; None when the search is over."""
        best = self.best
        if self.broken is None and best < self.most:
            return min(self.most, best * 2) if best else self.start
        gap = (self.broken or best + 1) - best
        if gap > max(1, best * self.resolution):
            return best + gap // 2
        if best and self.held[best] <= self.confirm:
            return best
        return None

    def tell(self, streams: int, verdict: Verdict) -> None:
        """Take the verdict on the run that ``next_streams`` asked for."""
        if verdict is Verdict.HELD:
            self.held[streams] += 1
            return
        if verdict is Verdict.VOID:
            self._voids[streams] += 1
            if self._voids[streams] < 2:
                return
            self.is_client_limited = True
        else:
            self.is_client_limited = False
        self.broken = min(streams, self.broken or streams)
        self.held = Counter({n: times for n, times in self.held.items() if n < self.broken})
