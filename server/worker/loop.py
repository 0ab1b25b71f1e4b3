"""The engine host: commands in, one engine step at a time, events out.

Does: keep the recogniser's channels of each session, hear audio a chunk at a time, step while
anything is ready, warm the other look-aheads while nobody is served, report the events of a step in
one message. What one session does wrong ends that session only.
Does not know: processes, sockets, wires. A failing step is a failing engine: it ends the host.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec

from asr.audio import AudioError, decode, frame_bytes
from asr.events import Event, Final, Stopped
from asr.interface import (
    PATIENT,
    EngineError,
    NoFreeSlot,
    StepStats,
    StreamingEngine,
)
from asr.live import LiveError, Recognizer
from server.worker import link
from server.worker.heart import Activity
from server.worker.options import biasing, channel_options, endpointing

logger = logging.getLogger(__name__)

_CLOSED = -1
"""In place of a channel that has stopped."""
_FORK_SHARE = 8
"""One slot in eight is kept for finalize forks."""
MOST_UNDECODED_S = 6.0
"""With so much to decode a session hears no more: minutes of audio that come at once would hold
everybody's steps up until they are heard. It is more than a catch-up pass takes."""


PREPARE_S = 0.01
"""A turn compiles phrases for no longer: many take a second, which nobody else waits for."""

MOST_CHANGES = 64
"""Changes of phrases of one session that may wait: each holds a thousand phrases at most."""


class MailboxClosed(Exception):
    """The gateway is gone."""


class Mailbox(Protocol):
    """The host's end of a link."""

    def receive(self, *, may_wait: bool) -> list[link.Command]:
        """Return what came; wait for the first command only if ``may_wait``."""
        ...

    def send(self, report: link.Report) -> None:
        """Hand a report over; never blocks."""
        ...


@dataclass(slots=True)
class _Session:
    encoding: link.Encoding
    rate: int
    channels: list[int]
    """Recogniser channel of each audio channel."""
    at: int
    """Samples per channel that came, gaps included."""
    replay_until: int
    stopped: set[int] = field(default_factory=set)
    held: deque[link.Command] = field(default_factory=deque)
    """What waits until the audio before it is decoded: in a replay, and behind a backlog; or until
    its phrases are compiled."""
    has_patience: bool = False
    """Whether some of that may wait for others too."""
    unheard: bytearray = field(default_factory=bytearray)
    """Audio that completes no chunk yet: to hear each packet by itself costs more than a step."""
    sent: float = 0.0
    """When the last of it reached the gateway."""
    enough: int = 0
    """Bytes of it that may complete a chunk."""
    frame_bytes: int = 1
    """Of one sample of all channels."""
    preparing: Iterator[None] | None = None
    """What the phrases of the first that waits still need."""

    def collect(self, audio: link.Audio) -> bool:
        """Put audio by that completes no chunk; False: it is to be heard, or may wait."""
        if len(self.unheard) + len(audio.data) >= self.enough or _is_patient(audio):
            return False
        self.add(audio)
        return True

    def add(self, audio: link.Audio) -> None:
        """Put audio behind what was put by."""
        self.unheard += audio.data
        self.at += len(audio.data) // self.frame_bytes
        self.sent = audio.sent

    def hold(self, command: link.Command) -> None:
        """Let a command wait; audio that may wait for others is due with what comes behind it."""
        is_due = isinstance(command, link.Audio | link.Finalize | link.Stop)
        if _is_patient(command):
            self.has_patience = True
        elif is_due and self.has_patience:
            self.has_patience = False
            sent = command.sent if isinstance(command, link.Audio) else 0.0
            self.held = deque(
                msgspec.structs.replace(one, sent=sent) if isinstance(one, link.Audio) else one
                for one in self.held
            )
        self.held.append(command)


