"""One session, wherever it is served: on a worker, on its way to another, at rest, or put away.

Does: keep its books (ledger), ask for snapshots, find another worker when one dies, alone when they
die again and again, put the session away and bring it back; events reach the session once, finals
behind their log entry (gate).
Does not know: sockets, wires, how workers are chosen.

Rest. A session that is still (stillness) gives its slots back although its client is there: with a
snapshot, as if it were put away. So its state lies here, where a worker's death does not reach it,
and it may return on any worker. What comes meanwhile is kept and counts as heard: silence by its
length, anything else as it is. Its first sound, a finalize or a stop brings it back at once; when
much has gathered that is not silence it comes back to have it decoded (``Claim.AIR``) and rests
again.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from enum import Enum

import msgspec

from asr.events import Progress
from asr.interface import PATIENT
from server.airing import claim_of
from server.gate import Gate
from server.ledger import Happening, Ledger, LedgerFull
from server.listener import LOST, NO_ROOM, POISON, Listener
from server.lives import MAX_DEATHS, SUSPECT_DEATHS, TRIAL_S, Lives
from server.lobby import Claim
from server.stillness import Sound, Stillness
from server.wire.errors import OverCapacity
from server.worker import link

logger = logging.getLogger(__name__)

RETURN_WITHIN_S = 30.0
"""A session that found no new place by then ends."""


class _State(Enum):
    SERVED = "served"
    WAITING = "waiting"
    """For room on a worker."""
    RESTING = "resting"
    """Without a worker; its client is there."""
    AWAY = "away"
    """Without a worker and a client."""


class Tenant:
    """A session as its keeper has it (server.manager.Listener)."""

    def __init__(
        self, ledger: Ledger, listener: Listener, lives: Lives, *, is_begun: bool = False
    ) -> None:
        self.listener = listener
        self.ledger = ledger
        self.gate: Gate | None = None
        self._lives = lives
        self._manager = lives.manager
        self._life: int | None = None
        self._state = _State.AWAY
        self._is_opened = is_begun
        self._leaving_to: _State | None = None
        """Where to with its next snapshot."""
        self._claim = Claim.RESCUE
        """With which it returns."""
        self._is_queued = False
        self._loop = asyncio.get_running_loop()
        self._still = Stillness(
            ledger.opening,
            after_s=lives.rest_after_s,
            now=self._loop.time(),
            is_begun=is_begun,
        )
        self._look: asyncio.TimerHandle | None = None
        self._heard: asyncio.Handle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._verdict: asyncio.TimerHandle | None = None
        ledger.stagger(lives.rng.random())

    @property
    def is_served(self) -> bool:
        """Whether a worker has it."""
        return self._state is _State.SERVED

    @property
    def is_settled(self) -> bool:
        """Whether nothing is asked of its worker that it has not answered."""
        return not (self.ledger.is_asked or self._leaving_to)

    @property
    def is_resting(self) -> bool:
        """Whether it has given its slots back and its client is there."""
        return self._state is _State.RESTING

    # ---- the session's side

    def enter(self, opening: link.Open) -> None:
        """Take slots for the first time; raises OverCapacity."""
        life = next(self._lives.numbers)
        named = msgspec.structs.replace(opening, session=life)
        self._manager.attach(named, self, Claim.NEW)
        self._life, self._state = life, _State.SERVED
        self._look_later()

    def send(self, command: link.Command) -> None:
        """Hand a command on, now or when there is a worker again."""
        sound = self._still.hear(command, now=self._loop.time())
        is_rest_over = self._still.ends_rest(command, sound)
        if self._state is _State.RESTING and not is_rest_over:
            self._gather(command, sound)
            return
        if self._is_patient:
            command = self._be_patient(command, is_rest_over=is_rest_over)
        self.ledger.note(command)
        if self._state is _State.RESTING:
            self._return_with(Claim.RETURN)
            return
        if is_rest_over and self._leaving_to is _State.RESTING:
            self._leaving_to = None
        self._send(command)
        if self._state is _State.SERVED and self.ledger.wants_snapshot():
            self._send(link.Checkpoint(0))

    def write_down(self) -> None:
        """Ask for a snapshot now."""
        if self.is_served:
            self._send(link.Checkpoint(0))

    def leave(self) -> None:
        """Give the slots back at once; nothing is said any more. Idempotent."""
        self._vacate(_State.AWAY)
        if self.gate is not None:
            self.gate.shut()

    def put_away(self) -> None:
        """Give the slots back as soon as a snapshot holds all that was heard."""
        if self._state in (_State.WAITING, _State.RESTING) or self.ledger.is_over:
            self._vacate(_State.AWAY)
        elif self._state is _State.SERVED:
            self._leaving_to = _State.AWAY
            self._send(link.Checkpoint(0))

    def come_back(self) -> None:
        """Be served again, unless it is."""
        self._leaving_to = None
        if self._state is _State.AWAY and not self.ledger.is_over:
            self._claim = Claim.RESCUE
            self._go_on()

    def be_tried(self) -> None:
        """Go on, while no other suspect does."""
        self._verdict = self._loop.call_later(TRIAL_S, self._let_go)
        self._return()

    # ---- the manager's side

    def opened(self) -> None:
        """Tell the session once."""
        if not self._is_opened:
            self._is_opened = True
            self.listener.opened()

    def stepped(self, events: Sequence[Happening], records: Mapping[int, bytes]) -> None:
        """Let through what was not said before."""
        fresh = self.ledger.take(events, records)
        if self.ledger.is_over:
            self._vacate(_State.AWAY)
        books = self.ledger
        done = max((e.done_samples for _, e in fresh if isinstance(e, Progress)), default=0)
        if done > books.reached:  # a replay that comes as far as before is no progress
            books.reached, books.deaths = done, 0
            self._let_go()
        self._still.say(fresh)
        if not fresh:
            return
        self._rest_if_still()
        if self.gate is None:
            self.say(fresh)
        else:
            self.gate.put(fresh, lambda: self.ledger.kept(with_snapshots=False))

    def saved(self, report: link.Saved) -> None:
        """Take a snapshot; a session that is to be put away goes with it."""
        is_saved = self.ledger.saved(report)
        if is_saved and self.gate is not None:
            self.gate.snapshot(report.at, self.ledger.kept(with_snapshots=True))
        if self._leaving_to is _State.RESTING and not is_saved:
            self._leaving_to = None
        if self._leaving_to is not None:
            if self._still.is_settled(self.ledger.at - report.at):
                self.ledger.settle()
            self._vacate(self._leaving_to)

    def failed(self, code: link.FailureCode, message: str) -> None:
        """End it."""
        self._vacate(_State.AWAY)
        self.listener.failed(code, message)

    def lost(self) -> None:
        """Go on elsewhere: the worker died."""
        self._life, self._state, self._claim = None, _State.AWAY, Claim.RESCUE
        if self._leaving_to is _State.RESTING:
            self._leaving_to = None
        is_tried = self._lives.trial is self
        if is_tried or self._lives.trial is None:
            self.ledger.deaths += 1
            if self.gate is not None:
                self.gate.note(self.ledger.kept(with_snapshots=False))
        if is_tried or self.ledger.deaths >= MAX_DEATHS:
            logger.error("session quarantined", extra={"deaths": self.ledger.deaths})
            self.failed("quarantined", POISON)
        elif self._leaving_to or not self.ledger.is_over:
            self._go_on()

    def invited(self) -> None:
        """Try to find a place again."""
        self._is_queued = False
        self._return()

    def say(self, events: Sequence[Happening]) -> None:
        """Tell the session."""
        for channel, event in events:
            self.listener.happened(channel, event)

    # ---- inside

    def _go_on(self) -> None:
        """Return, or wait for a trial."""
        if self.ledger.deaths < SUSPECT_DEATHS:
            self._return()
            return
        self._state = _State.WAITING  # without a limit: no trial before its own lasts for ever
        self._lives.suspects.append(self)
        self._lives.call_next()

    def _let_go(self) -> None:
        """End the trial, if this is the one on trial. Idempotent."""
        if self._verdict is not None:
            self._verdict.cancel()
            self._verdict = None
        if self._lives.trial is self:
            self._lives.trial = None
            self._lives.call_next()

    def _return(self) -> None:
        """Find a place and bring the session there, or wait for one."""
        life = next(self._lives.numbers)
        try:
            self._manager.check(self.ledger.opening, self._claim)
            now = PATIENT if self._claim is Claim.AIR else self._loop.time()
            opening, *rest = self.ledger.revive(life, now=now)
            assert isinstance(opening, link.Open)
            self._manager.attach(opening, self, self._claim)
        except LedgerFull:
            self.failed("internal", LOST)
            return
        except OverCapacity:
            if self._claim is not Claim.AIR:
                self._wait()
            self._is_queued = True
            self._manager.await_room(self, self._claim)
            return
        self._stop_waiting()
        self._life, self._state = life, _State.SERVED
        for command in rest:
            self._send(command)
        if self._leaving_to:
            self._send(link.Checkpoint(0))
        self._look_later()

    def _wait(self) -> None:
        self._state = _State.WAITING
        if self._deadline is None:
            self._deadline = self._loop.call_later(RETURN_WITHIN_S, self._give_up)

    def _give_up(self) -> None:
        if self._leaving_to is _State.AWAY:  # nobody waits for it: all that it heard is kept
            self._vacate(_State.AWAY)
        elif self._claim is Claim.RESCUE:
            self.failed("internal", LOST)
        else:
            self.failed("over_capacity", NO_ROOM)

    def _stop_waiting(self) -> None:
        self._manager.wake(self)
        self._is_queued = False
        self._manager.wait_no_more(self)
        if self in self._lives.suspects:
            self._lives.suspects.remove(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _vacate(self, state: _State) -> None:
        self._stop_waiting()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._life is not None:
            self._manager.release(self._life)
        self._life, self._state, self._leaving_to = None, state, None
        if state is _State.RESTING:
            self._manager.rest(self, self.ledger.channels)
        self._let_go()

    # ---- rest

    def _look_later(self) -> None:
        """Look after a while whether anything came; audio that comes is looked at as it does."""
        after_s = self._lives.rest_after_s
        if after_s and self._look is None:
            silent_s = self._still.silent_s(now=self._loop.time())
            wait_s = after_s - silent_s if silent_s < after_s else after_s
            self._look = self._loop.call_later(wait_s, self._look_now)

    def _look_now(self) -> None:
        self._look = None
        self._rest_if_still()
        if self._state is _State.SERVED:
            self._look_later()

    def _rest_if_still(self) -> None:
        """Give the slots back as soon as a snapshot is here, if the session is still."""
        is_free_to = self._state is _State.SERVED and self._leaving_to is None and self._is_opened
        is_busy = self.ledger.is_asked or self.ledger.is_lost or self._lives.trial is self
        if not self._lives.rest_after_s or not is_free_to or is_busy:
            return
        still, now = self._still, self._loop.time()
        if still.is_decoded(self.ledger.at) and (
            still.is_idle(now=now) or (still.is_quiet and self._manager.is_short)
        ):
            self._rest()

    def _rest(self) -> None:
        self._leaving_to = _State.RESTING
        self._send(link.Checkpoint(0))

    def _gather(self, command: link.Command, sound: Sound | None) -> None:
        """Keep what came to a session at rest; it counts as heard."""
        before = self.ledger.at
        if sound is Sound.ZERO and isinstance(command, link.Audio):
            self.ledger.hush(self.ledger.length(command))
        else:
            self.ledger.note(command)
        if self.ledger.at > before:
            self._say_heard_soon()
        if self.gate is not None and self.ledger.wants_telling():
            self.gate.snapshot(self.ledger.at, self.ledger.kept(with_snapshots=True))
        if claim := claim_of(self.ledger):
            self._return_with(claim)

    def _be_patient(self, command: link.Command, *, is_rest_over: bool) -> link.Command:
        """Let what comes to a session that is aired wait and count as heard, unless it speaks."""
        if self._life is not None and (is_rest_over or claim_of(self.ledger) is Claim.RETURN):
            self._claim = Claim.RETURN
            self._manager.hurry(self._life)
        elif isinstance(command, link.Audio):
            self._say_heard_soon()
            command = msgspec.structs.replace(command, sent=PATIENT)
        return command

    @property
    def _is_patient(self) -> bool:
        """Whether it is served to have what it gathered decoded, and nobody speaks."""
        return self._state is _State.SERVED and self._claim is Claim.AIR

    def _say_heard_soon(self) -> None:
        if self._heard is None:
            self._heard = self._loop.call_soon(self._tell_heard)  # not from within its own call

    def _tell_heard(self) -> None:
        self._heard = None
        if self._state is _State.RESTING or self._is_patient:
            stopped = self.ledger.stopped
            heard = [c for c in range(self.ledger.channels) if c not in stopped]
            self.say([(channel, Progress(self.ledger.at)) for channel in heard])

    def _return_with(self, claim: Claim) -> None:
        if claim is Claim.AIR and self._is_queued:
            return
        self._claim = claim
        self._return()

    def _send(self, command: link.Command) -> None:
        if self._life is not None and not isinstance(command, link.Quit):
            named = msgspec.structs.replace(command, session=self._life)
            self._manager.send(named, self._life)
