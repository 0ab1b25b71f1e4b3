"""Whether hours cost what minutes cost: ``make soak`` runs it behind the slow tests.

Does: ten hours of speech to each of a few streams of one recogniser, as fast as it goes: time of a
step and memory by the hour; then half an hour of live streams at 0.8 N*, through sockets: how the
lag drifts; results/endurance.json.
Does not know: how N* is found; it is bench.json's where that is of the same machine.

    python -m tests.bench.endurance [--hours 10] [--minutes 30] [--streams 115]
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.engine import EngineConfig, load_engine
from asr.live import Recognizer
from asr.options import ChannelOptions
from clients.demo import SAMPLES, url_of
from clients.load.caller import Target
from clients.load.host import machine
from clients.load.judge import Limits
from clients.load.lab import Laboratory, eased
from clients.load.material import material
from clients.load.plan import RATE_HZ, Traffic
from clients.load.view import View
from clients.serving import ServerProcess
from tests.bench.streams import of_server
from tests.bench.sustained import Effort, flat, free_port

RESULTS = Path(__file__).parent / "results"
CHUNK_MS = 560
LOOK_AHEAD = 6
STREAMS = 4
"""Of the virtual hours: a step has rows to share weights, and an hour takes half a minute."""
PIECE_S = 0.56
MINUTE_S = 60.0
WARM_S = 20.0
LATE_MS = 8.0


def virtual(hours: float) -> dict[str, Any]:
    """Return medians of a step's processor time, and memory, at each tenth of the way."""
    torch.set_num_threads(1)
    engine = load_engine("rivulet-en", EngineConfig(slots=STREAMS + 1))
    engine.warm(LOOK_AHEAD)
    recognizer = Recognizer(engine)
    options = ChannelOptions(look_ahead=LOOK_AHEAD)
    channels = [recognizer.open(options) for _ in range(STREAMS)]
    pcm = material(SAMPLES, "speech", 10 * MINUTE_S).staying[0].pcm
    speech = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)
    piece, parts = round(PIECE_S * RATE_HZ), list[dict[str, Any]]()
    per_part = round(hours * 3600 / PIECE_S / 10)
    for part in range(10):
        times = list[float]()
        for number in range(part * per_part, (part + 1) * per_part):
            for channel in channels:
                begin = number * piece + channel * 7 * RATE_HZ
                where = np.arange(begin, begin + piece) % len(speech)
                recognizer.feed(channel, speech[where])
            while recognizer.is_ready():
                began = time.process_time()
                recognizer.step()
                times.append(time.process_time() - began)
        parts.append(
            {
                "until_h": round(hours * (part + 1) / 10, 2),
                "step_p50_ms": round(1000 * statistics.median(times), 3),
                "memory_mb": round(_resident_mb(), 1),
            }
        )
        _say(f"virtual: {parts[-1]}")
    first, last = parts[0], parts[-1]
    return {
        "hours": hours,
        "streams": STREAMS,
        "precision": engine.info.precision,
        "parts": parts,
        "step_last_to_first": round(last["step_p50_ms"] / first["step_p50_ms"], 3),
        "memory_grown_mb": round(last["memory_mb"] - first["memory_mb"], 1),
    }


def live(streams: int, minutes: float) -> dict[str, Any]:
    """Return the figures of a run at the pace of speech, and its lag minute by minute."""
    slots = ["--slots", str(streams + streams // 4 + 4), "--admission", "slots"]
    traffic = Traffic(
        seconds=minutes * MINUTE_S, ramp_s=5.0, warm_s=WARM_S, latencies=(str(CHUNK_MS),)
    )
    with ServerProcess(free_port(), ["--workers", "1", *slots, "--rest-after", "0"]) as server:
        server.wait_ready()
        laboratory = Laboratory(
            target=Target(url=url_of(server.port), wire="rivulet"),
            traffic=traffic,
            material=material(SAMPLES, "speech", traffic.total_s),
            limits=Limits(late_ms=LATE_MS),
            view=View(sys.stderr, sys.stderr.isatty()),
        )
        point = laboratory.run(streams)
    by_minute: dict[int, list[float]] = {}
    for second, p50, _ in point.timeline:
        by_minute.setdefault(int(second // MINUTE_S), []).append(p50)
    medians = [round(statistics.median(values), 1) for _, values in sorted(by_minute.items())]
    return {"minutes": minutes, "figures": flat(point), "lag_p50_ms_by_minute": medians}


def known_streams() -> int:
    """Return 0.8 N* of the embedded model: as ``make bench`` found it here, else as found now."""
    path, found = RESULTS / "bench.json", dict[str, Any]()
    if path.exists():
        found = json.loads(path.read_text())
    for row in found["rows"] if found.get("machine") == machine() else ():
        if row["model"] == "rivulet-en" and row["chunk_ms"] == CHUNK_MS:
            return eased(row["streams"])
    effort = Effort(
        seconds=12.0,
        ramp_s=2.0,
        warm_s=4.0,
        start=48,
        most=384,
        confirm=1,
        quiet_at_once=5,
        late_ms=LATE_MS,
    )
    (report,) = of_server(["--precision", "auto"], [CHUNK_MS], effort, 1)
    return eased(report["streams"])


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, write; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.endurance", description=__doc__)
    parser.add_argument("--hours", type=float, default=10.0, help="of speech, as fast as it goes")
    parser.add_argument("--minutes", type=float, default=30.0, help="at the pace of speech")
    parser.add_argument("--streams", type=int, help="live ones; default: 0.8 N*")
    args = parser.parse_args()
    streams = args.streams or known_streams()
    result: dict[str, Any] = {"machine": machine(), "model": "rivulet-en", "chunk_ms": CHUNK_MS}
    result["load"] = [round(value, 2) for value in os.getloadavg()]
    result["virtual"] = virtual(args.hours)
    result["live"] = live(streams, args.minutes)
    (RESULTS / "endurance.json").write_text(json.dumps(result, indent=1) + "\n")
    figures = result["live"]["figures"]
    line = {
        key: figures[key] for key in ("streams", "drift_ms_per_min", "lag_p50_ms", "lag_p99_ms")
    }
    line |= {key: result["virtual"][key] for key in ("step_last_to_first", "memory_grown_mb")}
    print(json.dumps({"machine": result["machine"]} | line))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
