"""One session, wherever it is served: on a worker, on its way to another, or put away.

Does: keep its books (ledger), ask for snapshots, find another worker when one dies, alone when they
die again and again, put the session away and bring it back; events reach the session once, finals
behind their log entry (gate).
Does not know: sockets, wires, how workers are chosen.
"""

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import msgspec

from asr.events import Event, Progress
from server.gate import Gate
from server.ledger import Happening, Ledger, LedgerFull
from server.manager import Manager
from server.wire.errors import OverCapacity
from server.worker import link

logger = logging.getLogger(__name__)

LOST = "the engine process that served this session ended; start a new session"
POISON = "this session ended engine processes again and again; it is not served any more"
RETURN_WITHIN_S = 30.0
"""A session that found no new place by then ends."""
SUSPECT_DEATHS = 2
"""Workers that died under a session without progress in between: it is tried alone from now on."""
MAX_DEATHS = 6
"""Of such a session in company; one on trial has its worker's death to itself."""
TRIAL_S = 5.0
"""A session on trial that neither killed its worker nor went on makes room for the next."""


class Listener(Protocol):
    """What a session hears."""

    def opened(self) -> None:
        """Go on: its slots are taken."""
        ...

    def happened(self, channel: int, event: Event) -> None:
        """Take an event of one channel."""
        ...

    def failed(self, code: link.FailureCode, message: str) -> None:
        """End: it cannot go on."""
        ...


class _State(Enum):
    SERVED = "served"
    WAITING = "waiting"
    """For room on a worker."""
    AWAY = "away"


@dataclass(slots=True)
class Lives:
    """Shared by all tenants: the names of sessions on the link, one for each stay on a worker."""

    manager: Manager
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    rng: random.Random = field(default_factory=random.Random)
    suspects: "deque[Tenant]" = field(default_factory=deque)
    """They wait until the one on trial is through: of those that died together one is guilty."""
    trial: "Tenant | None" = None

    def call_next(self) -> None:
        """Try the next suspect soon, when all that died together are known, unless one is tried."""
        asyncio.get_running_loop().call_soon(self._call_next)

    def _call_next(self) -> None:
        if self.trial is None and self.suspects:
            self.trial = self.suspects.popleft()
            self.trial.be_tried()


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
        self._is_leaving = False
        """To be put away with its next snapshot."""
        self._deaths = self._done = 0
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
        return not (self.ledger.is_asked or self._is_leaving)

    # ---- the session's side

    def enter(self, opening: link.Open) -> None:
        """Take slots for the first time; raises OverCapacity."""
        life = next(self._lives.numbers)
        named = msgspec.structs.replace(opening, session=life)
        self._manager.attach(named, self)
        self._life, self._state = life, _State.SERVED

    def send(self, command: link.Command) -> None:
        """Hand a command on, now or when there is a worker again."""
        self.ledger.note(command)
        self._send(command)
        if self._state is _State.SERVED and self.ledger.wants_snapshot():
            self._send(link.Checkpoint(0))

    def leave(self) -> None:
        """Give the slots back at once; nothing is said any more. Idempotent."""
        self._vacate(_State.AWAY)
        if self.gate is not None:
            self.gate.shut()

    def put_away(self) -> None:
        """Give the slots back as soon as a snapshot holds all that was heard."""
        if self._state is _State.WAITING or self.ledger.is_over:
            self._vacate(_State.AWAY)
        elif self._state is _State.SERVED:
            self._is_leaving = True
            self._send(link.Checkpoint(0))

    def come_back(self) -> None:
        """Be served again, unless it is."""
        self._is_leaving = False
        if self._state is _State.AWAY and not self.ledger.is_over:
            self._go_on()

    def be_tried(self) -> None:
        """Go on, while no other suspect does."""
        loop = asyncio.get_running_loop()
        self._verdict = loop.call_later(TRIAL_S, self._let_go)
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
        done = max((e.done_samples for _, e in fresh if isinstance(e, Progress)), default=0)
        if done > self._done:  # a replay that comes as far as before is no progress
            self._done, self._deaths = done, 0
            self._let_go()
        if not fresh:
            return
        if self.gate is None:
            self.say(fresh)
        else:
            self.gate.put(fresh, lambda: self.ledger.kept(with_snapshots=False))

    def saved(self, report: link.Saved) -> None:
        """Take a snapshot; a session that is to be put away goes with it."""
        is_saved = self.ledger.saved(report)
        if is_saved and self.gate is not None:
            self.gate.snapshot(report.at, self.ledger.kept(with_snapshots=True))
        if self._is_leaving:
            self._vacate(_State.AWAY)

    def failed(self, code: link.FailureCode, message: str) -> None:
        """End it."""
        self._vacate(_State.AWAY)
        self.listener.failed(code, message)

    def lost(self) -> None:
        """Go on elsewhere: the worker died."""
        self._life, self._state = None, _State.AWAY
        is_tried = self._lives.trial is self
        if is_tried or self._lives.trial is None:
            self._deaths += 1
        if is_tried or self._deaths >= MAX_DEATHS:
            logger.error("session quarantined", extra={"deaths": self._deaths})
            self.failed("quarantined", POISON)
        elif self._is_leaving or not self.ledger.is_over:
            self._go_on()

    def invited(self) -> None:
        """Try to find a place again."""
        self._return()

    def say(self, events: Sequence[Happening]) -> None:
        """Tell the session."""
        for channel, event in events:
            self.listener.happened(channel, event)

    # ---- inside

    def _go_on(self) -> None:
        """Return, or wait for a trial."""
        if self._deaths < SUSPECT_DEATHS:
            self._return()
            return
        self._wait()
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
            opening, *rest = self.ledger.revive(life, now=asyncio.get_running_loop().time())
            assert isinstance(opening, link.Open)
            self._manager.attach(opening, self, is_coming_back=True)
        except LedgerFull:
            self.failed("internal", LOST)
            return
        except OverCapacity:
            self._wait()
            self._manager.await_room(self)
            return
        self._stop_waiting()
        self._life, self._state = life, _State.SERVED
        for command in rest:
            self._send(command)
        if self._is_leaving:
            self._send(link.Checkpoint(0))

    def _wait(self) -> None:
        self._state = _State.WAITING
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(RETURN_WITHIN_S, self.failed, "internal", LOST)

    def _stop_waiting(self) -> None:
        self._manager.wait_no_more(self)
        if self in self._lives.suspects:
            self._lives.suspects.remove(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _vacate(self, state: _State) -> None:
        self._stop_waiting()
        if self._life is not None:
            self._manager.release(self._life)
        self._life, self._state, self._is_leaving = None, state, False
        self._let_go()

    def _send(self, command: link.Command) -> None:
        if self._life is not None and not isinstance(command, link.Quit):
            named = msgspec.structs.replace(command, session=self._life)
            self._manager.send(named, self._life)