class Host:
    """Runs one engine for the sessions of a mailbox until told to quit."""

    def __init__(
        self,
        engine: StreamingEngine,
        mailbox: Mailbox,
        *,
        clock: Callable[[], float] = time.monotonic,
        first_look_ahead: int | None = None,
        activity: Activity | None = None,
        device: link.Device = link.Device(),  # noqa: B008 - a value
    ) -> None:
        self._engine = engine
        self._device = device
        self._activity = activity or Activity()
        self._has_heart = activity is not None
        forks = max(1, engine.info.slots // _FORK_SHARE)
        self._recognizer = Recognizer(engine, fork_slots=forks)
        self._mailbox = mailbox
        self._clock = clock
        looks = engine.info.look_aheads
        first = first_look_ahead if first_look_ahead in looks else looks[0]
        self._cold = deque([first, *(look for look in looks if look != first)])
        self._sessions: dict[int, _Session] = {}
        self._owner: dict[int, tuple[int, int]] = {}
        """Recogniser channel -> (session, audio channel)."""
        self._holding: set[int] = set()
        self._saving: set[int] = set()
        """Sessions whose checkpoint waits until they are quiet."""
        self._told_slots = 0
        self._since = clock()
        """Since when it works for its streams without a wait; sessions that come and are saved do
        not count: a step is dear while there are many of them, not with more streams."""
        self._is_quitting = False

    def run(self) -> None:
        """Warm the default class, say ready, serve until Quit or the gateway is gone."""
        self._activity.begin("warming")
        self._engine.warm(self._cold.popleft())
        with contextlib.suppress(MailboxClosed):
            self._mailbox.send(link.Ready(self._model(), self._device))
            while not self._is_quitting:
                self._activity.begin("waiting")
                may_wait = not self._has_work()
                commands = self._mailbox.receive(may_wait=may_wait)
                if may_wait:
                    self._since = self._clock()
                self.turn(commands)
        for number in list(self._sessions):  # another gateway may come to this engine
            self._forget(number)

    def turn(self, commands: Iterable[link.Command]) -> None:
        """Obey the commands, then step, or warm a look-ahead while nobody is served."""
        self._activity.begin("working")
        for command in commands:
            self._obey(command)
        self._prepare()
        if self._engine.slots_in_use != self._told_slots:
            self._tell([], None)  # before the work: warming takes a second
        if self._recognizer.is_ready():
            self._step()
        elif self._cold and not self._sessions:
            self._warm()
        for number in list(self._holding):
            self._release(number)
        began = self._clock()
        for number in list(self._saving):
            self._save(number)
        self._since += self._clock() - began

    def _warm(self) -> None:
        self._activity.begin("warming")
        if self._has_heart:  # else nobody beats, and nobody is to be watched
            self._mailbox.send(link.Pulse("warming", 0))  # told before: it may silence the heart
        self._engine.warm(self._cold.popleft())

    def _model(self) -> link.Model:
        info = self._engine.info
        return link.Model(
            name=info.model,
            fingerprint=info.fingerprint,
            look_aheads=info.look_aheads,
            streams=self._recognizer.capacity,
            precision=info.precision,
            decoder=info.decoder,
            bytes_per_stream=info.bytes_per_stream,
            languages=info.languages,
            alphabet=info.alphabet,
        )

    def _has_work(self) -> bool:
        if self._recognizer.is_ready() or self._waiting_for_phrases():
            return True
        return bool(self._cold and not self._sessions)

    def _obey(self, command: link.Command) -> None:
        if isinstance(command, link.Quit):
            self._is_quitting = True
        elif isinstance(command, link.Open):
            session = _Session(command.encoding, command.rate, [], command.at, command.replay_until)
            self._sessions[command.session] = session
            began = self._clock()
            self._take(command, command.session, session)
            self._since += self._clock() - began
        elif known := self._sessions.get(command.session):
            self._take(command, command.session, known)
        # else: the session failed here while the command was on its way

    def _take(self, command: link.Command, number: int, session: _Session) -> None:
        if isinstance(command, link.Audio) and not session.held and session.collect(command):
            return  # most packets, so nothing more is looked at
        is_at_once = isinstance(command, link.Drop | link.Checkpoint)
        if _phrases(command) and sum(bool(_phrases(c)) for c in session.held) >= MOST_CHANGES:
            self._fail(number, "bad_request", f"{MOST_CHANGES} changes of phrases wait already")
        elif not is_at_once and (session.held or self._must_wait(command, session)):
            session.hold(command)
            self._holding.add(number)
        else:
            self._guard(number, lambda: self._apply(command, session))

    def _waiting_for_phrases(self) -> list[int]:
        """Return the sessions whose next command has phrases to compile, the oldest first."""
        return [n for n in sorted(self._holding) if _phrases(self._sessions[n].held[0])]

    def _prepare(self) -> None:
        """Compile phrases for a moment; take the commands whose phrases are ready."""
        began = self._clock()
        for number in self._waiting_for_phrases():
            session = self._sessions[number]
            self._guard(number, partial(self._compile, session, began + PREPARE_S))
            if self._clock() - began >= PREPARE_S:
                break
        self._since += self._clock() - began

    def _compile(self, session: _Session, until: float) -> None:
        command = session.held[0]
        if session.preparing is None:
            session.preparing = self._recognizer.prepare(biasing(_phrases(command)))
        for _ in session.preparing:
            if self._clock() >= until:
                return
        session.preparing = None
        self._apply(session.held.popleft(), session)

    def _must_wait(self, command: link.Command, session: _Session) -> bool:
        """Whether there is too much to decode before it, or phrases to compile.

        In a replay that is a chunk before a finalize: it is answered as it was.
        """
        if _phrases(command):  # ``_prepare`` takes it
            return True
        recognizer, channels = self._recognizer, _open_ones(session)
        if isinstance(command, link.Audio):
            return any(recognizer.undecoded_s(c) > MOST_UNDECODED_S for c in channels)
        is_asked_again = isinstance(command, link.Finalize) and session.at <= session.replay_until
        return is_asked_again and any(map(recognizer.is_behind, channels))

    def _release(self, number: int) -> None:
        while session := self._sessions.get(number):
            if not session.held or self._must_wait(session.held[0], session):
                break
            command = session.held.popleft()
            self._guard(number, partial(self._apply, command, session))
        if session is None or not session.held:
            self._holding.discard(number)

    def _save(self, number: int) -> None:
        """Report a checkpoint, unless a finalize or a stop of the session is under way."""
        session = self._sessions.get(number)
        if session is None:
            self._saving.discard(number)
            return
        if not session.channels:  # not opened yet
            return
        blobs = list[bytes]()
        try:
            for channel in session.channels:
                is_open = channel in self._owner
                blob = self._recognizer.snapshot(channel) if is_open else b""
                if blob is None:
                    return
                blobs.append(blob)
        except EngineError:
            blobs.clear()
        self._saving.discard(number)
        heard = session.at - len(session.unheard) // session.frame_bytes
        self._mailbox.send(link.Saved(number, heard, tuple(blobs)))

    def _guard(self, number: int, action: Callable[[], None]) -> None:
        """Run an action of one session; its failure fails that session alone."""
        try:
            action()
        except NoFreeSlot:
            self._fail(number, "over_capacity", "every slot of this server is taken")
        except AudioError as error:
            self._fail(number, "unsupported_audio", str(error))
        except (EngineError, LiveError, ValueError) as error:
            self._fail(number, "bad_request", str(error))
        except Exception as error:  # noqa: BLE001 - task boundary: one session must not end the others
            logger.error("session failed", extra={"session": number, "error": type(error).__name__})
            self._fail(number, "internal", "the recogniser failed on this session")

    def _open(self, command: link.Open, session: _Session) -> None:
        options = channel_options(command)
        session.frame_bytes = frame_bytes(command.encoding, command.channels)
        for position in range(command.channels):
            state = command.states[position] if command.states else link.State()
            if state.is_closed:
                session.channels.append(_CLOSED)
                session.stopped.add(_CLOSED - position)
                continue
            channel = self._recognizer.restore(
                options, snapshot=state.snapshot, record=state.record
            )
            session.channels.append(channel)
            self._owner[channel] = (command.session, position)
        self._mailbox.send(link.Opened(command.session))

    def _apply(self, command: link.Command, session: _Session) -> None:
        recognizer, channels = self._recognizer, _open_ones(session)
        if not isinstance(command, link.Audio) or _is_patient(command):
            self._hear(session)  # what was put by is in time
            session.enough = 0  # what comes next may make older audio due
        match command:
            case link.Open():
                self._open(command, session)
            case link.Audio():
                session.add(command)
                self._hear(session)
            case link.Gap(samples=lost):
                session.at += lost
                _each(channels, lambda channel: recognizer.gap(channel, lost))
            case link.Configure(turns=turns, partials=partials, boost=boost):
                rules = None if turns is None else endpointing(turns)
                favoured = None if boost is None else biasing(boost)
                _each(
                    channels,
                    lambda c: recognizer.configure(
                        c, endpointing=rules, partials=partials, biasing=favoured
                    ),
                )
            case link.Finalize(req=req, answered=answered):
                asked = [session.channels[position] for position in answered]
                waiting = [channel for channel in channels if channel not in asked]
                _each(waiting, lambda channel: recognizer.finalize(channel, req))
            case link.Checkpoint(session=number):
                self._saving.add(number)
            case link.Stop():
                _each(channels, recognizer.stop)
            case link.Drop(session=number):
                self._forget(number)

    def _hear(self, session: _Session) -> None:
        """Have the recogniser hear what was put by."""
        if not session.unheard:
            return
        data, session.unheard = session.unheard, bytearray()
        lacking = list[int]()
        audio = decode(data, session.encoding, channels=len(session.channels))
        for channel, samples in zip(session.channels, audio, strict=True):
            if channel != _CLOSED:
                self._recognizer.feed(channel, samples, now=session.sent)
                lacking.append(self._recognizer.lacks(channel))
        is_due = session.sent != PATIENT
        session.enough = min(lacking, default=0) * session.frame_bytes if is_due else 0

    def _step(self) -> None:
        before = self._engine.last_step
        events = self._recognizer.step()
        after = self._engine.last_step
        self._tell(events, after if after is not before else None)

    def _tell(self, events: list[tuple[int, Event]], cost: StepStats | None) -> None:
        wrapped = [self._wrap(channel, event) for channel, event in events]
        records = self._records(events)
        for channel, event in events:
            if isinstance(event, Stopped):
                self._stopped(channel)
        self._told_slots = self._engine.slots_in_use
        took_s = 0.0
        if cost is not None:
            now = self._clock()
            took_s, self._since = max(cost.seconds, now - self._since), now
        self._mailbox.send(
            link.Step(
                events=tuple(item for item in wrapped if item is not None),
                look_ahead=cost.look_ahead if cost else 0,
                batch=cost.batch if cost else 0,
                seconds=took_s,
                slots_in_use=self._told_slots,
                sessions=len(self._sessions),
                records=records,
                frames=cost.frames if cost else 0,
            )
        )

    def _records(self, events: list[tuple[int, Event]]) -> tuple[link.Record, ...]:
        """Record every channel that published; one that has stopped needs none."""
        published = {channel: None for channel, event in events if isinstance(event, Final)}
        for channel, event in events:
            if isinstance(event, Stopped):
                published.pop(channel, None)
        records = list[link.Record]()
        for channel in published:
            owner = self._owner.get(channel)
            if owner is None:
                continue
            try:
                records.append(link.Record(*owner, self._recognizer.record(channel)))
            except EngineError:  # an engine that takes none: its sessions end with it
                return ()
        return tuple(records)

    def _wrap(self, channel: int, event: Event) -> link.Happened | None:
        owner = self._owner.get(channel)
        return None if owner is None else link.happened(*owner, event)

    def _stopped(self, channel: int) -> None:
        owner = self._owner.pop(channel, None)
        if owner is None:
            return
        session = self._sessions[owner[0]]
        session.stopped.add(channel)
        if len(session.stopped) == len(session.channels):
            del self._sessions[owner[0]]

    def _fail(self, number: int, code: link.FailureCode, message: str) -> None:
        self._forget(number)
        self._mailbox.send(link.Failed(number, code, message))

    def _forget(self, number: int) -> None:
        self._holding.discard(number)
        session = self._sessions.pop(number, None)
        for channel in session.channels if session else ():
            if self._owner.pop(channel, None) is not None:
                self._recognizer.drop(channel)


def _phrases(command: link.Command) -> link.Phrases:
    """Return what a command asks to favour."""
    return command.boost or () if isinstance(command, link.Open | link.Configure) else ()


def _is_patient(command: link.Command) -> bool:
    return isinstance(command, link.Audio) and command.sent == PATIENT


def _open_ones(session: _Session) -> list[int]:
    return [channel for channel in session.channels if channel != _CLOSED]


def _each(channels: list[int], action: Callable[[int], None]) -> None:
    for channel in channels:
        action(channel)
