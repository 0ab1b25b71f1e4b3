"""Which worker serves which session.

Does: launch workers, place sessions (two at random, the less loaded), admit or refuse, route
commands and reports, tell the sessions of a worker that died, restart it with back-off.
Does not know: wires, sockets of clients, audio, what events mean.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from asr.events import Event
from server.wire.errors import OverCapacity
from server.worker import link
from server.worker.handle import Worker

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""Audio on its way to one worker; beyond it no session is placed there."""
RETRY_AFTER_S = 5.0
LOST = "the engine process that served this session ended; start a new session"


class Listener(Protocol):
    """What a session hears from its worker."""

    def opened(self) -> None:
        """Go on: its slots are taken."""
        ...

    def happened(self, channel: int, event: Event) -> None:
        """Take an event of one channel."""
        ...

    def failed(self, code: link.FailureCode, message: str) -> None:
        """End: it cannot go on there."""
        ...


class Observer(Protocol):
    """What metrics hear of workers."""

    def stepped(self, step: link.Step) -> None:
        """Note a step of a worker."""
        ...

    def restarted(self) -> None:
        """Note that a worker died and is started again."""
        ...


class WorkerState(Enum):
    """Life of a worker's place."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"
    UNFIT = "unfit"
    CLOSED = "closed"


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
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._launch = launch
        self._places = [_Place(number, launch(number)) for number in range(workers)]
        self._observer = observer
        self._rng = rng or random.Random()
        self._sleep = sleep
        self._listeners: dict[int, Listener] = {}
        self._home: dict[int, _Place] = {}
        self._restarts: set[asyncio.Task[None]] = set()
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
        return any(place.free() for place in self._places)

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
        for task in list(self._restarts):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*(place.worker.close() for place in self._places))
        for place in self._places:
            place.state = WorkerState.CLOSED

    # ---- sessions

    def attach(self, command: link.Open, listener: Listener) -> None:
        """Place a session; raises OverCapacity."""
        place = self._choose(command.channels)
        place.sessions[command.session] = command.channels
        place.streams += command.channels
        self._home[command.session] = place
        self._listeners[command.session] = listener
        place.worker.send(command)

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

    def _choose(self, channels: int) -> _Place:
        fitting = [place for place in self._places if place.free() >= channels]
        if not fitting:
            if not self.is_ready:
                raise OverCapacity("no engine is ready", retry_after=RETRY_AFTER_S)
            raise OverCapacity("every slot of this server is taken", retry_after=RETRY_AFTER_S)
        # Two at random, not the least loaded of all: many gateways would all run to that one.
        two = self._rng.sample(fitting, min(2, len(fitting)))
        return min(two, key=lambda place: place.streams)

    def _detach(self, session: int) -> _Place | None:
        place = self._home.pop(session, None)
        self._listeners.pop(session, None)
        if place is not None:
            place.streams -= place.sessions.pop(session)
        return place

    # ---- workers

    async def _start(self, place: _Place) -> None:
        try:
            await place.worker.start(
                lambda report: self._report(place, report), lambda reason: self._gone(place, reason)
            )
        except OSError as error:
            self._gone(place, f"an engine process could not be started ({error.strerror})")

    def _report(self, place: _Place, report: link.Report) -> None:
        match report:
            case link.Step():
                place.slots_in_use = report.slots_in_use
                self._observer.stepped(report)
                for item in report.events:
                    if listener := self._listeners.get(item.session):
                        listener.happened(item.channel, link.event_of(item))
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
                place.failures = 0
                self._changed.set()
            case link.Unfit(reason=reason):
                place.state, place.reason = WorkerState.UNFIT, reason
                logger.info("no engine", extra={"worker": place.number, "reason": reason})
                self._changed.set()

    def _gone(self, place: _Place, reason: str) -> None:
        """Handle a worker's death: its sessions end with an error, then it is started again."""
        lost = list(place.sessions)
        place.slots_in_use = 0
        is_unfit = place.state is WorkerState.UNFIT
        if not is_unfit:
            place.state, place.reason = WorkerState.DOWN, reason
            logger.error(
                "worker gone", extra={"worker": place.number, "reason": reason, "lost": len(lost)}
            )
        for session in lost:
            listener = self._listeners.get(session)
            self._detach(session)
            if listener:
                listener.failed("internal", LOST)
        self._changed.set()
        if not is_unfit and not self._is_closing:
            task = asyncio.get_running_loop().create_task(self._restart(place))
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)

    async def _restart(self, place: _Place) -> None:
        backoff_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**place.failures)
        place.failures += 1
        await self._sleep(backoff_s)
        await place.worker.close()
        place.worker = self._launch(place.number)
        place.state = WorkerState.STARTING
        self._observer.restarted()
        await self._start(place)
