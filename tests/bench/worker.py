"""Streams that one engine process holds by its own clock: its processor time.

Does: drive an engine host (server.worker.loop) with the packets of so many callers; time passes
only while it works or all of them wait, so what a machine does beside it does not count; search for
the most streams whose p99 chunk lag is within the limit of N*; results/worker.json.
Does not know: sockets, gateways; whether words are right.

    python -m tests.bench.worker [--model build/bench/hybrid-114m.nemo] [--look-ahead 6]
    python -m tests.bench.worker --streams 250

N* through sockets (``make bench``) is the figure that counts; this one is beside it where a virtual
machine slows down for moments, and says how much of N* the rest of the way costs.
"""

import argparse
import heapq
import json
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from asr.engine import EngineConfig, load_engine
from asr.events import Progress
from asr.interface import FRAME_MS
from clients.demo import SAMPLES
from clients.load.host import machine
from clients.load.judge import Limits, Spread
from clients.load.material import material
from clients.load.plan import RATE_HZ, Traffic
from clients.load.search import Search, Verdict
from server.worker import link
from server.worker.loop import Host

RESULTS = Path(__file__).parent / "results" / "worker.json"
WARM_SHARE = 0.2
"""Of the time, not measured: callers come within it."""


@dataclass(slots=True)
class Caller:
    """Speaks at the pace of speech."""

    session: int
    packet: int
    """Samples."""
    pcm: bytes
    at: int = 0
    sent: int = 0
    waiting: deque[tuple[int, float]] = field(default_factory=deque)
    """(samples sent in all, when) of packets that are not decoded."""

    def speak(self, now: float) -> link.Audio:
        """Send a packet."""
        size = 2 * self.packet
        if self.at + size > len(self.pcm):
            self.at = 0
        data = self.pcm[self.at : self.at + size]
        self.at, self.sent = self.at + size, self.sent + self.packet
        self.waiting.append((self.sent, now))
        return link.Audio(self.session, data, now)

    def lag_s(self, done: int, now: float) -> float:
        """How long ago the packet came that completed what is decoded now."""
        while self.waiting[0][0] < done:
            self.waiting.popleft()
        return now - self.waiting[0][1]


class Box:
    """A mailbox whose reports are written as they would be."""

    def __init__(self) -> None:
        self.reports: list[link.Report] = []
        self.written = 0

    def receive(self, *, may_wait: bool) -> list[link.Command]:
        """Nothing comes this way."""
        return []

    def send(self, report: link.Report) -> None:
        """Take a report."""
        self.written += len(link.frame(report))
        self.reports.append(report)

    def progress(self) -> Iterator[tuple[int, int]]:
        """Yield (session, samples decoded) of what was reported since the last call."""
        reports, self.reports = self.reports, []
        for report in reports:
            for item in report.events if isinstance(report, link.Step) else ():
                event = link.event_of(item)
                if isinstance(event, Progress):
                    yield item.session, event.done_samples


