"""What of one session outlives the worker that serves it: commands, states, what was said.

Does: keep the commands behind the last snapshot, the snapshot and the record of each channel; make
the commands that bring the session back elsewhere; let of a worker's events through only what was
not said before.
Does not know: workers, stores, sockets, clocks, what audio sounds like.

A snapshot is all of a channel. A record is taken with each final and holds the text side and the
decoder only: whoever goes on from it encodes the audio behind the snapshot again and decodes
behind the record, so that what a final says is never decided twice.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from asr.events import (
    EagerEnd,
    Event,
    Final,
    Finalized,
    Partial,
    Stopped,
    TurnEnd,
    TurnResumed,
    TurnStart,
)
from server.hush import spelled
from server.wire.messages import SAMPLE_BYTES
from server.worker import link

SNAPSHOT_EVERY_S = 15
"""Audio between two snapshots; their number costs more than the replay of a little more."""
TELL_EVERY_S = 60
"""Settled silence between two words to a store about its length."""
RING_S = 90
"""Audio that is kept to be heard again: a flow window, the time between snapshots, and room."""

SMALL_BYTES = 1_024
"""Audio that waits is not kept in smaller packets: each would take more than it holds."""
MAX_COMMANDS = 16_384
"""Commands that are kept to be heard again; without a snapshot for as many, all is given up."""

Happening = tuple[int, Event]
_TURN_EVENTS = (TurnStart, EagerEnd, TurnResumed, TurnEnd)
_TurnKey = tuple[str, int]


class LedgerFull(Exception):
    """The session cannot be brought back any more: no snapshot came for too long."""


@dataclass(slots=True)
class _Channel:
    """What one channel said, and what brings it back."""

    state: link.State = field(default_factory=link.State)
    finals: int = 0
    turns: list[_TurnKey] = field(default_factory=list)
    """Turn events that would come again from the state."""
    expected: deque[_TurnKey] = field(default_factory=deque)
    """Of those, what a replay has still to say again."""
    partial: Partial | None = None

    def fresh(self, event: Event) -> Event | None:
        """Return the event, or the part of it that was not said before."""
        if isinstance(event, Partial):
            return self._fresh_partial(event)
        if isinstance(event, _TURN_EVENTS):
            return self._fresh_turn(event)
        if isinstance(event, Final):
            if event.id < self.finals:
                return None
            self.finals, self.partial = event.id + 1, None
        elif isinstance(event, Stopped):
            self.state = link.State(is_closed=True)
        return event

    def keep(self, state: link.State) -> None:
        """Take a newer state: what was said until then does not come again."""
        self.state = state
        self.turns = list(self.expected)

    def revive(self) -> None:
        """Expect what the state will say again."""
        self.expected = deque(self.turns)

    def _fresh_partial(self, event: Partial) -> Partial | None:
        shown = self.partial
        if shown is not None and event.id == shown.id:
            if not event.stable.startswith(shown.stable):
                return None  # a replay that is not there yet
            if (event.stable, event.text) == (shown.stable, shown.text):
                return None
            event = replace(event, rev=max(event.rev, shown.rev + 1))
        self.partial = event
        return event

    def _fresh_turn(self, event: TurnStart | EagerEnd | TurnResumed | TurnEnd) -> Event | None:
        key = type(event).__name__, event.turn
        if self.expected and self.expected[0] == key:
            self.expected.popleft()
            return None
        self.expected.clear()  # rounding made the replay part ways: the order stays legal
        self.turns.append(key)
        return event


@dataclass(slots=True)
class _Asked:
    """A finalize that is not answered."""

    answered: set[int] = field(default_factory=set)


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What a store keeps of a session beside its finals."""

    opening: link.Open
    """With the states; as of its sample ``at``."""
    finals: tuple[int, ...]
    hushed: int = 0
    """Samples of digital silence behind it that change no state."""
    deaths: int = 0
    """Of workers under it without progress; whoever takes it up goes on counting."""
    reached: int = 0
    """Samples decoded at best: less is no progress."""


