"""How long `make soak` plays random clients of one wire."""

import time
from collections.abc import Callable

from hypothesis import HealthCheck, settings

UNHURRIED = settings(deadline=None, suppress_health_check=list(HealthCheck))
"""A busy machine is no mistake."""
MINUTES = 10.0
"""Of each wire."""


def play_on(test: Callable[[], None], *, minutes: float = MINUTES) -> None:
    """Run a test again and again, each time with new random clients; once at least."""
    until = time.monotonic() + 60 * minutes
    while True:
        test()
        if time.monotonic() > until:
            return
