"""Which worker serves which session.

Does: launch workers, place sessions (two at random, the less loaded), admit or refuse, route
commands and reports, kill a worker that hangs, tell the sessions of one that died, put a standby in
its place, restart it with back-off. Sessions that come back have the room before new ones.
Does not know: wires, sockets of clients, audio, what events mean, how a session is brought back.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from asr.events import Event
from server.quota import Room
from server.wire.errors import OverCapacity
from server.worker import link
from server.worker.handle import Worker, WorkerState
from server.worker.heart import WHY, Hang, Watch, every_beat

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
WELL_S = 2.0
"""A worker that served this long was well."""
MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""Audio on its way to one worker; beyond it no session is placed there."""
RETRY_AFTER_S = 5.0


class Listener(Protocol):
    """What a session hears from its worker."""

    def opened(self) -> None:
        """Go on: its slots are taken."""
        ...

    def stepped(self, events: Sequence[tuple[int, Event]], records: Mapping[int, bytes]) -> None:
        """Take the events of one step, and a record of each channel that published a final."""
        ...

    def saved(self, report: link.Saved) -> None:
        """Take the answer to a checkpoint."""
        ...

    def failed(self, code: link.FailureCode, message: str) -> None:
        """End: it cannot go on there."""
        ...

    def lost(self) -> None:
        """Find another place: the worker is gone."""
        ...

    def invited(self) -> None:
        """Try again to find a place: there may be room now."""
        ...


class Observer(Protocol):
    """What metrics hear of workers."""

    def stepped(self, step: link.Step) -> None:
        """Note a step of a worker."""
        ...

    def restarted(self) -> None:
        """Note that a worker died and is started again."""
        ...

    def hung(self, hang: Hang) -> None:
        """Note that a worker was killed because it hung."""
        ...


@dataclass(slots=True)
class _Place:
    number: int
    worker: Worker
    state: WorkerState = WorkerState.STARTING
    model: link.Model | None = None
    reason: str = ""
    sessions: dict[int, int] = field(default_factory=dict)
    """Session -> audio channels."""
    streams: int = 0
    slots_in_use: int = 0
    failures: int = 0
    ready_s: float = 0.0
    is_standby: bool = False
    """Warm, and kept free for sessions whose worker died."""
    watch: Watch = field(default_factory=Watch)

    def free(self) -> int:
        if self.state is not WorkerState.READY or self.model is None:
            return 0
        if self.worker.queued_bytes > MAX_QUEUED_BYTES:
            return 0
        return self.model.streams - self.streams


@dataclass(frozen=True, slots=True)
class PlaceStatus:
    """A worker as /readyz and /metrics tell it."""

    worker: int
    state: str
    reason: str
    streams: int
    slots_in_use: int
    queued_bytes: int


