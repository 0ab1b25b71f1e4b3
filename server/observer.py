"""What a manager of workers tells of them, beyond their sessions.

Does: name who hears it.
Does not know: metrics, workers.
"""

from typing import Protocol

from server.worker import link
from server.worker.heart import Hang


class Observer(Protocol):
    """What metrics hear of workers."""

    def stepped(self, step: link.Step) -> None:
        """Note a step of a worker."""
        ...

    def restarted(self) -> None:
        """Note that a worker died and is started again."""
        ...

    def hung(self, hang: Hang) -> None:
        """Note that a worker was killed because it hung."""
        ...
