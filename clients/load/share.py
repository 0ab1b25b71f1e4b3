"""A process that makes its share of the calls of a run.

Does: all calls of its seats on one event loop, a word every half second, the tally at the end.
Does not know: the other processes, judgement.

It says ``Ready`` first and waits for the run's zero on the clock that all processes share
(``time.monotonic``), so that a slow start of a process is not a late packet.
"""

import asyncio
import gc
import signal
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from clients.load.caller import OPEN_AHEAD_S, Caller, Target
from clients.load.plan import Call, Seat
from clients.load.tally import Tally

TICK_S = 0.5
TICK_LAGS = 500
"""Lags shown a tick at most: the view needs no more."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a process has to do."""

    target: Target
    seats: tuple[Seat, ...]
    voices: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """The process waits for the zero."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What happened since the last tick."""

    live: int
    lags_s: tuple[float, ...]
    late_s: float
    ended: int
    failed: int

    def plus(self, other: "Tick") -> "Tick":
        """Return both as one."""
        return Tick(
            self.live + other.live,
            self.lags_s + other.lags_s,
            max(self.late_s, other.late_s),
            self.ended + other.ended,
            self.failed + other.failed,
        )


def work(link: Connection, order: Order) -> None:
    """Run a share: the target of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, in order
    try:
        link.send(Ready())
        zero_s = float(link.recv())
        gc.collect()
        gc.freeze()  # or each collection would look at all audio again
        link.send(asyncio.run(_Share(link, order, zero_s).make()))
    except* (ConnectionError, EOFError):
        pass  # the parent was killed: nobody wants the tally


@dataclass(slots=True)
class _Share:
    """The calls of this process."""

    link: Connection
    order: Order
    zero_s: float
    tally: Tally = field(default_factory=Tally)
    live: int = 0

    async def make(self) -> Tally:
        """Make all calls; they end at once when there is nobody to tell of them."""
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell())
            calls = [self._make(call) for seat in self.order.seats for call in seat]
            await asyncio.gather(*map(group.create_task, calls))
            telling.cancel()
        return self.tally

    async def _make(self, call: Call) -> None:
        """Begin a call when it is due, whether or not the one before it on its seat is over."""
        begin_s = self.zero_s + call.at_s - OPEN_AHEAD_S
        await asyncio.sleep(max(0.0, begin_s - asyncio.get_running_loop().time()))
        self.live += 1
        pcm = self.order.voices[call.voice]
        await Caller(self.order.target, call, pcm, self.zero_s, self.tally).run()
        self.live -= 1

    async def _tell(self) -> None:
        seen: dict[str, int] = {}
        late = 0
        while True:
            await asyncio.sleep(TICK_S)
            if self.link.poll():  # nothing is said after the zero
                raise EOFError("the parent is gone")
            lags: list[float] = []
            for latency, series in list(self.tally.lags.items()):
                begin = max(seen.get(latency, 0), len(series.values) - TICK_LAGS)
                lags += series.values[begin:]
                seen[latency] = len(series.values)
            waking = self.tally.late.values[late:]
            late += len(waking)
            failed = sum(bool(call.failure) for call in self.tally.calls)
            ended = len(self.tally.calls)
            self.link.send(Tick(self.live, tuple(lags), max(waking, default=0.0), ended, failed))
