"""``rivulet plan``: how many devices a service needs, what it costs, how it takes a bad hour.

Does: arguments, a file of ``tests.bench.capacity``, the answer, the picture.
Does not know: arithmetic and simulation (clients.plan).
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clients.errors import CommandError
from clients.plan.sizing import SHAPES, Demand, Device, Plan, PlanError, plan
from clients.reading import read_json

EXAMPLES = """\
A step over B streams takes a + b*B on a device; `python -m tests.bench.capacity` measures a and b.
The picture is of a simulation: 100,000 sessions on 1,000 workers, half a minute of one core.
examples:
  rivulet plan --sessions 500 --chunk-ms 560 --a-ms 20 --b-ms 3.5 --price 0.09
  rivulet plan --sessions 5000 --chunk-ms 560 --measured capacity.json --engine bf16 --shape office
  rivulet plan --sessions 100000 --chunk-ms 560 --a-ms 20 --b-ms 3.5 --picture plan.svg"""
SIMULATED_SESSIONS = 100_000
SIMULATED_WORKERS = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--sessions", type=int, required=True, metavar="S", help="at the peak")
    parser.add_argument("--chunk-ms", type=float, default=560.0, metavar="MS", help="of the class")
    parser.add_argument("--a-ms", type=float, metavar="MS", help="of a step, whatever its batch")
    parser.add_argument("--b-ms", type=float, metavar="MS", help="of each stream in a step")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="a and b from capacity.json")
    parser.add_argument("--engine", default="bf16", help="whose, in that file (default: bf16)")
    parser.add_argument("--price", type=float, default=0.0, metavar="P", help="a device's hour")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="flat", help="of a day")
    parser.add_argument(
        "--burst", type=float, default=0.0, metavar="SHARE", help="more on the hour: 0.2 is a fifth"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path, metavar="SVG", help="simulate and draw")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Answer."""
    try:
        device = _device(args)
        demand = Demand(
            sessions=args.sessions,
            chunk_s=args.chunk_ms / 1000,
            shape=args.shape,
            burst=args.burst,
        )
        found = plan(device, demand)
    except PlanError as error:
        raise CommandError(str(error)) from error
    result: dict[str, Any] = asdict(found)
    if args.picture:
        result["simulated"] = _simulate(device, demand, args.seed, args.picture)
    sys.stdout.write(json.dumps(result) + "\n" if args.json else _text(found, args.picture, result))
    return 0


def _device(args: argparse.Namespace) -> Device:
    a_ms, b_ms = args.a_ms, args.b_ms
    if args.measured is not None:
        a_ms, b_ms = read_measured(args.measured, args.chunk_ms, args.engine)
    if a_ms is None or b_ms is None:
        raise CommandError("give --a-ms and --b-ms, or --measured")
    return Device(a_s=a_ms / 1000, b_s=b_ms / 1000, price=args.price)


def read_measured(path: Path, chunk_ms: float, engine: str) -> tuple[float, float]:
    """Return a and b in ms of an engine at a chunk; raises CommandError."""
    try:
        periods = read_json(path, "what `python -m tests.bench.capacity` wrote")["periods"]
        row = periods[f"{chunk_ms:.0f}"]["engines"][engine]
        return float(row["a_ms"]), float(row["b_ms"])
    except (KeyError, TypeError, ValueError) as error:
        text = f"{path} has no a_ms and b_ms of {engine} at {chunk_ms:.0f} ms"
        raise CommandError(text) from error


def _simulate(device: Device, demand: Demand, seed: int, picture: Path) -> dict[str, float]:
    from clients.plan.drawing import draw  # numpy takes its time
    from clients.plan.simulation import Scenario, Simulation
    from clients.plan.sizing import devices_for, streams_of

    peak = SIMULATED_SESSIONS * (1 + demand.burst)
    least = devices_for(peak, streams_of(device, demand.chunk_s))
    scenario = Scenario(
        device=device,
        chunk_s=demand.chunk_s,
        sessions=SIMULATED_SESSIONS,
        workers=max(SIMULATED_WORKERS, least + least // 20),
        burst=demand.burst,
        seed=seed,
    )
    course = Simulation(scenario).run()
    picture.write_text(draw(course, scenario))
    return {"sessions": scenario.sessions, "workers": scenario.workers} | course.summary()


def _text(found: Plan, picture: Path | None, result: dict[str, Any]) -> str:
    lines = [
        f"{found.devices} devices of {found.streams_per_device} streams, one of them to spare",
        f"load at the peak {found.load:.2f}, and it must stay below {found.most_load:.2f}: "
        "(W-1)/W, or the death of one is never recovered from",
        f"after a death all are live again in {found.recovery_s:.1f} s; "
        f"a chunk waits {found.lag_s * 1000:.0f} ms at the peak",
    ]
    if found.cost_per_hour:
        lines.append(
            f"{found.cost_per_hour:.2f} an hour, {found.cost_per_audio_hour:.4f} an audio hour"
        )
    if picture:
        seen = ", ".join(f"{name} {value:g}" for name, value in result["simulated"].items())
        lines.append(f"simulated: {seen}; {picture}")
    return "\n".join(lines) + "\n"
