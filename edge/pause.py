"""A peer that sends nothing, told apart from a link that is stuck, without I/O.

Does: count the time of a pause. The answer to a question comes behind all that was sent before it:
where it is all that came, the peer was silent until we asked. What a stuck link holds back comes
later, and no time was lost.
Does not know: sockets, clocks; what the question is (a ping).
"""


class Pause:
    """All time up to ``known`` was told, as audio or as a pause."""

    def __init__(self, now: float) -> None:
        self.known = now
        self._asked = now
        self._is_sure = False

    def ask(self, now: float) -> None:
        """Note that we ask, after a while in which nothing came."""
        self._asked = now

    def answered(self) -> float:
        """Return the seconds of silence that are sure now: the answer is all that came."""
        seconds, self.known, self._is_sure = self._asked - self.known, self._asked, True
        return seconds

    def end(self, now: float) -> float:
        """Return the seconds of the pause that were not told yet, as something came."""
        seconds = now - self.known if self._is_sure else 0.0
        self.known, self._is_sure = now, False
        return seconds
