"""One worker as the manager has it: its state, what it serves, what it has room for.

Does: count streams by look-ahead; say how many more fit by slots and by measured cost.
Does not know: how a worker is launched, who waits for room.
"""

from collections import Counter
from dataclasses import dataclass, field

from server.cost import Costs
from server.worker import link
from server.worker.handle import Worker, WorkerState
from server.worker.heart import Watch

MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""Audio on its way to one worker; beyond it no session is placed there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How room is given."""

    standby: int = 0
    """Workers kept free for the sessions of one that dies."""
    overcommit: int = 10
    """Streams connected for each slot, resting ones included: what is kept of them is memory."""
    is_by_cost: bool = True
    """Whether a session that would make others late is refused though there are slots."""


@dataclass(slots=True)
class Place:
    """Where a worker runs, dies and is started again."""

    number: int
    worker: Worker
    state: WorkerState = WorkerState.STARTING
    model: link.Model | None = None
    reason: str = ""
    sessions: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Session -> audio channels, look-ahead."""
    load: "Counter[int]" = field(default_factory=Counter)
    """Look-ahead -> streams."""
    slots_in_use: int = 0
    failures: int = 0
    ready_s: float = 0.0
    is_standby: bool = False
    """Warm, and kept free for sessions whose worker died."""
    watch: Watch = field(default_factory=Watch)
    costs: Costs = field(default_factory=Costs)

    @property
    def streams(self) -> int:
        """Audio channels that it serves."""
        return self.load.total()

    @property
    def is_open(self) -> bool:
        """Whether it takes sessions at all."""
        is_ready = self.state is WorkerState.READY and self.model is not None
        return is_ready and self.worker.queued_bytes <= MAX_QUEUED_BYTES

    def free(self) -> int:
        """Return the slots that are left."""
        return self.model.streams - self.streams if self.is_open and self.model else 0

    def fits(self, channels: int, look_ahead: int, *, spare: int = 0) -> bool:
        """Whether so many more streams have slots and keep everybody in time.

        ``spare`` streams more are to fit then. One session is served whatever it costs.
        """
        if self.free() < channels + spare:
            return False
        more = self.load + Counter({look_ahead: channels + spare})
        return not self.streams or self.costs.allows(more)

    def busy(self) -> float:
        """Return how loaded it is: by measured cost, by slots where nothing was measured."""
        slots = self.model.streams if self.model else 1
        return max(self.costs.busy(self.load), self.streams / slots)

    def add(self, opening: link.Open) -> None:
        """Count a session."""
        self.sessions[opening.session] = opening.channels, opening.look_ahead
        self.load[opening.look_ahead] += opening.channels

    def remove(self, session: int) -> None:
        """Count it no more."""
        channels, look_ahead = self.sessions.pop(session)
        self.load[look_ahead] -= channels


@dataclass(frozen=True, slots=True)
class PlaceStatus:
    """A worker as /readyz and /metrics tell it."""

    worker: int
    state: str
    reason: str
    streams: int
    slots_in_use: int
    queued_bytes: int
    busy: float = 0.0
