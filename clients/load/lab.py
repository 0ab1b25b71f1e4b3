"""The load laboratory: a quiet run, the search for N*, a run beyond it; one report.

Does: plan, play, judge each run; watch what the server costs meanwhile.
Does not know: arguments, files.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from clients.errors import CommandError
from clients.load.caller import Target
from clients.load.host import Cost, Host, Usage, machine
from clients.load.judge import Judge, Limits, Point, Texts
from clients.load.material import Material
from clients.load.picture import Curve, System
from clients.load.plan import Seat, Traffic, plan, quiet_plan, spoken_s
from clients.load.run import Run, play
from clients.load.search import Search, Verdict
from clients.load.share import Tick
from clients.load.tally import Tally
from clients.load.view import View

BEYOND = 1.2
"""Times N*: what a server does there tells whether it degrades or drifts."""
EASED = 0.8
"""Times N*: what people feel on a server that is well used and not full."""


@dataclass(slots=True)
class Laboratory:
    """One server under one kind of traffic."""

    target: Target
    traffic: Traffic
    material: Material
    limits: Limits
    view: View
    quiet_at_once: int = 1
    """Streams of the quiet run."""
    quiet: Point | None = None
    points: list[Point] = field(default_factory=list)
    _texts: dict[tuple[int, str], str] = field(default_factory=dict)
    _models: list[dict[str, object]] = field(default_factory=list)
    _host: Host = field(init=False)
    _idle: Usage | None = field(init=False)

    def __post_init__(self) -> None:
        self._host = Host(self.target.url)
        self._idle = self._host.usage()

    def listen(self) -> Point:
        """Play every voice in quiet: the transcripts that load must not change.

        Raises CommandError when not one of them comes back.
        """
        seats = quiet_plan(self.traffic, self.material.lengths, at_once=self.quiet_at_once)
        total_s = max(seat[-1].end_s for seat in seats)
        self.view.begin(f"quiet, {len(seats)} at once", total_s)
        tally, cost = self._play(seats, (0.0, total_s))
        point = self._judge((0.0, total_s), {}).point(len(seats), tally, cost)
        self._texts = {
            (call.voice, call.latency): call.text for call in tally.calls if not call.failure
        }
        self.quiet, self._models = point, self._host.models()
        self.view.note(f"quiet: WER {point.wer if point.wer is not None else '-'}")
        self.view.end(point)
        if not self._texts:
            reasons = "; ".join(point.failures)
            raise CommandError(f"{self.target.url} fails every stream even in quiet: {reasons}")
        return point

    def run(self, streams: int) -> Point:
        """Measure one number of streams."""
        seats = plan(self.traffic, streams, self.material.lengths)
        self.view.begin(f"{streams} streams", self.traffic.total_s)
        tally, cost = self._play(seats, self.traffic.window_s)
        point = self._judge(self.traffic.window_s, self._texts).point(streams, tally, cost)
        self.points.append(point)
        self.view.end(point)
        return point

    def search(self, search: Search) -> Search:
        """Find N*."""
        while (streams := search.next_streams()) is not None:
            search.tell(streams, self.run(streams).verdict)
        return search

    def report(self, search: Search | None = None) -> dict[str, Any]:
        """Return everything that was measured."""
        return {
            "url": self.target.url,
            "wire": self.target.wire,
            "machine": machine(),
            "models": self._models,
            "traffic": asdict(self.traffic),
            "limits": asdict(self.limits),
            "streams": search.best if search else None,
            "is_client_limited": search.is_client_limited if search else False,
            "quiet": self.quiet.as_json() if self.quiet else None,
            "points": [point.as_json() for point in self.points],
        }

    def _judge(self, window_s: tuple[float, float], texts: Texts) -> Judge:
        references = [voice.text for voice in self.material.voices]
        return Judge(limits=self.limits, window_s=window_s, references=references, quiet=texts)

    def _play(self, seats: tuple[Seat, ...], window_s: tuple[float, float]) -> tuple[Tally, Cost]:
        watch = _Watch(self._host, window_s, self.view.tick)
        voices = tuple(voice.pcm for voice in self.material.voices)
        tally = play(Run(self.target, seats, voices), watch)
        return tally, watch.cost(spoken_s(seats, window_s), len(seats), self._idle)


@dataclass(slots=True)
class _Watch:
    """Reads the server's meters when the window opens and closes."""

    host: Host
    window_s: tuple[float, float]
    then: Callable[[float, Tick], None]
    _begin: tuple[float, Usage | None, tuple[float, float] | None] | None = None
    _end: tuple[float, Usage | None, tuple[float, float] | None] | None = None

    def __call__(self, at_s: float, tick: Tick) -> None:
        if self._begin is None and at_s >= self.window_s[0]:
            self._begin = self._read()
        if self._end is None and at_s >= self.window_s[1] - 0.6:
            self._end = self._read()
        self.then(at_s, tick)

    def _read(self) -> tuple[float, Usage | None, tuple[float, float] | None]:
        return time.monotonic(), self.host.usage(), self.host.audio_and_steps_s()

    def cost(self, audio_s: float, streams: int, idle: Usage | None) -> Cost:
        """Return what lay between both readings."""
        if self._begin is None or self._end is None or self._end[0] <= self._begin[0]:
            return Cost()
        seconds = self._end[0] - self._begin[0]
        spoken = audio_s * seconds / (self.window_s[1] - self.window_s[0])
        before, after = self._begin[1], self._end[1]
        cpu_s = after.cpu_s - before.cpu_s if before and after else None
        memory = after.memory_bytes if after else None
        grown = (memory - idle.memory_bytes) / streams if memory and idle else None
        return Cost(
            cpu_ms_per_audio_s=_ms(cpu_s, spoken),
            step_ms_per_audio_s=self._steps(),
            memory_mb=round(memory / 1e6, 1) if memory else None,
            memory_per_stream_mb=round(grown / 1e6, 3) if grown is not None else None,
            cores_used=round(cpu_s / seconds, 2) if cpu_s is not None else None,
        )

    def _steps(self) -> float | None:
        begin, end = (self._begin or (0, 0, None))[2], (self._end or (0, 0, None))[2]
        return _ms(end[1] - begin[1], end[0] - begin[0]) if begin and end else None


