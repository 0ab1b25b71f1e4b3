"""What a session hears, wherever it is served: events, and the sentence with which it is given up.

Does: name who hears it.
Does not know: workers, wires, why a session is given up.
"""

from typing import Protocol

from asr.events import Event
from server.worker import link

LOST = "the engine process that served this session ended; start a new session"
NO_ROOM = "somebody speaks again, and no slot became free in time; start a new session"
POISON = "this session ended engine processes again and again; it is not served any more"


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
