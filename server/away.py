"""Sessions without a client, the longest away first: until when, and how much is kept of them.

Does: end each in time, and the longest away when they are too many or hold too much memory.
Does not know: what a session is, what is kept of it, what ending it means.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

MAX_AWAY = 4_096
"""Sessions put away at once."""


@dataclass(slots=True)
class _One:
    timer: asyncio.TimerHandle
    size: int


class Away:
    """Who may come back. Made anywhere, used in one event loop."""

    def __init__(self, end: Callable[[int], None], *, seconds: float, most_bytes: int) -> None:
        self._end = end
        """Called for each that must go; it calls ``remove``."""
        self.seconds, self._most_bytes = seconds, most_bytes
        self._all: dict[int, _One] = {}
        self.size = 0
        """Bytes kept of all of them."""

    def __len__(self) -> int:
        return len(self._all)

    def add(self, session: int, size: int) -> None:
        """Count a session whose client is gone from now on."""
        self.remove(session)
        timer = asyncio.get_running_loop().call_later(self.seconds, self._end, session)
        self._all[session] = _One(timer, size)
        self.size += size
        self._make_room()

    def weigh(self, session: int, size: int) -> None:
        """Know what is kept of a session by now; nothing if it is not away."""
        if (one := self._all.get(session)) is not None:
            self.size += size - one.size
            one.size = size
            self._make_room()

    def remove(self, session: int) -> None:
        """Count a session no more. Idempotent."""
        if one := self._all.pop(session, None):
            one.timer.cancel()
            self.size -= one.size

    def clear(self) -> None:
        """End nobody any more."""
        for session in list(self._all):
            self.remove(session)

    def _make_room(self) -> None:
        while len(self._all) > MAX_AWAY or self.size > self._most_bytes:
            self._end(next(iter(self._all)))