class Manager:
    """Owns the workers; all calls in one event loop."""

    def __init__(
        self,
        launch: Callable[[int], Worker],
        workers: int,
        *,
        observer: Observer,
        standby: int = 0,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._launch = launch
        self._places = [_Place(number, launch(number)) for number in range(workers + standby)]
        for place in self._places[workers:]:
            place.is_standby = True
        self._observer = observer
        self._rng = rng or random.Random()
        self._sleep = sleep
        self._listeners: dict[int, Listener] = {}
        self._home: dict[int, _Place] = {}
        self._waiting: dict[Listener, None] = {}
        """Sessions that come back and wait for room, in order."""
        self._restarts: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._is_closing = False

    @property
    def model(self) -> link.Model | None:
        """What the workers run; None until one is ready."""
        return next((place.model for place in self._places if place.model), None)

    @property
    def is_ready(self) -> bool:
        """Whether a session could be placed, load apart."""
        return any(place.state is WorkerState.READY for place in self._places)

    @property
    def has_room(self) -> bool:
        """Whether a session of one channel could be placed now."""
        return not self._waiting and any(
            place.free() and not place.is_standby for place in self._places
        )

    @property
    def room(self) -> Room:
        """What the ready workers have, standbys apart."""
        ready = [p for p in self._places if p.model and not p.is_standby]
        return Room(sum(p.model.streams for p in ready if p.model), sum(p.free() for p in ready))

    @property
    def slots_in_use(self) -> int:
        """Engine slots taken, forks included, as the workers last said."""
        return sum(place.slots_in_use for place in self._places)

    @property
    def sessions(self) -> int:
        """Sessions placed."""
        return len(self._home)

    def status(self) -> Sequence[PlaceStatus]:
        """Return one line per worker."""
        return [
            PlaceStatus(
                place.number,
                place.state.value,
                place.reason,
                place.streams,
                place.slots_in_use,
                place.worker.queued_bytes,
            )
            for place in self._places
        ]

    async def start(self) -> None:
        """Launch every worker; they get ready behind."""
        for place in self._places:
            await self._start(place)
        self._watching = asyncio.create_task(every_beat(self.tick))

    async def ready(self) -> None:
        """Wait until a worker is ready; raises RuntimeError when none can be."""
        while not self.is_ready:
            if all(place.state is WorkerState.UNFIT for place in self._places):
                raise RuntimeError(self._places[0].reason)
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """End every worker."""
        self._is_closing = True
        watching = [self._watching] if self._watching else []
        for task in [*watching, *self._restarts]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*(place.worker.close() for place in self._places))
        for place in self._places:
            place.state = WorkerState.CLOSED

    # ---- sessions

    def attach(
        self, command: link.Open, listener: Listener, *, is_coming_back: bool = False
    ) -> None:
        """Place a session; raises OverCapacity."""
        place = self._choose(command.channels, is_coming_back=is_coming_back)
        place.sessions[command.session] = command.channels
        place.streams += command.channels
        self._home[command.session] = place
        self._listeners[command.session] = listener
        place.worker.send(command)

    def await_room(self, listener: Listener) -> None:
        """Have a session that found no place invited when there may be one."""
        self._waiting[listener] = None

    def wait_no_more(self, listener: Listener) -> None:
        """Invite it no more. Idempotent."""
        self._waiting.pop(listener, None)

    def send(self, command: link.Command, session: int) -> None:
        """Hand a command to the worker of a session; nothing when it has none (any more)."""
        place = self._home.get(session)
        if place is not None:
            place.worker.send(command)

    def release(self, session: int) -> None:
        """Forget a session and free its slots at once. Idempotent."""
        place = self._detach(session)
        if place is not None:
            place.worker.send(link.Drop(session))
            self._invite()

    def _choose(self, channels: int, *, is_coming_back: bool) -> _Place:
        fitting = [
            place
            for place in self._places
            if place.free() >= channels and (is_coming_back or not place.is_standby)
        ]
        if not fitting or (self._waiting and not is_coming_back):
            if not self.is_ready:
                raise OverCapacity("no engine is ready", retry_after=RETRY_AFTER_S)
            raise OverCapacity("every slot of this server is taken", retry_after=RETRY_AFTER_S)
        # Two at random, not the least loaded of all: many gateways would all run to that one.
        two = self._rng.sample(fitting, min(2, len(fitting)))
        return min(two, key=lambda place: place.streams)

    def _invite(self) -> None:
        """Let those who wait try again, in order, until one finds no place."""
        while self._waiting and any(place.free() for place in self._places):
            listener = next(iter(self._waiting))
            del self._waiting[listener]
            listener.invited()
            if listener in self._waiting:
                return

    def _detach(self, session: int) -> _Place | None:
        place = self._home.pop(session, None)
        self._listeners.pop(session, None)
        if place is not None:
            place.streams -= place.sessions.pop(session)
        return place

    # ---- workers

    def tick(self) -> None:
        """Kill workers that hang; once in BEAT_S."""
        for place in self._places:
            if place.state is WorkerState.READY and (hang := place.watch.tick()):
                place.worker.kill()
                self._observer.hung(hang)
                self._gone(place, WHY[hang])

    async def _start(self, place: _Place) -> None:
        place.watch = Watch()
        try:
            await place.worker.start(
                lambda report: self._hear(place, report), lambda reason: self._gone(place, reason)
            )
        except OSError as error:
            self._gone(place, f"an engine process could not be started ({error.strerror})")

    def _hear(self, place: _Place, report: link.Report) -> None:
        if place.state is not WorkerState.DOWN:  # or a killed worker said it before
            place.watch.heard(report)
            self._report(place, report)

    def _report(self, place: _Place, report: link.Report) -> None:
        match report:
            case link.Step():
                place.slots_in_use = report.slots_in_use
                self._observer.stepped(report)
                self._hand_out(report)
                self._invite()
            case link.Saved(session=session):
                if listener := self._listeners.get(session):
                    listener.saved(report)
            case link.Opened(session=session):
                if listener := self._listeners.get(session):
                    listener.opened()
            case link.Failed():
                listener = self._listeners.get(report.session)
                self._detach(report.session)
                if listener:
                    listener.failed(report.code, report.message)
            case link.Ready(model=model):
                place.state, place.model, place.reason = WorkerState.READY, model, ""
                place.ready_s = asyncio.get_running_loop().time()
                self._changed.set()
                self._invite()
            case link.Unfit(reason=reason):
                place.state, place.reason = WorkerState.UNFIT, reason
                logger.info("no engine", extra={"worker": place.number, "reason": reason})
                self._changed.set()

    def _hand_out(self, step: link.Step) -> None:
        """Give each session its part of a step."""
        events = dict[int, list[tuple[int, Event]]]()
        records = dict[int, dict[int, bytes]]()
        for item in step.events:
            events.setdefault(item.session, []).append((item.channel, link.event_of(item)))
        for record in step.records:
            records.setdefault(record.session, {})[record.channel] = record.blob
        for session, happened in events.items():
            if listener := self._listeners.get(session):
                listener.stepped(happened, records.get(session, {}))

    def _gone(self, place: _Place, reason: str) -> None:
        """Handle a worker's death: its sessions find other places, it is started again."""
        lost = [self._listeners[session] for session in place.sessions]
        place.slots_in_use = 0
        backoff_s = self._backoff_s(place)
        is_unfit = place.state is WorkerState.UNFIT
        if not is_unfit:
            place.state, place.reason = WorkerState.DOWN, reason
            logger.error(
                "worker gone", extra={"worker": place.number, "reason": reason, "lost": len(lost)}
            )
        for session in list(place.sessions):
            self._detach(session)
        self._relieve(place)
        self._changed.set()
        if not is_unfit and not self._is_closing:
            task = asyncio.get_running_loop().create_task(self._restart(place, backoff_s))
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)
        for listener in lost:
            listener.lost()

    def _backoff_s(self, place: _Place) -> float:
        """Start one that was well at once; let one that dies again and again wait longer."""
        now = asyncio.get_running_loop().time()
        if place.state is WorkerState.READY and now - place.ready_s >= WELL_S:
            place.failures = 0
            return 0.0
        place.failures += 1
        return min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (place.failures - 1))

    def _relieve(self, place: _Place) -> None:
        """Put a standby in the place of a worker that died; that one is the standby then."""
        if place.is_standby:
            return
        for other in self._places:
            if other.is_standby and other.state is WorkerState.READY:
                other.is_standby, place.is_standby = False, True
                return

    async def _restart(self, place: _Place, backoff_s: float) -> None:
        await self._sleep(backoff_s)
        await place.worker.close()
        place.worker = self._launch(place.number)
        place.state = WorkerState.STARTING
        self._observer.restarted()
        await self._start(place)
