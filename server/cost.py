"""What a step of a worker costs, and how late words would be with more streams on it.

Does: fit step time a + b * batch for each look-ahead while the worker runs; predict the 99th
percentile of the chunk lag for a mix of streams; say whether it stays within the latency class.
Does not know: workers, sessions, clocks.

The prediction. A chunk that just missed a step waits for it to end and for its own: two steps. The
batch of a step is what arrived during the one before: T = sum(a) + T * sum(b n / period), so
T = sum(a) / (1 - sum(b n / period)), where a class of few streams pays its a now and then only.
Batches vary like counts do: three deviations are added.
Streams of a longer look-ahead are due later and are overtaken; they are in time as long as the
engine has time to spare. tests/unit/server/test_cost.py holds this against a simulation of the
scheduler.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from asr.interface import FRAME_MS
from server.worker import link

MEMORY = 0.99
"""Weight of a step a step later."""
MIN_STEPS = 16
"""Steps that are seen before a fit is trusted."""
OUTLIER = 4.0
"""A step of more than so many times its fit is taken as that: somebody else had the core."""
PRIOR_SHARE = 0.2
"""Share of a lone stream's step that another stream is taken to add, until batches differ."""
PRIOR_WEIGHT = 0.5
"""In squared streams: batches that differ by one or two speak louder."""
MOST_BUSY = 0.9
MOST_LAG_S = 0.2
ROUNDS = 12
MAX_ROWS = 32
"""Streams of one batch (asr.schedule.Limits)."""


@dataclass(slots=True)
class StepCost:
    """Least squares of seconds over batch that forget: one look-ahead of one worker."""

    steps: int = 0
    weight: float = 0.0
    batch: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def add(self, batch: int, seconds: float) -> None:
        """Take a step."""
        if self.is_known:
            seconds = min(seconds, OUTLIER * max(self.of(batch), 1e-4))
        self.steps += 1
        self.weight = MEMORY * self.weight + 1
        self.batch = MEMORY * self.batch + batch
        self.seconds = MEMORY * self.seconds + seconds
        self.squares = MEMORY * self.squares + batch * batch
        self.products = MEMORY * self.products + batch * seconds

    @property
    def is_known(self) -> bool:
        """Whether enough was seen."""
        return self.steps >= MIN_STEPS

    def line(self) -> tuple[float, float]:
        """Return a and b, neither below zero."""
        if not self.weight:
            return 0.0, 0.0
        batch, seconds = self.batch / self.weight, self.seconds / self.weight
        variance = max(0.0, self.squares / self.weight - batch * batch)
        covariance = self.products / self.weight - batch * seconds
        prior = PRIOR_SHARE * seconds / batch
        slope = (covariance + PRIOR_WEIGHT * prior) / (variance + PRIOR_WEIGHT)
        slope = min(max(slope, 0.0), seconds / batch)
        return seconds - slope * batch, slope

    def of(self, batch: int) -> float:
        """Return what a step of so many streams should take."""
        a, b = self.line()
        return a + b * batch


class Costs:
    """What is known of one worker."""

    def __init__(self) -> None:
        self._of: dict[int, StepCost] = {}

    def heard(self, step: link.Step) -> None:
        """Take a step; passes of several chunks catch up and say little of live streams."""
        if step.batch and step.frames == step.look_ahead + 1:
            self._of.setdefault(step.look_ahead, StepCost()).add(step.batch, step.seconds)

    def line(self, look_ahead: int) -> tuple[float, float] | None:
        """Return a and b of a look-ahead, from the nearest one known if need be; None: no idea."""
        known = [look for look, cost in self._of.items() if cost.is_known]
        if not known:
            return None
        nearest = min(known, key=lambda look: (abs(look - look_ahead), look))
        a, b = self._of[nearest].line()
        return a, b * max(1.0, (look_ahead + 1) / (nearest + 1))

    def busy(self, streams: Mapping[int, int]) -> float:
        """Return the share of its time that the engine needs for so many streams by look-ahead."""
        share = 0.0
        for look_ahead, count in streams.items():
            if count and (line := self.line(look_ahead)):
                a, b = line
                share += count * (b + a / MAX_ROWS) / period_s(look_ahead)
        return share

    def lag_s(self, streams: Mapping[int, int]) -> float:
        """Predict the 99th percentile of the chunk lag of the most urgent streams."""
        lines = {
            look: (*line, count / period_s(look), count)
            for look, count in sorted(streams.items())
            if count and (line := self.line(look))
        }
        if not lines:
            return 0.0
        idle = 1 - sum(rate * b for _, b, rate, _ in lines.values())
        if idle <= 0:
            return math.inf
        cycle = sum(a for a, *_ in lines.values()) / idle
        for _ in range(ROUNDS):  # a class of few streams has no step in each cycle
            cycle = sum(a * min(1.0, rate * cycle) for a, _, rate, _ in lines.values()) / idle
        (a, b, *_), *slower = lines.values()
        cycle = max(cycle, a + b)
        rare = sum((a + b) * (1 - min(1.0, rate * cycle)) for a, b, rate, _ in slower)
        shares = ((b, n - 1, min(1.0, rate * cycle / n)) for _, b, rate, n in lines.values())
        spread = max(b * math.sqrt(others * p * (1 - p)) for b, others, p in shares)
        return 2 * cycle + rare + 3 * spread

    def allows(self, streams: Mapping[int, int]) -> bool:
        """Whether so many streams would be served in time; yes as long as nobody knows."""
        served = [look_ahead for look_ahead, count in streams.items() if count]
        if not served or self.busy(streams) == 0.0:
            return True
        limit = min(MOST_LAG_S, period_s(min(served)))
        return self.busy(streams) <= MOST_BUSY and self.lag_s(streams) <= limit


def period_s(look_ahead: int) -> float:
    """Audio of one chunk."""
    return (look_ahead + 1) * FRAME_MS / 1000
