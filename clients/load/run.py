"""One run: processes with their shares, from the first packet to the merged tally.

Does: divide seats over processes, set the zero, pass ticks on, end every process however it goes.
Does not know: judgement, drawing, what the server is.
"""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from clients.errors import CommandError
from clients.load.caller import PATIENCE_S, Target
from clients.load.plan import Seat
from clients.load.share import Order, Ready, Tick, work
from clients.load.tally import Tally

STREAMS_A_PROCESS = 500
PACKETS_A_PROCESS = 6_000
"""A second: about a quarter of what one process could send, so that it is on time."""
START_TIMEOUT_S = 120.0
SOON_S = 0.6
"""From the word that all are ready to the run's zero: the first handshakes come before it."""

OnTick = Callable[[float, Tick], None]
"""Called with the time since the run's zero."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be played."""

    target: Target
    seats: tuple[Seat, ...]
    voices: tuple[bytes, ...]

    @property
    def end_s(self) -> float:
        """When the last packet is due."""
        return max(call.end_s for seat in self.seats for call in seat)


def shares(seats: Sequence[Seat]) -> list[tuple[Seat, ...]]:
    """Divide seats evenly over as many processes as it takes to be on time."""
    packets = sum(1000 / seat[0].packet_ms for seat in seats if seat)
    need = max(len(seats) / STREAMS_A_PROCESS, packets / PACKETS_A_PROCESS)
    count = max(1, math.ceil(need))
    return [tuple(seats[number::count]) for number in range(count)]


def play(run: Run, on_tick: OnTick) -> Tally:
    """Make all calls and return what they felt. Raises CommandError when a process dies."""
    orders = [Order(run.target, share, run.voices) for share in shares(run.seats)]
    with _processes(orders) as links:
        for link in links:
            if not link.poll(START_TIMEOUT_S) or not isinstance(_receive(link), Ready):
                raise CommandError(f"a load process did not start within {START_TIMEOUT_S:.0f} s")
        zero_s = time.monotonic() + SOON_S
        for link in links:
            link.send(zero_s)
        return _collect(links, zero_s, run.end_s, on_tick)


def _collect(links: Sequence[Connection], zero_s: float, end_s: float, on_tick: OnTick) -> Tally:
    tallies: list[Tally] = []
    ticks: dict[Connection, Tick] = {}
    open_links = list(links)
    while open_links:
        if time.monotonic() - zero_s > end_s + 3 * PATIENCE_S:
            raise CommandError("a load process did not end")
        for link in wait(open_links, timeout=1.0):
            assert isinstance(link, Connection)
            said = _receive(link)
            if isinstance(said, Tally):
                tallies.append(said)
                open_links.remove(link)
            elif isinstance(said, Tick):
                ticks[link] = said
        if len(ticks) >= max(1, len(open_links)):
            first, *others = ticks.values()
            for other in others:
                first = first.plus(other)
            on_tick(time.monotonic() - zero_s, first)
            ticks.clear()
    return Tally.of(tallies)


def _receive(link: Connection) -> object:
    try:
        return link.recv()
    except EOFError as error:
        raise CommandError("a load process died; what it wrote is above") from error


@contextmanager
def _processes(orders: Sequence[Order]) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")  # fork would copy locks of a busy parent
    processes: list[BaseProcess] = []
    links: list[Connection] = []
    try:
        for order in orders:
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=work, args=(theirs, order), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            links.append(ours)
        yield links
    finally:
        for process, link in zip(processes, links, strict=True):
            link.close()
            process.terminate()
            process.join()
