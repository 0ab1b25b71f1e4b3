"""How many streams each account has, and whether it may have more.

Does: count audio channels by account; keep an account within its limit and, when room is short,
within its share; say which of its sessions without a client a new one puts an end to.
Does not know: keys, workers, where sessions are.
"""

from collections import Counter
from dataclasses import dataclass

from server.keys import Account
from server.wire.errors import RateLimited

SCARCE = 8
"""Room is short when less than one slot in so many is free."""
RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Room:
    """What the workers have."""

    streams: int
    free: int


class Quota:
    """The accounts of one server."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[str, int]] = {}
        """Session -> account, channels."""
        self._away: dict[int, tuple[str, int]] = {}
        """The same of those without a client, the longest away first."""
        self._used: Counter[str] = Counter()

    def used(self, name: str) -> int:
        """Return the channels of an account."""
        return self._used[name]

    def check(self, account: Account, channels: int, room: Room) -> None:
        """Raise RateLimited where an account may not have so many channels more."""
        wanted = self._used[account.name] + channels
        if account.streams is not None and wanted > account.streams:
            text = f"this key serves {account.streams} streams at once"
            raise RateLimited(text, retry_after=RETRY_AFTER_S)
        others = sum(n > 0 for name, n in self._used.items() if name != account.name)
        is_scarce = (room.free - channels) * SCARCE < room.streams
        if others and is_scarce and wanted > max(channels, room.streams // (others + 1)):
            text = "room is short, and this key has its share"
            raise RateLimited(text, retry_after=RETRY_AFTER_S)

    def take(self, session: int, account: Account, channels: int) -> None:
        """Count a session. One that comes back is counted without a check."""
        self.give(session)
        self._held[session] = (account.name, channels)
        self._used[account.name] += channels

    def set_aside(self, session: int) -> None:
        """Count a session no more, and know that its client may come back to it."""
        held = self._held.get(session)
        self.give(session)
        if held is not None:
            self._away[session] = held

    def surplus(self, account: Account, channels: int) -> list[int]:
        """Return the sessions without a client that an account may not have beside so many more.

        All that an account could come back to are within its limit: they come back unchecked.
        """
        if account.streams is None:
            return []
        away = {n: count for n, (name, count) in self._away.items() if name == account.name}
        over = self._used[account.name] + channels + sum(away.values()) - account.streams
        found = list[int]()
        for session, count in away.items():
            if over <= 0:
                break
            found.append(session)
            over -= count
        return found

    def give(self, session: int) -> None:
        """Count it no more. Idempotent."""
        self._away.pop(session, None)
        name, channels = self._held.pop(session, ("", 0))
        self._used[name] -= channels
        if not self._used[name]:
            del self._used[name]
