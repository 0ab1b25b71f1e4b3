"""Where events wait until the finals among them are written: logged before they are said.

Does: hand entries and snapshots of one session to the store, in order; let events through behind
their entry; stop for good when the store says that another owner has the session.
Does not know: workers, clients, what a snapshot holds.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from asr.events import Event, Final, TurnEnd, TurnStart
from server.store.base import Outcome, Snapshot, Store, StoreUnavailable
from server.store.clerk import Clerk
from server.worker import link

Happening = tuple[int, Event]
_LOGGED = (Final, TurnStart, TurnEnd)
"""What a client that comes back is told again."""


@dataclass(slots=True)
class Owner:
    """Who we are to the store."""

    name: str
    epoch: int
    """Only the clerk's thread changes it."""
    entries: int = 0
    """Length of the log, entries on their way included."""
    known_epoch: int = field(init=False)
    """Of which the event loop knows: what it ends is not what is being given to a new owner."""

    def __post_init__(self) -> None:
        self.known_epoch = self.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """What a gate calls."""

    passed: Callable[[Sequence[Happening]], None]
    """Events whose finals are written."""
    kept: Callable[[int], None]
    """A snapshot at this sample is written."""
    refused: Callable[[], None]
    """Another owner has the session: drop it, say nothing."""
    broken: Callable[[], None]
    """The store does not answer."""


class Gate:
    """One session's way to the store."""

    def __init__(self, clerk: Clerk, owner: Owner, outlets: Outlets) -> None:
        self.owner = owner
        self._clerk = clerk
        self._outlets = outlets
        self._waiting: deque[tuple[Sequence[Happening], asyncio.Future[Outcome] | None]] = deque()
        self._is_shut = False
        self._asked: list[asyncio.Future[Snapshot]] = []
        """By whom the next snapshot is waited for."""

    def put(self, events: Sequence[Happening], record: Callable[[], bytes]) -> None:
        """Let events through when their finals are written; ``record`` goes with those."""
        written: asyncio.Future[Outcome] | None = None
        if any(isinstance(event, Final) for _, event in events):
            owner, entry, body, kept = self.owner, self.owner.entries, to_entry(events), record()
            owner.entries += 1
            written = self._submit(lambda s: s.commit(owner.name, owner.epoch, entry, body, kept))
        self._waiting.append((events, written))
        self._let_pass()

    def snapshot(self, at: int, blob: bytes) -> None:
        """Have a snapshot written."""
        owner, snapshot = self.owner, Snapshot(at, self.owner.entries, blob)
        written = self._submit(lambda s: s.put_snapshot(owner.name, owner.epoch, snapshot))
        written.add_done_callback(lambda future: self._was_kept(future, snapshot))

    def next_snapshot(self) -> "asyncio.Future[Snapshot]":
        """Return the next snapshot once it is written; it may never come."""
        future: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        self._asked = [*(one for one in self._asked if not one.done()), future]
        return future

    def shut(self) -> None:
        """Let nothing pass any more."""
        self._is_shut = True
        self._waiting.clear()

    def _submit(self, act: Callable[[Store], Outcome]) -> "asyncio.Future[Outcome]":
        future = self._clerk.submit(act)
        future.add_done_callback(self._answered)
        return future

    def _answered(self, written: "asyncio.Future[Outcome]") -> None:
        if not written.cancelled():
            written.exception()  # read by somebody, even when the gate is shut
        self._let_pass()

    def _let_pass(self) -> None:
        while self._waiting and not self._is_shut:
            events, written = self._waiting[0]
            if written is not None and (not written.done() or not self._is_well(written)):
                return
            self._waiting.popleft()
            self._outlets.passed(events)

    def _was_kept(self, written: "asyncio.Future[Outcome]", snapshot: Snapshot) -> None:
        if self._is_shut or not self._is_well(written):
            return
        self._outlets.kept(snapshot.at)
        asked, self._asked = self._asked, []
        for future in asked:
            if not future.done():
                future.set_result(snapshot)

    def _is_well(self, written: "asyncio.Future[Outcome]") -> bool:
        """Whether the write was done; else this is the end."""
        try:
            is_written = written.result() is Outcome.WRITTEN
        except (StoreUnavailable, asyncio.CancelledError):
            self.shut()
            self._outlets.broken()
            return False
        if not is_written:
            self.shut()
            self._outlets.refused()
        return is_written


def to_entry(events: Sequence[Happening]) -> bytes:
    """Return what the log keeps of a step."""
    wrapped = [link.happened(0, n, event) for n, event in events if isinstance(event, _LOGGED)]
    return msgspec.msgpack.encode(wrapped)


def from_entry(body: bytes) -> list[Happening]:
    """Return the events of an entry."""
    wrapped = msgspec.msgpack.decode(body, type=list[link.Happened])
    return [(item.channel, link.event_of(item)) for item in wrapped]