class Ledger:
    """The books of one session."""

    def __init__(self, opening: link.Open, finals: Sequence[int] = (), *, hushed: int = 0) -> None:
        self._opening = msgspec.structs.replace(opening, states=())
        """As of the first command that is kept."""
        states = opening.states or (link.State(),) * opening.channels
        counts = finals or (0,) * opening.channels
        self._channels = [_Channel(s, n) for s, n in zip(states, counts, strict=True)]
        self._journal: deque[tuple[int, link.Command]] = deque()
        """(samples heard before it, command)."""
        self._asked: dict[str, _Asked] = {}
        self._frame_bytes = SAMPLE_BYTES[opening.encoding] * opening.channels
        self.at = self.saved_at = self._asked_at = opening.at
        self._every = SNAPSHOT_EVERY_S * opening.rate
        self._held = self._silence = 0
        """Samples of audio in the journal; of digital silence behind it."""
        self.is_settled = bool(hushed)
        """Whether a state that has heard the silence is the one that has not."""
        self._is_lost = False
        self.deaths = self.reached = 0
        """Workers that died under the session since it last got further, and how far it got."""
        self.hush(hushed)
        self._told_at = self.at
        """Until here a store knows of the silence."""

    @property
    def channels(self) -> int:
        """Audio channels."""
        return self._opening.channels

    @property
    def opening(self) -> link.Open:
        """How the session began, or goes on behind its snapshot."""
        return self._opening

    @property
    def stopped(self) -> dict[int, int]:
        """Finals of the channels that have stopped."""
        return {n: c.finals for n, c in enumerate(self._channels) if c.state.is_closed}

    @property
    def is_over(self) -> bool:
        """Whether every channel has stopped."""
        return all(channel.state.is_closed for channel in self._channels)

    @property
    def is_asked(self) -> bool:
        """Whether a finalize waits for its answer."""
        return bool(self._asked)

    @property
    def is_lost(self) -> bool:
        """Whether the session lives and dies with its worker."""
        return self._is_lost

    @property
    def unheard(self) -> int:
        """Samples behind the snapshot that are kept as they came."""
        return self._held

    @property
    def hushed(self) -> int:
        """Samples of digital silence that are kept by their length alone."""
        return self._silence

    @property
    def state_bytes(self) -> int:
        """What is kept of the session in memory."""
        states = [channel.state for channel in self._channels]
        blobs = sum(len(s.snapshot or b"") + len(s.record or b"") for s in states)
        return blobs + self._held * self._frame_bytes

    # ---- commands

    def note(self, command: link.Command) -> None:
        """Keep a command that is on its way to the worker."""
        if isinstance(command, link.Finalize):
            self._asked[command.req] = _Asked()
        self._spell_out()
        self._append(command)
        self._is_lost |= self._held > RING_S * self._opening.rate
        self._is_lost |= len(self._journal) > MAX_COMMANDS
        if self._is_lost:
            self._journal.clear()

    def hush(self, samples: int) -> None:
        """Keep digital silence by its length: nobody serves the session who could hear it."""
        self._silence += samples
        self.at += samples

    def settle(self) -> None:
        """Know that all audio behind the snapshot is digital silence, and so was much before it.

        Of so long a silence any number of whole chunks can be left out.
        """
        journal, self._journal = self._journal, deque()
        for at, command in journal:
            if isinstance(command, link.Audio):
                self._silence += self.length(command)
            else:
                self._journal.append((at, command))
        self._held, self.is_settled = 0, True

    def wants_telling(self) -> bool:
        """Whether a store should hear how long a settled silence is by now; once each time."""
        if not self.is_settled or self.at - self._told_at < TELL_EVERY_S * self._opening.rate:
            return False
        self._told_at = self.at
        return True

    def wants_snapshot(self) -> bool:
        """Whether it is time to ask for one; once each time."""
        if self._is_lost or self.at - self._asked_at < self._every:
            return False
        self._asked_at = self.at
        return True

    def stagger(self, share: float) -> None:
        """Have the first snapshot sooner by this share: sessions begun at once take turns."""
        self._asked_at = self.at - round(share * self._every)

    def revive(self, session: int, *, now: float) -> list[link.Command]:
        """Return the commands that bring the session back, to go on where it was.

        Raises LedgerFull.
        """
        if self._is_lost:
            raise LedgerFull
        for channel in self._channels:
            channel.revive()
        was_settled = self.is_settled
        self._spell_out()
        # records behind silence that is left out hold for those alone who left out as much
        self._asked_at = self.at - (self._every if was_settled else 0)
        states = tuple(channel.state for channel in self._channels)
        replace_ = msgspec.structs.replace
        opening = replace_(self._opening, session=session, states=states, replay_until=self.at)
        commands: list[link.Command] = [opening]
        for _, command in self._journal:
            if isinstance(command, link.Finalize):
                answered = tuple(sorted(self._asked[command.req].answered))
                commands.append(replace_(command, session=session, answered=answered))
            elif isinstance(command, link.Audio):
                # as if it came now: it waits behind the live streams, however long ago it was said
                commands.append(replace_(command, session=session, sent=now))
            elif not isinstance(command, link.Quit):
                commands.append(replace_(command, session=session))
        return commands

    # ---- reports

    def take(self, events: Iterable[Happening], records: Mapping[int, bytes]) -> list[Happening]:
        """Take what happened in a step with its records; return what was not said before."""
        fresh = list[Happening]()
        published = set[int]()
        for number, event in events:
            channel = self._channels[number]
            if isinstance(event, Finalized) and not self._answer(number, event.req):
                continue
            new = channel.fresh(event)
            if new is not None:
                fresh.append((number, new))
                if isinstance(new, Final):
                    published.add(number)
        for number in published:
            channel = self._channels[number]
            if number in records:
                channel.keep(msgspec.structs.replace(channel.state, record=records[number]))
            elif not channel.state.is_closed:
                self._is_lost = True  # an engine without records
        return fresh

    def saved(self, report: link.Saved) -> bool:
        """Take a snapshot; what it has heard is kept no longer. False: this engine takes none."""
        if len(report.snapshots) != self.channels:
            self._is_lost = True
            self._journal.clear()
            return False
        for channel, blob in zip(self._channels, report.snapshots, strict=True):
            if not channel.state.is_closed:
                channel.keep(link.State(snapshot=blob))
        self._spell_out()
        self.saved_at = self._told_at = report.at
        journal, self._journal = self._journal, deque()
        for at, command in journal:
            self._forget_or_keep(at, command)
        audio = (command for _, command in self._journal if isinstance(command, link.Audio))
        self._held, self.is_settled = sum(map(self.length, audio)), False
        self._opening = msgspec.structs.replace(self._opening, at=report.at)
        return True

    def kept(self, *, with_snapshots: bool) -> bytes:
        """Return what a store is to keep; the records alone are small."""
        states = tuple(channel.state for channel in self._channels)
        if not with_snapshots:
            states = tuple(msgspec.structs.replace(state, snapshot=None) for state in states)
        finals = tuple(channel.finals for channel in self._channels)
        opening = msgspec.structs.replace(self._opening, states=states)
        hushed = self._silence if self.is_settled else 0
        return msgspec.msgpack.encode(Kept(opening, finals, hushed, self.deaths, self.reached))

    def shown(self) -> list[tuple[int, Partial]]:
        """Return the partials that a client should see now."""
        found = ((n, channel.partial) for n, channel in enumerate(self._channels))
        return [(number, partial) for number, partial in found if partial is not None]

    # ---- inside

    def _append(self, command: link.Command) -> None:
        length = self.length(command)
        self._keep(self.at, command)
        self.at += length
        self._held += length if isinstance(command, link.Audio) else 0

    def _spell_out(self) -> None:
        """Make commands of the silence, so that it is heard the same whenever it comes again."""
        left, self._silence = self._silence, 0
        self.at -= left
        for command in spelled(left, self._opening, is_settled=self.is_settled):
            self._append(command)
        if left:
            self.is_settled = False

    def _keep(self, at: int, command: link.Command) -> None:
        """Put a command behind the others: one of two small packets, and of two changes between
        which nothing came, however often a client changes.
        """
        last_at, last = self._journal[-1] if self._journal else (at, None)
        replace_ = msgspec.structs.replace
        match last, command:
            case link.Configure(), link.Configure() if last_at == at:
                self._journal[-1] = at, replace_(last, **_given(command))
            case link.Audio(data=before), link.Audio(data=data) if len(before) < SMALL_BYTES:
                self._journal[-1] = last_at, replace_(last, data=before + data)
            case _:
                self._journal.append((at, command))

    def _answer(self, channel: int, req: str) -> bool:
        """Note the answer of a channel; whether it is the first one."""
        asked = self._asked.get(req)
        if asked is None or channel in asked.answered:
            return False
        asked.answered.add(channel)
        if len(asked.answered) == self.channels:
            del self._asked[req]
            journal, self._journal = self._journal, deque()
            for at, command in journal:
                if not isinstance(command, link.Finalize) or command.req != req:
                    self._keep(at, command)
        return True

    def _forget_or_keep(self, at: int, command: link.Command) -> None:
        if isinstance(command, link.Configure) and at < self.saved_at:
            self._fold(command)
        elif isinstance(command, link.Audio) and at < self.saved_at:
            rest = command.data[(self.saved_at - at) * self._frame_bytes :]
            if rest:  # of small packets that were made one
                rest_of = msgspec.structs.replace(command, data=rest)
                self._journal.append((self.saved_at, rest_of))
        elif isinstance(command, link.Gap) and at < self.saved_at:
            return
        else:
            self._journal.append((at, command))

    def _fold(self, command: link.Configure) -> None:
        """Have the session begin with what was changed before its snapshot."""
        self._opening = msgspec.structs.replace(self._opening, **_given(command))

    def length(self, command: link.Command) -> int:
        """Return the samples of each channel that a command brings."""
        if isinstance(command, link.Audio):
            return len(command.data) // self._frame_bytes
        return command.samples if isinstance(command, link.Gap) else 0


def _given(command: link.Configure) -> dict[str, Any]:
    """Return what a command changes."""
    changes = {"turns": command.turns, "partials": command.partials, "boost": command.boost}
    return {name: value for name, value in changes.items() if value is not None}


def kept_from(record: bytes | None, snapshot: bytes | None) -> Kept | None:
    """Put together what a store kept: a snapshot and the records that are newer; None: neither."""
    whole = None if snapshot is None else msgspec.msgpack.decode(snapshot, type=Kept)
    if record is None:
        return whole
    small = msgspec.msgpack.decode(record, type=Kept)
    if whole is None:
        return small
    states = tuple(
        new if new.is_closed else msgspec.structs.replace(new, snapshot=old.snapshot)
        for old, new in zip(whole.opening.states, small.opening.states, strict=True)
    )
    opening = msgspec.structs.replace(whole.opening, states=states)
    return msgspec.structs.replace(small, opening=opening, hushed=whole.hushed)
