"""The finalize requests of a session that wait for their answer.

Does: requests -> keys for the worker; all channels' answers -> one ``finalized``.
Does not know: channels' words, sockets, workers.
"""

from dataclasses import dataclass

from server.wire.errors import RateLimited
from server.wire.messages import Finalized

MAX_WAITING = 16


@dataclass(slots=True)
class _Asked:
    req: str | None
    waiting: int
    at: int


class Asked:
    """Requests by key, in flight."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Asked] = {}
        self._next = 0

    def ask(self, req: str | None, *, channels: int, at: int) -> str:
        """Note a request made at sample ``at``; return the key each channel answers with.

        Raises:
            RateLimited: too many wait already.

        """
        if len(self._waiting) >= MAX_WAITING:
            text = f"{MAX_WAITING} finalize requests wait already"
            raise RateLimited(text, is_fatal=False, req=req)
        key = str(self._next)
        self._next += 1
        self._waiting[key] = _Asked(req, channels, at)
        return key

    def answered(self, key: str) -> Finalized | None:
        """Take one channel's answer; return what the client is told when it was the last."""
        asked = self._waiting.get(key)
        if asked is None:
            return None
        asked.waiting -= 1
        if asked.waiting:
            return None
        del self._waiting[key]
        return Finalized(req=asked.req, at=asked.at)
