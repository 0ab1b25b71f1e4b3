"""One worker as the manager has it: its state, what it serves, what it has room for.

Does: count streams by look-ahead; say how many more fit by slots and by measured cost, and which of
several workers are to take a session by what an hour of audio costs on their devices.
Does not know: how a worker is launched, who waits for room.
"""

from collections import Counter
from dataclasses import dataclass, field

from server.cost import Costs
from server.lobby import Claim
from server.worker import link
from server.worker.handle import Worker, WorkerState
from server.worker.heart import Watch

PATIENTS, PATIENTS_SHARE = 2, 32
"""So many sessions that may wait have slots at once, or one slot in so many."""
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
    device: link.Device = field(default_factory=link.Device)
    reason: str = ""
    sessions: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Session -> audio channels, look-ahead."""
    load: "Counter[int]" = field(default_factory=Counter)
    """Look-ahead -> streams that are to be in time."""
    patient: dict[int, int] = field(default_factory=dict)
    """Session -> audio channels of those that wait for the others: they have slots, no share."""
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
        return self.load.total() + sum(self.patient.values())

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
        return not self.load.total() or self.costs.allows(more)

    def has_patience(self, channels: int, *, spare: int = 0) -> bool:
        """Whether one more session that may wait has slots; a few at a time go as fast as many."""
        slots = self.model.streams if self.model else 0
        is_few = len(self.patient) < max(PATIENTS, slots // PATIENTS_SHARE)
        return is_few and self.free() >= channels + spare

    def busy(self) -> float:
        """Return how loaded it is: by measured cost, by slots where nothing was measured."""
        slots = self.model.streams if self.model else 1
        return max(self.costs.busy(self.load), self.streams / slots)

    def status(self) -> "PlaceStatus":
        """Return what is told of it."""
        return PlaceStatus(
            self.number,
            self.state.value,
            self.reason,
            self.streams,
            self.slots_in_use,
            self.worker.queued_bytes,
            self.busy(),
            self.device if self.model else None,
        )

    def add(self, opening: link.Open, *, is_patient: bool = False) -> None:
        """Count a session."""
        self.sessions[opening.session] = opening.channels, opening.look_ahead
        if is_patient:
            self.patient[opening.session] = opening.channels
        else:
            self.load[opening.look_ahead] += opening.channels

    def hurry(self, session: int) -> None:
        """Count it with those that are to be in time. Idempotent."""
        if session in self.patient:
            _, look_ahead = self.sessions[session]
            self.load[look_ahead] += self.patient.pop(session)

    def remove(self, session: int) -> None:
        """Count it no more."""
        channels, look_ahead = self.sessions.pop(session)
        if self.patient.pop(session, None) is None:
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
    device: link.Device | None = None
    """None: no worker has told yet."""

    def as_told(self) -> dict[str, str | int | float]:
        """Return what /readyz says of it."""
        told: dict[str, str | int | float]
        told = {"worker": self.worker, "state": self.state, "reason": self.reason}
        if self.device is None:
            return told
        return told | {"device": self.device.name, "audio_hour_cost": self.device.cost}


def preferred(fitting: list[Place], opening: link.Open, claim: Claim) -> list[Place]:
    """Return those of workers that may take a session that are to: all of one cost, if any may.

    The cheapest audio hour that is in time; dearer devices take what is too much for it, and what
    sessions at rest gathered, so that the cheap ones are free for those who speak. A session whose
    worker died may be anywhere, and goes where it is in time before it goes where it is cheap.
    """
    if claim is Claim.RESCUE:
        channels, look_ahead = opening.channels, opening.look_ahead
        fitting = [place for place in fitting if place.fits(channels, look_ahead)]
    costs = [place.device.cost for place in fitting]
    wanted = (max if claim is Claim.AIR else min)(costs, default=0.0)
    return [place for place in fitting if place.device.cost == wanted]
