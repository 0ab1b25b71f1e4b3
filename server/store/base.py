"""The interface of every store, and the values that go in and out.

Does: name the methods, each one transaction, and what a write may answer.
Does not know: what bodies, records and snapshots hold; sessions, workers, clocks of the media.

Each session has an epoch, the number of its ownership. Every write carries the writer's epoch; an
older one is refused: that writer is not the owner any more, drops the session and sends nothing.
Tokens come here hashed.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Outcome(Enum):
    """What became of a write."""

    WRITTEN = "written"
    REFUSED = "refused"
    """Another owner has a newer epoch or has ended the session, or the entry is not the next."""
    GONE = "gone"
    """Nothing is known of the session, not even that it is over, or of the entries before this
    one: the store has lost it, or the end of its log."""


class StoreUnavailable(Exception):
    """The store cannot answer now; nothing is known of the write, which may be tried again."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of a session at sample ``at``; ``entries`` is the length of its log then."""

    at: int
    entries: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """A session as its new owner finds it."""

    epoch: int
    about: bytes
    log: tuple[bytes, ...]
    record: bytes | None
    """What was written with the last entry of the log."""
    snapshot: Snapshot | None


class Store(Protocol):
    """A linearizable home of sessions. Calls may block: they are made off the event loop."""

    is_lasting: bool
    """Whether sessions are there when this process is not."""

    def create(self, session: str, token: bytes, about: bytes) -> Outcome:
        """Begin a session with epoch 1; REFUSED when there is another of this name.

        The same once more is WRITTEN: after StoreUnavailable the writer tries again.
        """
        ...

    def acquire(self, session: str, token: bytes, new_token: bytes) -> Kept | None:
        """Become the owner; None: no such session or token.

        The token that was current works on until ``confirm``, so that a lost reply locks nobody
        out; any older one is spent.
        """
        ...

    def confirm(self, session: str, epoch: int) -> Outcome:
        """Spend the token of the last ``acquire``: the client has shown that it has the new one."""
        ...

    def commit(self, session: str, epoch: int, entry: int, body: bytes, record: bytes) -> Outcome:
        """Append entry number ``entry`` to the log and replace the record beside it.

        The same entry once more is WRITTEN: after StoreUnavailable the writer tries again.
        """
        ...

    def put_snapshot(self, session: str, epoch: int, snapshot: Snapshot) -> Outcome:
        """Replace the snapshot."""
        ...

    def forget(self, session: str, epoch: int) -> Outcome:
        """Remove the session: it is over. That it is, is remembered as long as a session is kept.

        Once more by the same owner is WRITTEN: after StoreUnavailable the writer tries again.
        """
        ...

    def close(self) -> None:
        """Let go of files and sockets."""
        ...
