"""How many live streams a server holds at the pace of speech, and what delay they feel.

Does: the load laboratory before a server: quiet run, N*, 0.8 N*, 1.2 N*; one row of the table.
Does not know: how load is made (clients/load), how the server was started.
"""

import socket
import sys
from dataclasses import dataclass, replace
from typing import Any

from clients.demo import SAMPLES
from clients.load.caller import Target
from clients.load.judge import Limits, Point
from clients.load.lab import Laboratory, beyond, eased
from clients.load.material import material
from clients.load.plan import Traffic
from clients.load.search import Search, Verdict
from clients.load.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and how far."""

    seconds: float
    ramp_s: float
    warm_s: float
    start: int
    most: int
    confirm: int
    quiet_at_once: int
    late_ms: float
    wer_rise: float | None = None
    """None: no transcript may change under load; a number: so much WER may (absolute)."""
    steady_s: float = 0.0
    """Length of a further run at 0.8 N*: drift is not to be seen in seconds; 0: none."""

    def traffic(self, chunk_ms: int) -> Traffic:
        """Return the traffic of one latency."""
        return Traffic(
            seconds=self.seconds,
            ramp_s=self.ramp_s,
            warm_s=self.warm_s,
            latencies=(str(chunk_ms),),
        )


def measure(url: str, chunk_ms: int, effort: Effort, wire: str = "rivulet") -> dict[str, Any]:
    """Find N* of a server at one latency; return the laboratory's report."""
    traffic = effort.traffic(chunk_ms)
    lab = Laboratory(
        target=Target(url=url, wire=wire),
        traffic=traffic,
        material=material(SAMPLES, "speech", traffic.total_s),
        limits=Limits(late_ms=effort.late_ms, wer_rise=effort.wer_rise),
        view=View(sys.stderr, sys.stderr.isatty()),
        quiet_at_once=effort.quiet_at_once,
    )
    lab.listen()
    search = lab.search(Search(most=effort.most, start=effort.start, confirm=effort.confirm))
    rows = {"at": _best(lab.points, search.best)}
    if search.best:
        rows["eased"] = lab.run(eased(search.best))
        rows["beyond"] = lab.run(beyond(search.best))
        if effort.steady_s:
            rows["steady"] = _steady(lab, effort, chunk_ms, eased(search.best))
    figures = {name: flat(point) for name, point in rows.items() if point is not None}
    return lab.report(search) | {"chunk_ms": chunk_ms, "figures": figures}


def _steady(lab: Laboratory, effort: Effort, chunk_ms: int, streams: int) -> Point:
    """Run longer, with no quiet run before it: transcripts were compared already."""
    traffic = replace(effort, seconds=effort.steady_s).traffic(chunk_ms)
    longer = Laboratory(
        target=lab.target,
        traffic=traffic,
        material=material(SAMPLES, "speech", traffic.total_s),
        limits=lab.limits,
        view=lab.view,
    )
    return longer.run(streams)


def free_port() -> int:
    """Return a port of 127.0.0.1 where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flat_report(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a results file keeps of a search."""
    figures = report["figures"]
    return {
        "chunk_ms": report["chunk_ms"],
        "look_ahead": report["chunk_ms"] // 80 - 1,
        "streams": report["streams"],
        "is_client_limited": report["is_client_limited"],
        "at": figures["at"],
        "eased": figures.get("eased"),
        "beyond": figures.get("beyond"),
        "steady": figures.get("steady"),
    }


def _best(points: list[Point], best: int) -> Point | None:
    """Return the last run at N*, or the smallest run when nothing was held."""
    held = [point for point in points if point.streams == best]
    return held[-1] if held else min(points, key=lambda point: point.streams, default=None)


def flat(point: Point) -> dict[str, object]:
    """Return the figures of a run with one latency class."""
    (figures,) = point.classes.values()
    lag, finalize = figures.chunk_lag, figures.finalize
    return {
        "streams": point.streams,
        **{f"lag_{p}_ms": getattr(lag, p, None) for p in ("p50", "p90", "p95", "p99", "max")},
        **{f"finalize_{p}_ms": getattr(finalize, p, None) for p in ("p50", "p99", "max")},
        "partial_p50_ms": getattr(figures.partial_lag, "p50", None),
        "drift_ms_per_min": figures.drift_ms_per_min,
        "client_late_p99_ms": getattr(point.client_late, "p99", None),
        "changed": point.changed,
        "compared": point.compared,
        "wer": point.wer,
        "wer_quiet": point.wer_quiet,
        "cpu_ms_per_audio_s": point.cost.cpu_ms_per_audio_s,
        "memory_per_stream_mb": point.cost.memory_per_stream_mb,
        "errors": sum(point.failures.values()),
        "is_held": point.verdict is Verdict.HELD,
        "breaks": list(point.breaks),
    }