@dataclass(slots=True)
class Figures:
    """What a run showed."""

    streams: int
    now: float = 0.0
    busy_s: float = 0.0
    steps: int = 0
    rows: int = 0
    packets: int = 0
    lags: list[float] = field(default_factory=list)

    def as_row(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        lag = Spread.of(self.lags)
        return {
            "streams": self.streams,
            "lag_p50_ms": lag and lag.p50,
            "lag_p99_ms": lag and lag.p99,
            "busy": round(self.busy_s / self.now, 3),
            "cpu_ms_per_audio_s": round(1000 * self.busy_s / self.now / self.streams, 2),
            "steps_per_s": round(self.steps / self.now, 1),
            "batch": round(self.rows / max(1, self.steps), 1),
            "packets_per_s": round(self.packets / self.now),
        }


@dataclass(slots=True)
class Bench:
    """One model at one look-ahead."""

    model: str
    look_ahead: int
    precision: str
    seconds: float

    @property
    def limit_ms(self) -> float:
        """P99 chunk lag of a run that held."""
        return min(Limits().lag_ms, (self.look_ahead + 1) * FRAME_MS)

    def run(self, streams: int) -> dict[str, Any]:
        """Have so many callers speak."""
        config = EngineConfig(slots=streams + streams // 7 + 2, precision=self.precision)  # type: ignore[arg-type]
        engine, box, figures = load_engine(self.model, config), Box(), Figures(streams)
        host, rng = Host(engine, box), random.Random(streams)
        engine.warm(self.look_ahead)
        host._cold.clear()
        opening = link.Open(
            0, "pcm_s16le", RATE_HZ, 1, self.look_ahead, None, link.Turns(), "all", words=True
        )
        host.turn([msgspec.structs.replace(opening, session=n) for n in range(streams)])
        callers = self._callers(streams, rng)
        due = [(rng.uniform(0, WARM_SHARE * self.seconds), n) for n in range(streams)]
        heapq.heapify(due)
        reader = link.CommandReader()
        while figures.now < self.seconds:
            frames = bytearray()
            while due[0][0] <= figures.now:
                at, number = due[0]
                frames += link.frame(callers[number].speak(at))
                heapq.heapreplace(due, (at + callers[number].packet / RATE_HZ, number))
                figures.packets += 1
            began = time.thread_time()
            commands = reader.feed(frames) if frames else []
            if commands or host._has_work():
                host.turn(commands)
                took_s = time.thread_time() - began
                figures.now, figures.busy_s = figures.now + took_s, figures.busy_s + took_s
            else:
                figures.now = due[0][0]
            self._look(box, callers, figures)
        return figures.as_row() | {"precision": engine.info.precision}

    def _callers(self, streams: int, rng: random.Random) -> list[Caller]:
        pcm = material(SAMPLES, "speech", 60.0).staying[0].pcm
        packets_ms = Traffic().packets_ms
        return [
            Caller(
                session=number,
                packet=packets_ms[number % len(packets_ms)] * RATE_HZ // 1000,
                pcm=pcm,
                at=2 * rng.randrange(len(pcm) // 4),
            )
            for number in range(streams)
        ]

    def _look(self, box: Box, callers: list[Caller], figures: Figures) -> None:
        steps = [r for r in box.reports if isinstance(r, link.Step) and r.batch]
        figures.steps += len(steps)
        figures.rows += sum(step.batch for step in steps)
        for session, done in box.progress():
            lag_s = callers[session].lag_s(done, figures.now)
            if figures.now > WARM_SHARE * self.seconds:
                figures.lags.append(lag_s)

    def search(self, start: int) -> dict[str, Any]:
        """Find the most streams that are decoded in time."""
        search, rows = Search(most=1024, start=start, confirm=1), list[dict[str, Any]]()
        while (streams := search.next_streams()) is not None:
            rows.append(self.run(streams))
            print(json.dumps(rows[-1]), flush=True)
            is_held = (rows[-1]["lag_p99_ms"] or 0.0) <= self.limit_ms
            search.tell(streams, Verdict.HELD if is_held else Verdict.BROKEN)
        held = [row for row in rows if row["streams"] == search.best]
        return {
            "model": Path(self.model).stem,
            "look_ahead": self.look_ahead,
            "chunk_ms": (self.look_ahead + 1) * FRAME_MS,
            **(max(held, key=lambda row: row["lag_p99_ms"]) if held else {"streams": 0}),
        }


def main() -> int:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.worker", description=__doc__)
    parser.add_argument("--model", action="append", help="checkpoint; may be given again")
    parser.add_argument("--look-ahead", type=int, action="append", metavar="N")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a run")
    parser.add_argument("--start", type=int, default=32, help="streams to begin with")
    parser.add_argument("--streams", type=int, help="one run instead of a search; writes nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = list[dict[str, Any]]()
    for model in args.model or ["rivulet-en"]:
        for look_ahead in args.look_ahead or [6, 1]:
            bench = Bench(model, look_ahead, args.precision, args.seconds)
            rows.append(bench.run(args.streams) if args.streams else bench.search(args.start))
            print(json.dumps(rows[-1]), flush=True)
    result = {"machine": machine(), "seconds": args.seconds, "rows": rows}
    if not args.streams:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
