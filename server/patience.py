"""How long a session may stay where it stands.

Does: phase, birth, last entry and last sign of life -> the next deadline, and what is due then.
Does not know: messages in flight, workers, clocks (``now`` is an argument).
"""

from enum import Enum

from server.config import ServerConfig
from server.wire.errors import IdleTimeout, InternalError, SessionLimit, WireError

RETRY_AFTER_S = 5.0
GOAWAY_SHARE = 20
"""The last twentieth of a session's age begins with a goaway."""


class Phase(Enum):
    """Where the session stands."""

    NEW = "new"
    OPENING = "opening"
    STREAMING = "streaming"
    PAUSED = "paused"
    FLUSHING = "flushing"
    CLOSED = "closed"


class Patience:
    """The deadlines of one session: start, idle, pause, flush and age."""

    def __init__(self, config: ServerConfig, *, now: float) -> None:
        self._config, self._limits = config, config.limits
        self._born = self._since = self._heard = now
        self._is_warned_of_age = False

    def born(self, at: float) -> None:
        """Count the age from here."""
        self._born = at

    def entered(self, now: float) -> None:
        """Begin a phase."""
        self._since = now

    def heard(self, now: float) -> None:
        """Note a sign of life: a request, or audio that was decoded."""
        self._heard = max(self._heard, now)

    def deadline(self, phase: Phase) -> float:
        """When ``due`` has something to say, at the latest."""
        limits, age_s = self._limits, self._limits.session_ms / 1000
        age = self._born + age_s * (1 if self._is_warned_of_age else 1 - 1 / GOAWAY_SHARE)
        match phase:
            case Phase.NEW | Phase.OPENING:
                return self._since + self._config.start_timeout_s
            case Phase.STREAMING:
                return min(age, self._heard + limits.idle_ms / 1000)
            case Phase.PAUSED:
                return min(age, self._since + limits.pause_ms / 1000)
            case Phase.FLUSHING:
                return self._since + self._config.flush_timeout_s
            case Phase.CLOSED:
                return float("inf")

    def due(self, phase: Phase, now: float) -> WireError | int | None:
        """Return why the session ends now; or, once, the milliseconds left of its age; or None."""
        if self.deadline(phase) > now:
            return None
        limits, age_ms = self._limits, (now - self._born) * 1000
        if phase is Phase.NEW:
            return IdleTimeout(f"no 'start' within {self._config.start_timeout_s:g} s")
        if phase is Phase.OPENING:
            text = "the engine or the store of sessions did not answer in time"
            return InternalError(text, retry_after=RETRY_AFTER_S)
        if phase is Phase.FLUSHING:
            return InternalError("the last audio was not decoded in time")
        if age_ms >= limits.session_ms:
            return SessionLimit(f"a session lasts at most {limits.session_ms} ms")
        if phase is Phase.STREAMING and now >= self._heard + limits.idle_ms / 1000:
            return IdleTimeout(f"nothing came for {limits.idle_ms} ms")
        if phase is Phase.PAUSED and now >= self._since + limits.pause_ms / 1000:
            return IdleTimeout(f"paused for more than {limits.pause_ms} ms")
        self._is_warned_of_age = True
        return max(0, round(limits.session_ms - age_ms))
