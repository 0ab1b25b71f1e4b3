"""How long decoding is behind the arrival of audio, for one session.

Does: arrivals + progress -> chunk lags in seconds and the level the client is told.
Does not know: wires, engines, clocks (``now`` is an argument).
"""

from collections import deque

from server.wire.messages import LagLevel

LAG_WARN_MS, LAG_OK_MS = 1_000, 500
AHEAD_MS = 500
"""A client further ahead of real time than this sends a file: its backlog is no lag."""


class Lag:
    """Delay from the arrival of a sample to its decoding, while audio comes no faster than time."""

    def __init__(self) -> None:
        self.ms = 0
        self.measured_s: list[float] = []
        self._arrivals: deque[tuple[int, float]] = deque()
        """(samples received until then, when); no finer than 20 ms."""
        self._first: tuple[int, float] | None = None
        self._is_late = False

    def received(self, at: int, rate: int, now: float) -> None:
        """Note that samples up to ``at`` are here."""
        if self._first is None:
            self._first = (at, now)
        first_at, first = self._first
        if ((at - first_at) / rate - (now - first)) * 1000 > AHEAD_MS:
            self._arrivals.clear()
            return
        if not self._arrivals or (at - self._arrivals[-1][0]) * 50 >= rate:
            self._arrivals.append((at, now))

    def decoded(self, done: int, now: float) -> LagLevel | None:
        """Note that samples up to ``done`` are decoded; return the level if it changed."""
        while self._arrivals and self._arrivals[0][0] < done:
            self._arrivals.popleft()
        if not self._arrivals:
            return None
        lag_s = max(0.0, now - self._arrivals[0][1])
        self.measured_s.append(lag_s)
        self.ms = round(lag_s * 1000)
        if not self._is_late and self.ms > LAG_WARN_MS:
            self._is_late = True
            return "warn"
        if self._is_late and self.ms < LAG_OK_MS:
            self._is_late = False
            return "ok"
        return None
