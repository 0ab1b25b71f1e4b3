"""The store in this process: for tests, and for a gateway whose own death may end its sessions.

Does: keep the interface of server.store.base; forget sessions that nobody wrote to for a while.
Does not know: files, other processes. One thread at a time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.store.base import Kept, Outcome, Snapshot

KEEP_S = 600.0


@dataclass(slots=True)
class _Session:
    token: bytes
    about: bytes
    touched: float
    previous: bytes | None = None
    epoch: int = 1
    log: list[bytes] = field(default_factory=list)
    record: bytes | None = None
    snapshot: Snapshot | None = None


class MemoryStore:
    """A dictionary (server.store.base.Store)."""

    is_lasting = False

    def __init__(
        self, *, keep_s: float = KEEP_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sessions: dict[str, _Session] = {}
        """Oldest write first."""
        self._ended: dict[str, tuple[int, float]] = {}
        """Session -> epoch of who ended it, and when; oldest first."""
        self._keep_s, self._clock = keep_s, clock

    def create(self, session: str, token: bytes, about: bytes) -> Outcome:
        """Begin a session."""
        self._expire()
        if (kept := self._sessions.get(session)) is not None:
            is_again = (kept.epoch, kept.token) == (1, token)
            return Outcome.WRITTEN if is_again else Outcome.REFUSED
        self._ended.pop(session, None)
        self._sessions[session] = _Session(token, about, self._clock())
        return Outcome.WRITTEN

    def acquire(self, session: str, token: bytes, new_token: bytes) -> Kept | None:
        """Become the owner."""
        self._expire()
        kept = self._sessions.get(session)
        if kept is None or token not in (kept.token, kept.previous):
            return None
        # presented again after a lost reply, the previous token stays the one that works
        kept.previous, kept.token = token, new_token
        kept.epoch += 1
        self._touch(session, kept)
        return Kept(kept.epoch, kept.about, tuple(kept.log), kept.record, kept.snapshot)

    def confirm(self, session: str, epoch: int) -> Outcome:
        """Spend the token before."""
        kept = self._owned(session, epoch)
        if kept is None:
            return self._refusal(session)
        kept.previous = None
        return Outcome.WRITTEN

    def commit(self, session: str, epoch: int, entry: int, body: bytes, record: bytes) -> Outcome:
        """Append to the log."""
        kept = self._owned(session, epoch)
        if kept is None:
            return self._refusal(session)
        if kept.log[entry : entry + 1] == [body]:
            return Outcome.WRITTEN
        if entry != len(kept.log):
            return Outcome.GONE if entry > len(kept.log) else Outcome.REFUSED
        kept.log.append(body)
        kept.record = record
        self._touch(session, kept)
        return Outcome.WRITTEN

    def put_snapshot(self, session: str, epoch: int, snapshot: Snapshot) -> Outcome:
        """Replace the snapshot."""
        kept = self._owned(session, epoch)
        if kept is None:
            return self._refusal(session)
        kept.snapshot = snapshot
        self._touch(session, kept)
        return Outcome.WRITTEN

    def forget(self, session: str, epoch: int) -> Outcome:
        """Remove the session."""
        if self._owned(session, epoch) is None:
            is_again = self._ended.get(session, (0, 0.0))[0] == epoch
            return Outcome.WRITTEN if is_again else self._refusal(session)
        del self._sessions[session]
        self._ended[session] = epoch, self._clock()
        return Outcome.WRITTEN

    def close(self) -> None:
        """Nothing to let go of."""

    def _owned(self, session: str, epoch: int) -> _Session | None:
        self._expire()
        kept = self._sessions.get(session)
        return kept if kept is not None and kept.epoch == epoch else None

    def _refusal(self, session: str) -> Outcome:
        is_known = session in self._sessions or session in self._ended
        return Outcome.REFUSED if is_known else Outcome.GONE

    def _touch(self, session: str, kept: _Session) -> None:
        kept.touched = self._clock()
        self._sessions[session] = self._sessions.pop(session)

    def _expire(self) -> None:
        before = self._clock() - self._keep_s
        while self._sessions:
            oldest = next(iter(self._sessions))
            if self._sessions[oldest].touched >= before:
                break
            del self._sessions[oldest]
        while self._ended:
            oldest = next(iter(self._ended))
            if self._ended[oldest][1] >= before:
                break
            del self._ended[oldest]
