"""What a gateway process can pass on: packets a second of one core.

Does: load a server through sockets; processor time of its gateway alone, engines not counted.
Does not know: words. ``make bench`` calls it.
"""

from dataclasses import dataclass
from typing import Any

from clients.demo import SAMPLES, url_of
from clients.load.caller import Target
from clients.load.host import find_server, own_cpu_s
from clients.load.material import material
from clients.load.plan import Traffic, plan
from clients.load.run import Run, play
from clients.load.share import Tick
from clients.serving import ServerProcess
from tests.bench.sustained import free_port

PACKET_MS = 20


@dataclass(slots=True)
class _Watch:
    """Processor time of one process while the streams are all there."""

    pid: int
    window_s: tuple[float, float]
    first: tuple[float, float] | None = None
    last: tuple[float, float] | None = None

    def __call__(self, at_s: float, tick: Tick) -> None:
        """Look at the clock and at the process; called about once a second."""
        begin, end = self.window_s
        used = own_cpu_s(self.pid)
        if begin <= at_s <= end and used is not None:
            self.first = self.first or (at_s, used)
            self.last = (at_s, used)

    @property
    def share(self) -> float | None:
        """Of a core."""
        if self.first is None or self.last is None or self.last[0] <= self.first[0]:
            return None
        return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


def measure(streams: int = 32, seconds: float = 10.0) -> dict[str, Any]:
    """Return packets a second now, the core's share they take, and what a whole core would pass."""
    traffic = Traffic(
        seconds=seconds, ramp_s=3.0, warm_s=1.0, packets_ms=(PACKET_MS,), churn=0.0, jitter_ms=0.0
    )
    sounds = material(SAMPLES, "speech", traffic.total_s)
    options = ["--workers", "1", "--slots", str(2 * streams)]
    options += ["--admission", "slots", "--rest-after", "0"]
    with ServerProcess(free_port(), options) as server:
        server.wait_ready()
        pid = find_server(server.port)
        if pid is None:
            return {}
        watch = _Watch(pid, traffic.window_s)
        seats = plan(traffic, streams, sounds.lengths)
        voices = tuple(voice.pcm for voice in sounds.voices)
        tally = play(Run(Target(url=url_of(server.port)), seats, voices), watch)
    if watch.share is None:
        return {}
    packets = streams * 1000 / PACKET_MS
    return {
        "streams": streams,
        "packet_ms": PACKET_MS,
        "packets_per_s": packets,
        "core_share": round(watch.share, 3),
        "packets_per_s_of_a_core": round(packets / watch.share),
        "failures": sum(bool(call.failure) for call in tally.calls),
    }
