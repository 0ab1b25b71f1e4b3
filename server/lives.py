"""What the sessions of one gateway share: numbers, and trials of those whose workers died.

Does: name sessions on the link, one number for each stay on a worker; try suspects one by one.
Does not know: what a session is.
"""

import asyncio
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from server.manager import Manager

SUSPECT_DEATHS = 2
"""Workers that died under a session without progress in between: it is tried alone from now on."""
MAX_DEATHS = 6
"""Of such a session in company; one on trial has its worker's death to itself."""
TRIAL_S = 5.0
"""A session on trial that neither killed its worker nor went on makes room for the next."""


class Suspect(Protocol):
    """A session under which workers died."""

    def be_tried(self) -> None:
        """Go on, while no other suspect does."""
        ...


@dataclass(slots=True)
class Lives:
    """Shared by all tenants."""

    manager: Manager
    rest_after_s: float = 0.0
    """Stillness before a session gives its slots back; 0: it never does."""
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    rng: random.Random = field(default_factory=random.Random)
    suspects: deque[Suspect] = field(default_factory=deque)
    """They wait until the one on trial is through: of those that died together one is guilty."""
    trial: Suspect | None = None

    def call_next(self) -> None:
        """Try the next suspect soon, when all that died together are known, unless one is tried."""
        asyncio.get_running_loop().call_soon(self._call_next)

    def _call_next(self) -> None:
        if self.trial is None and self.suspects:
            self.trial = self.suspects.popleft()
            self.trial.be_tried()