def _ms(seconds: float | None, audio_s: float) -> float | None:
    return round(1000 * seconds / audio_s, 2) if seconds is not None and audio_s > 0 else None


def beyond(most: int) -> int:
    """Return the streams of the run that shows what happens past N*."""
    return max(most + 1, math.ceil(BEYOND * most))


def eased(most: int) -> int:
    """Return the streams of the run that shows a server with some room left."""
    return max(1, math.floor(EASED * most))


def short(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report in one line: N*, how it feels there, below and beyond, what it costs."""
    points = report["points"]
    best = report["streams"]
    at = [p for p in points if p["streams"] == best] if best else points[-1:]
    calm = [p for p in points if best and p["streams"] == eased(best)]
    past = [p for p in points if best and p["streams"] >= beyond(best)]
    keys = ("wire", "machine", "streams", "is_client_limited")
    return {
        **{key: report[key] for key in keys},
        "runs": len(points),
        "at": _brief(at[-1]) if at else None,
        "eased": _brief(calm[-1]) if calm else None,
        "beyond": _brief(past[-1]) if past else None,
    }


def _brief(point: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in point.items() if key != "timeline"}


def system_of(name: str, report: dict[str, Any]) -> System:
    """Return a report as curves: the worst class at each number of streams, void runs left out."""
    points = [p for p in report["points"] if p["verdict"] != Verdict.VOID.value]
    curves = {"p50": dict[float, float](), "p99": dict[float, float]()}
    for point in points:
        for figures in point["classes"].values():
            for key, curve in curves.items():
                lag = (figures["chunk_lag"] or {}).get(key, 0.0)
                curve[point["streams"]] = max(curve.get(point["streams"], 0.0), lag)
    shown = _at_the_edge(points, report["streams"] or 0)
    rows = shown["timeline"] if shown else ()
    return System(
        name=name,
        by_streams=tuple(
            Curve(tuple(sorted(curve.items())), key == "p99") for key, curve in curves.items()
        ),
        by_time=tuple(
            Curve(tuple((row[0], row[column]) for row in rows), column == 2) for column in (1, 2)
        ),
        most_streams=report["streams"] or 0,
        streams_in_time=shown["streams"] if shown else 0,
    )


def _at_the_edge(points: list[dict[str, Any]], most: int) -> dict[str, Any] | None:
    """Return the run just past N*, which shows whether lag drifts; else the one nearest to it."""
    by_streams = sorted(points, key=lambda p: p["streams"])
    past = [p for p in by_streams if most and p["streams"] >= beyond(most)]
    return past[0] if past else by_streams[-1] if by_streams else None
