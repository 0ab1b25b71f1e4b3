"""How fast a gateway gives room to who can wait: by the lags of the newest chunks, bit by bit.

Does: notice that chunks come late, whoever is to blame: an engine, this process, the machine; let a
few sessions a second come where workers are no longer idle, so that the next lags tell in time;
remember at how many streams chunks came late, and come near it slowly.
Does not know: workers, sessions, clocks (a beat is BEAT_S).
"""

import math

from server.cost import MOST_LAG_S, period_s
from server.worker.heart import BEAT_S

EASE, LATE_SHARE, FEW = 0.9, 0.03, 10
"""Chunks that take more than this share of their limit are late; so many of them are too many."""
LASTING = 0.9
"""Weight of a lag a beat later."""
EASY = 0.5
"""A worker that is less busy than this takes whoever comes."""
GROWTH, LEAST = 0.25, 4.0
"""Beyond it, a second brings this share of the streams, or so many streams."""
BACK, FORTH = 0.9, 0.01
"""Of the streams with which chunks came late so many may be there again, and this share more with
each second that is in time."""


class Pace:
    """One gateway's."""

    def __init__(self) -> None:
        self._late = self._all = 0.0
        self._may = LEAST
        self._streams = 0
        self._most = math.inf
        self._was_late = False

    def heard(self, look_ahead: int, lag_s: float) -> None:
        """Take the lag of a chunk."""
        self._all += 1
        self._late += lag_s > EASE * min(MOST_LAG_S, period_s(look_ahead))

    def tick(self, streams: int) -> None:
        """Let a beat pass; there are so many streams."""
        if self.is_late and not self._was_late:
            self._most = BACK * streams
        elif not self.is_late:
            self._most *= 1 + BEAT_S * FORTH
        self._was_late, self._streams = self.is_late, streams
        self._late *= LASTING
        self._all *= LASTING
        a_second = max(LEAST, GROWTH * streams)
        self._may = min(a_second, self._may + BEAT_S * a_second)

    def took(self, streams: int) -> None:
        """Count a new session."""
        self._may = max(0.0, self._may - streams)
        self._streams += streams

    @property
    def is_late(self) -> bool:
        """Whether more than a few of the newest chunks came near their limit."""
        return self._late > LATE_SHARE * (self._all + FEW)

    def allows(self, streams: int, busy: float) -> bool:
        """Whether a session may come to a worker that is so busy now."""
        if self.is_late or busy <= EASY:
            return not self.is_late
        return self._may >= min(streams, LEAST) and self._streams + streams <= self._most
