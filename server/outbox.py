"""What waits to be written to one client, bounded however slowly it reads.

Does: keep order; a newer partial of the same segment and a newer ack replace the waiting one; a
final removes the waiting partial of its segment; nothing else is ever dropped.
Does not know: sockets, JSON, sessions.
"""

import asyncio

from server.wire.messages import Ack, Final, Partial, ServerMessage

MAX_MESSAGES = 1_024
"""More cannot wait for a client that answers what it is sent."""

_Key = tuple[str, int, int]


class OutboxFull(Exception):
    """The client makes us answer and does not read the answers."""


class Outbox:
    """A queue with one writer and one reader in one event loop."""

    def __init__(self, max_messages: int = MAX_MESSAGES) -> None:
        self._max = max_messages
        self._waiting: dict[_Key, ServerMessage] = {}
        self._next = 0
        self._wake = asyncio.Event()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: ServerMessage) -> None:
        """Queue a message behind the others; raises OutboxFull."""
        key = self._key(message)
        if isinstance(message, Final):
            self._waiting.pop(("partial", message.channel, message.id), None)
        self._waiting.pop(key, None)
        if len(self._waiting) >= self._max:
            raise OutboxFull
        self._waiting[key] = message
        self._wake.set()

    def pop(self) -> ServerMessage | None:
        """Take the oldest message; None when nothing waits."""
        if not self._waiting:
            return None
        return self._waiting.pop(next(iter(self._waiting)))

    def clear(self) -> None:
        """Drop what waits: the client is to hear nothing more."""
        self._waiting.clear()

    def close(self) -> None:
        """Say that nothing more will be put."""
        self._is_closed = True
        self._wake.set()

    async def wait(self) -> bool:
        """Wait for a message; False when none will come."""
        while not self._waiting and not self._is_closed:
            self._wake.clear()
            await self._wake.wait()
        return bool(self._waiting)

    def _key(self, message: ServerMessage) -> _Key:
        if isinstance(message, Partial):
            return ("partial", message.channel, message.id)
        if isinstance(message, Ack):
            return ("ack", 0, 0)
        self._next += 1
        return ("", 0, self._next)
