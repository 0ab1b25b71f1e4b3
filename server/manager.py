"""Which worker serves which session.

Does: launch workers, place sessions (two of the cheapest at random, the less loaded), admit or
refuse by free slots and measured cost, route commands and reports, kill a worker that hangs, tell
the sessions of one that died, put a standby in its place, restart it with back-off. Sessions that
come back have the room before new ones (lobby).
Does not know: wires, sockets of clients, audio, what events mean, how a session is brought back.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import methodcaller
from typing import Protocol

from asr.events import Event
from server.cost import Costs
from server.lobby import Claim, Lobby
from server.observer import Observer
from server.pace import Pace
from server.place import Place, PlaceStatus, Rules, preferred
from server.quota import Room
from server.wire.errors import OverCapacity
from server.worker import link
from server.worker.handle import Worker, WorkerState
from server.worker.heart import WHY, Watch, every_beat

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
WELL_S = 2.0
"""A worker that served this long was well."""
CATCH_UP_S = 5.0
"""Others catch up with the sessions of a worker that died before it loads its model beside them."""
RETRY_AFTER_S = 5.0
FAULT = "the server failed on this session"
SHORT_OF = 0.5
"""Room is short when every worker is loaded more than this."""


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


class Manager:
    """Owns the workers; all calls in one event loop."""

    def __init__(
        self,
        launch: Callable[[int], Worker],
        workers: int,
        *,
        observer: Observer,
        rules: Rules | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._launch = launch
        self._rules = rules = rules or Rules()
        self._places = [Place(number, launch(number)) for number in range(workers + rules.standby)]
        for place in self._places[workers:]:
            place.is_standby = True
        self._observer = observer
        self._rng = rng or random.Random()
        self._sleep = sleep
        self._listeners: dict[int, Listener] = {}
        self._home: dict[int, Place] = {}
        self._lobby = Lobby[Listener]()
        self._pace = Pace() if rules.is_by_cost else None
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
        """Whether a new session of one channel could be placed now."""
        model = self.model
        return model is not None and bool(self._fitting(1, model.look_aheads[0], Claim.NEW))

    @property
    def is_short(self) -> bool:
        """Whether sessions that are silent should rest."""
        if not self._lobby.is_empty:
            return True
        places = [p for p in self._places if p.is_open and not p.is_standby]
        return all(place.busy() > SHORT_OF for place in places)

    @property
    def resting(self) -> int:
        """Sessions that gave their slots back for a while."""
        return self._lobby.resting

    @property
    def waiting(self) -> int:
        """Sessions that wait for room."""
        return self._lobby.waiting

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
        return [place.status() for place in self._places]

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

    def attach(self, command: link.Open, listener: Listener, claim: Claim = Claim.NEW) -> None:
        """Place a session; raises OverCapacity."""
        place = self._choose(command, claim)
        if claim is Claim.NEW and self._pace:
            self._pace.took(command.channels)
        place.add(command, is_patient=claim is Claim.AIR)
        self._home[command.session] = place
        self._listeners[command.session] = listener
        place.worker.send(command)

    def check(self, command: link.Open, claim: Claim) -> None:
        """Raise OverCapacity if there is no place for a session now."""
        self._choose(command, claim)

    def await_room(self, listener: Listener, claim: Claim = Claim.RESCUE) -> None:
        """Have a session that found no place invited when there may be one."""
        self._lobby.wait(listener, claim)

    def wait_no_more(self, listener: Listener) -> None:
        """Invite it no more. Idempotent."""
        self._lobby.leave(listener)

    def rest(self, listener: Listener, channels: int) -> None:
        """Keep some room for a session that gave its slots back and may want them again."""
        self._lobby.rest(listener, channels)

    def wake(self, listener: Listener) -> None:
        """Keep no room for it any more. Idempotent."""
        self._lobby.wake(listener)

    def hurry(self, session: int) -> None:
        """Count a session that came with Claim.AIR as one that is to be in time. Idempotent."""
        if place := self._home.get(session):
            place.hurry(session)

    def lagged(self, look_ahead: int, lag_s: float) -> None:
        """Note how late a chunk of a session came: nobody new is taken while many are."""
        if self._pace:
            self._pace.heard(look_ahead, lag_s)

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

    def _choose(self, command: link.Open, claim: Claim) -> Place:
        fitting = self._fitting(command.channels, command.look_ahead, claim)
        if not fitting:
            why = "no room for another session now" if self.is_ready else "no engine is ready"
            raise OverCapacity(why, retry_after=RETRY_AFTER_S)
        # Two at random, not the least loaded of all: many gateways would all run to that one.
        fitting = preferred(fitting, command, claim) or fitting
        two = self._rng.sample(fitting, min(2, len(fitting)))
        return min(two, key=lambda place: place.busy())

    def _fitting(self, channels: int, look_ahead: int, claim: Claim) -> list[Place]:
        """Return the workers that may serve so many streams more."""
        if claim is Claim.RESCUE:  # late is better than lost
            return [place for place in self._places if place.free() >= channels]
        places = [place for place in self._places if place.is_open and not place.is_standby]
        streams = sum(place.free() + place.streams for place in places)
        if claim is Claim.NEW:
            connected = sum(place.streams for place in places) + self._lobby.resting_channels
            if self._lobby.has_urgent or connected + channels > self._rules.overcommit * streams:
                return []
        spare = 0
        if claim is not Claim.RETURN and places:
            spare = self._lobby.reserve(streams // len(places), len(places))
        if claim is Claim.AIR:
            is_late = self._pace is not None and self._pace.is_late
            return [p for p in places if p.has_patience(channels, spare=spare) and not is_late]
        found = [p for p in places if p.fits(channels, look_ahead, spare=spare)]
        is_empty = not any(place.streams for place in places)  # nobody can be made late
        if claim is Claim.NEW and (pace := self._pace) and not is_empty:
            return [p for p in found if pace.allows(channels, p.costs.busy(p.load))]
        return found

    def _invite(self) -> None:
        """Let those who wait try again, in order, until one finds no place."""
        if not self._lobby.is_empty and any(place.free() for place in self._places):
            for listener in self._lobby.invitations():
                listener.invited()

    def _detach(self, session: int) -> Place | None:
        place = self._home.pop(session, None)
        self._listeners.pop(session, None)
        if place is not None:
            place.remove(session)
        return place

    # ---- workers

    def tick(self) -> None:
        """Kill workers that hang, forget old lags; once in BEAT_S."""
        if self._pace:
            self._pace.tick(sum(place.streams for place in self._places))
        for place in self._places:
            if place.state is WorkerState.READY and (hang := place.watch.tick()):
                place.worker.kill()
                self._observer.hung(hang)
                self._gone(place, WHY[hang])

    async def _start(self, place: Place) -> None:
        place.watch, place.costs = Watch(), Costs()
        try:
            await place.worker.start(
                lambda report: self._hear(place, report), lambda reason: self._gone(place, reason)
            )
        except OSError as error:
            self._gone(place, f"an engine process could not be started ({error.strerror})")

    def _hear(self, place: Place, report: link.Report) -> None:
        if place.state is not WorkerState.DOWN:  # or a killed worker said it before
            place.watch.heard(report)
            self._report(place, report)

    def _report(self, place: Place, report: link.Report) -> None:
        match report:
            case link.Step():
                self._stepped(place, report)
            case link.Saved(session=session):
                self._tell(session, lambda listener: listener.saved(report))
            case link.Opened(session=session):
                self._tell(session, lambda listener: listener.opened())
            case link.Failed():
                listener = self._listeners.get(report.session)
                self._detach(report.session)
                if listener:
                    failed = methodcaller("failed", report.code, report.message)
                    self._try(listener, failed, report.session)
            case link.Ready():
                place.state, place.reason = WorkerState.READY, ""
                place.model, place.device = report.model, report.device
                place.ready_s = asyncio.get_running_loop().time()
                self._changed.set()
                self._invite()
            case link.Unfit(reason=reason):
                place.state, place.reason = WorkerState.UNFIT, reason
                logger.info("no engine", extra={"worker": place.number, "reason": reason})
                self._changed.set()

    def _stepped(self, place: Place, step: link.Step) -> None:
        place.slots_in_use = step.slots_in_use
        if self._rules.is_by_cost:
            place.costs.heard(step)
        self._observer.stepped(step)
        self._hand_out(step)
        self._invite()

    def _hand_out(self, step: link.Step) -> None:
        """Give each session its part of a step."""
        events = dict[int, list[tuple[int, Event]]]()
        records = dict[int, dict[int, bytes]]()
        for item in step.events:
            events.setdefault(item.session, []).append((item.channel, link.event_of(item)))
        for record in step.records:
            records.setdefault(record.session, {})[record.channel] = record.blob
        for session, happened in events.items():
            self._tell(session, methodcaller("stepped", happened, records.get(session, {})))

    def _tell(self, session: int, tell: Callable[[Listener], None]) -> None:
        """Tell a session something."""
        if (listener := self._listeners.get(session)) is not None:
            self._try(listener, tell, session)

    def _try(self, listener: Listener, tell: Callable[[Listener], None], session: int) -> None:
        """Tell; a fault of ours there ends the session, not its worker's others."""
        try:
            tell(listener)
        except Exception:
            logger.exception("session failed", extra={"session": session})
            self.release(session)
            with contextlib.suppress(Exception):
                listener.failed("internal", FAULT)

    def _gone(self, place: Place, reason: str) -> None:
        """Handle a worker's death: its sessions find other places, it is started again."""
        lost = {session: self._listeners[session] for session in place.sessions}
        place.slots_in_use = 0
        backoff_s = self._backoff_s(place)
        is_unfit = place.state is WorkerState.UNFIT
        if not is_unfit:
            place.state, place.reason = WorkerState.DOWN, reason
            logger.error(
                "worker gone", extra={"worker": place.number, "reason": reason, "lost": len(lost)}
            )
        for session in lost:
            self._detach(session)
        if lost and self.is_ready:
            backoff_s = max(backoff_s, CATCH_UP_S)
        self._relieve(place)
        self._changed.set()
        if not is_unfit and not self._is_closing:
            task = asyncio.get_running_loop().create_task(self._restart(place, backoff_s))
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)
        for session, listener in lost.items():
            self._try(listener, methodcaller("lost"), session)

    def _backoff_s(self, place: Place) -> float:
        """Start one that was well at once; let one that dies again and again wait longer."""
        now = asyncio.get_running_loop().time()
        if place.state is WorkerState.READY and now - place.ready_s >= WELL_S:
            place.failures = 0
            return 0.0
        place.failures += 1
        return min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (place.failures - 1))

    def _relieve(self, place: Place) -> None:
        """Put a standby in the place of a worker that died; that one is the standby then."""
        if place.is_standby:
            return
        for other in self._places:
            if other.is_standby and other.state is WorkerState.READY:
                other.is_standby, place.is_standby = False, True
                return

    async def _restart(self, place: Place, backoff_s: float) -> None:
        await self._sleep(backoff_s)
        await place.worker.close()
        place.worker = self._launch(place.number)
        place.state = WorkerState.STARTING
        self._observer.restarted()
        await self._start(place)
