"""Who may have what room: sessions that come back before those that are new.

Does: the order in which waiting sessions are invited; who rests without a slot, how much room is
kept for their return, how many may be connected in all.
Does not know: workers, what a session is, why room is there.
"""

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

RESERVE_SHARE = 8
"""One slot in so many at most is kept for sessions that rest."""


class Claim(IntEnum):
    """Why a session wants room; the smaller number goes first."""

    RESCUE = 0
    """Its worker died or its client came back: it may have a standby's room too."""
    RETURN = 1
    """It rested, and somebody speaks."""
    AIR = 2
    """It rests, and what it heard is to be decoded some time: it leaves again at once."""
    NEW = 3


class Guest(Protocol):
    """Who waits."""

    def invited(self) -> None:
        """Try again."""
        ...


G = TypeVar("G", bound=Guest)


class Lobby(Generic[G]):
    """Sessions without a slot."""

    def __init__(self) -> None:
        self._waiting: dict[Claim, dict[G, None]] = {claim: {} for claim in Claim}
        self._resting: dict[G, int] = {}
        self.resting_channels = 0

    # ---- waiting

    def wait(self, guest: G, claim: Claim) -> None:
        """Have a session invited when there may be room."""
        self.leave(guest)
        self._waiting[claim][guest] = None

    def leave(self, guest: G) -> None:
        """Invite it no more. Idempotent."""
        for waiting in self._waiting.values():
            waiting.pop(guest, None)

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not any(self._waiting.values())

    @property
    def has_urgent(self) -> bool:
        """Whether somebody waits whom new sessions must not overtake."""
        return bool(self._waiting[Claim.RESCUE] or self._waiting[Claim.RETURN])

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def invitations(self) -> Iterator[G]:
        """Yield those who wait, in their order, until one finds no place."""
        while guest := self._first():
            self.leave(guest)
            yield guest
            if self._is_waiting(guest):
                return

    def _first(self) -> G | None:
        return next((guest for waiting in self._waiting.values() for guest in waiting), None)

    def _is_waiting(self, guest: G) -> bool:
        return any(guest in waiting for waiting in self._waiting.values())

    # ---- resting

    def rest(self, guest: G, channels: int) -> None:
        """Count a session that gave its slots back and may want them again."""
        self.wake(guest)
        self._resting[guest] = channels
        self.resting_channels += channels

    def wake(self, guest: G) -> None:
        """Count it no more. Idempotent."""
        self.resting_channels -= self._resting.pop(guest, 0)

    @property
    def resting(self) -> int:
        """Sessions that rest."""
        return len(self._resting)

    def reserve(self, streams: int, workers: int) -> int:
        """Return how many of a worker's streams are kept for returns."""
        return min(math.ceil(self.resting_channels / max(1, workers)), streams // RESERVE_SHARE)
