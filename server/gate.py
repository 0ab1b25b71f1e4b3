"""Where events wait until the finals among them are written: logged before they are said.

Does: have one session written down before anything is said, its token first of all; hand entries
and snapshots to the store, in order; let events through behind their entry; stop for good when the
store says that another owner has the session; write again what the store has lost of the end of a
log, and hold nothing back any more when it has lost more than that.
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
KEPT_ENTRIES = 4
"""Newest of a log that are kept to be written again: a store's standby may have less than it."""
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


@dataclass(slots=True)
class _Waiting:
    """What is to be said, and whether it may be."""

    say: Callable[[], None]
    is_written: bool = True
    """As the event loop was told in its turn: who acquired the session before the write has taken
    it over by then. That it is written may be seen earlier, and would reach the holder before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """What a gate calls."""

    begun: Callable[[], None]
    """The session is written: whoever has its token may come back."""
    passed: Callable[[Sequence[Happening]], None]
    """Events whose finals are written."""
    kept: Callable[[int], None]
    """A snapshot at this sample is written."""
    refused: Callable[[], None]
    """Another owner has the session: drop it, say nothing."""
    gone: Callable[[], None]
    """The store has lost the session: all that waited has passed, go on without this gate."""
    broken: Callable[[], None]
    """The store does not answer."""


class Gate:
    """One session's way to the store."""

    def __init__(self, clerk: Clerk, owner: Owner, outlets: Outlets) -> None:
        self.owner = owner
        self._clerk = clerk
        self._outlets = outlets
        self._waiting: deque[_Waiting] = deque()
        self._newest: deque[tuple[int, bytes, bytes]] = deque(maxlen=KEPT_ENTRIES)
        """Entries with their numbers and records."""
        self._is_shut = False
        self._asked: list[asyncio.Future[Snapshot]] = []
        """By whom the next snapshot is waited for."""

    def begin(self, token: bytes, about: bytes) -> None:
        """Have the session written down; nothing passes before."""
        waiting = _Waiting(self._outlets.begun, is_written=False)
        self._waiting.append(waiting)
        created = self._clerk.submit(lambda s: s.create(self.owner.name, token, about))
        created.add_done_callback(lambda future: self._was_written(future, waiting))

    def put(self, events: Sequence[Happening], record: Callable[[], bytes]) -> None:
        """Let events through when their finals are written; ``record`` goes with those."""
        waiting = _Waiting(lambda: self._outlets.passed(events))
        self._waiting.append(waiting)
        if any(isinstance(event, Final) for _, event in events):
            self._commit(waiting, to_entry(events), record())
        self._let_pass()

    def note(self, record: bytes) -> None:
        """Have a record written though nothing is said: its entry is empty."""
        waiting = _Waiting(lambda: None)
        self._waiting.append(waiting)
        self._commit(waiting, to_entry(()), record)

    def snapshot(self, at: int, blob: bytes) -> None:
        """Have a snapshot written."""
        owner, snapshot = self.owner, Snapshot(at, self.owner.entries, blob)
        written = self._clerk.submit(lambda s: s.put_snapshot(owner.name, owner.epoch, snapshot))
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

    def _commit(self, waiting: _Waiting, body: bytes, record: bytes) -> None:
        waiting.is_written = False
        owner, entry = self.owner, (self.owner.entries, body, record)
        owner.entries += 1
        self._newest.append(entry)
        newest = tuple(self._newest)

        def write(store: Store) -> Outcome:
            outcome = store.commit(owner.name, owner.epoch, *entry)
            if outcome is Outcome.GONE:  # perhaps only the end of the log
                outcome = [store.commit(owner.name, owner.epoch, *one) for one in newest][-1]
            return outcome

        written = self._clerk.submit(write)
        written.add_done_callback(lambda future: self._was_written(future, waiting))

    def _let_pass(self) -> None:
        while self._waiting and self._waiting[0].is_written and not self._is_shut:
            self._waiting.popleft().say()

    def _was_written(self, written: "asyncio.Future[Outcome]", waiting: _Waiting) -> None:
        if self._is_well(written):
            waiting.is_written = True
            self._let_pass()

    def _was_kept(self, written: "asyncio.Future[Outcome]", snapshot: Snapshot) -> None:
        if not self._is_well(written):
            return
        self._outlets.kept(snapshot.at)
        asked, self._asked = self._asked, []
        for future in asked:
            if not future.done():
                future.set_result(snapshot)

    def _is_well(self, written: "asyncio.Future[Outcome]") -> bool:
        """Whether the write was done and somebody wants to know; else this is the end."""
        try:
            outcome = written.result()
        except (StoreUnavailable, asyncio.CancelledError):
            outcome, tell = None, self._outlets.broken
        else:
            tell = self._outlets.gone if outcome is Outcome.GONE else self._outlets.refused
        if self._is_shut:
            return False
        if outcome is Outcome.WRITTEN:
            return True
        waiting = [*self._waiting]
        self.shut()
        if outcome is Outcome.GONE:
            for one in waiting:
                one.say()
        tell()
        return False


def to_entry(events: Sequence[Happening]) -> bytes:
    """Return what the log keeps of a step."""
    wrapped = [link.happened(0, n, event) for n, event in events if isinstance(event, _LOGGED)]
    return msgspec.msgpack.encode(wrapped)


def from_entry(body: bytes) -> list[Happening]:
    """Return the events of an entry."""
    wrapped = msgspec.msgpack.decode(body, type=list[link.Happened])
    return [(item.channel, link.event_of(item)) for item in wrapped]
