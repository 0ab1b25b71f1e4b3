"""What a manager holds of a worker, however it was launched.

Does: name the interface of thread and process workers.
Does not know: launching, sessions, placement.
"""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from server.worker import link

OnReport = Callable[[link.Report], None]
"""Called in the gateway's event loop, in the order of the reports."""
OnExit = Callable[[str], None]
"""Called once in the gateway's event loop when the worker is gone, with a reason."""


class WorkerState(Enum):
    """Life of a worker's place."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"
    UNFIT = "unfit"
    CLOSED = "closed"


class Worker(Protocol):
    """A running engine host."""

    async def start(self, on_report: OnReport, on_exit: OnExit) -> None:
        """Launch it; reports begin with link.Ready."""
        ...

    def send(self, command: link.Command) -> None:
        """Hand a command over; lost when the worker is gone (on_exit tells)."""
        ...

    @property
    def queued_bytes(self) -> int:
        """Commands not yet taken by the worker, as far as this side knows."""
        ...

    def kill(self) -> None:
        """End it at once, whatever it does; on_exit is not called, ``close`` is to follow."""
        ...

    async def close(self) -> None:
        """End it and wait until it is gone. Idempotent; on_exit is not called."""
        ...
