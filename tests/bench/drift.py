"""What happens to the lag when there are more streams than a system can carry, seen.

Does: a few streams through sockets, one run each, of NeMo's buffered pipeline (overlapping windows,
encoded again for each chunk), NeMo's cache-aware pipeline and ours, on the same weights and one
core, all in fp32; results/drift.json and results/drift.svg.
Does not know: how load is made (clients/load), N* (``make bench`` finds it).

    python -m tests.bench.drift
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from clients.demo import SAMPLES, url_of
from clients.errors import CommandError
from clients.load.caller import Target
from clients.load.host import machine
from clients.load.judge import Limits
from clients.load.lab import Laboratory, system_of
from clients.load.material import material
from clients.load.picture import System, draw
from clients.load.plan import Traffic
from clients.load.view import View
from clients.serving import ServerProcess
from tests.bench import buffered_server
from tests.bench.capacity import random_model
from tests.bench.subjects import Spec
from tests.bench.sustained import flat, free_port

RESULTS = Path(__file__).parent / "results"
LOOK_AHEAD, CHUNK_MS = 6, 560
# Nobody hangs up: a new caller on a seat would begin without the backlog of the one before.
TRAFFIC = Traffic(seconds=20.0, ramp_s=2.0, warm_s=4.0, latencies=(str(CHUNK_MS),), churn=0.0)
FEW = (1, 2, 4)
MORE = (*FEW, 8, 16, 32)
LATE_MS = 8.0
LIMIT_MS = 200.0
SLOTS = 64
MOST_A_STEP = 32
NAMES = {
    "buffered": "NeMo 3.0.0, buffered windows",
    "cache_aware": "NeMo 3.0.0, cache-aware",
    "ours": "rivulet",
}


def measured(
    server: AbstractContextManager[str], numbers: Sequence[int], wire: str = "rivulet"
) -> dict[str, Any]:
    """Return the laboratory's report of a run at each number of streams.

    A run ends although its lag grows on: callers give up soon after their last packet.
    """
    with server as url:
        laboratory = Laboratory(
            target=Target(url=url, wire=wire),
            traffic=TRAFFIC,
            material=material(SAMPLES, "speech", TRAFFIC.total_s),
            limits=Limits(lag_ms=LIMIT_MS, late_ms=LATE_MS),
            view=View(sys.stderr, sys.stderr.isatty()),
        )
        rows = [flat(laboratory.run(streams)) for streams in numbers]
        return laboratory.report() | {"figures": rows}


@contextlib.contextmanager
def ours(model: str, *options: str) -> Iterator[str]:
    """Run our server for whoever comes; yields its URL."""
    slots = ["--workers", "1", "--slots", str(SLOTS), "--admission", "slots", "--rest-after", "0"]
    with ServerProcess(free_port(), ["--model", model, *slots, *options]) as server:
        server.wait_ready()
        yield url_of(server.port)


def main() -> int:
    """Measure, write, draw; the last line is one JSON object."""
    argparse.ArgumentParser(prog="python -m tests.bench.drift", description=__doc__).parse_args()
    model, began = str(random_model("hybrid")), time.monotonic()
    load = [round(value, 2) for value in os.getloadavg()]
    windows = Spec(
        kind="nemo", model=model, look_ahead=LOOK_AHEAD, batches=(MOST_A_STEP,), mode="buffered"
    )
    reports = {
        "buffered": measured(buffered_server.server(windows), FEW, "nemo-speech"),
        "cache_aware": measured(ours(model, "--backend", "nemo"), FEW),
        "ours": measured(ours(model, "--precision", "fp32"), MORE),
    }
    result = {
        "machine": machine(),
        "load": load,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "model": Path(model).stem,
        "chunk_ms": CHUNK_MS,
        "seconds": TRAFFIC.seconds,
        "systems": {
            key: {"name": NAMES[key], "runs": report["figures"]} for key, report in reports.items()
        },
    }
    (RESULTS / "drift.json").write_text(json.dumps(result, indent=1) + "\n")
    curves = [drawn(NAMES[key], report) for key, report in reports.items()]
    (RESULTS / "drift.svg").write_text(draw(curves, limit_ms=LIMIT_MS))
    print(json.dumps(summary(result)))
    return 0


def drawn(name: str, report: dict[str, Any]) -> System:
    """Return a report as curves; lag over time is that of the most streams that all systems had."""
    shared = [point for point in report["points"] if point["streams"] in FEW]
    in_time = system_of(name, report | {"points": shared})
    return replace(in_time, by_streams=system_of(name, report).by_streams)


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return the last line: lag and drift of each system by the number of streams."""
    line = {key: result[key] for key in ("machine", "load", "minutes")}
    for key, system in result["systems"].items():
        line[key] = {
            str(run["streams"]): {name: run[name] for name in ("lag_p99_ms", "drift_ms_per_min")}
            for run in system["runs"]
        }
    return line


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except CommandError as failed:
        raise SystemExit(f"drift: {failed}") from failed
