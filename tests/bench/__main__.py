"""``make bench``: one run over everything that is compared; the last line is one JSON object.

Does: capacity of our engine and of rivals (115M shape), N* through sockets of our server and of
sherpa-onnx's; results/bench.json and lag.svg, and capacity.json as soon as it is known.
Does not know: how steps and streams are measured (capacity, streams).
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from clients.console import table
from clients.errors import CommandError
from clients.load.host import machine
from clients.load.lab import system_of
from clients.load.picture import draw
from tests.bench import capacity, sherpa, streams
from tests.bench.sustained import Effort, flat_report, measure

RESULTS = Path(__file__).parent / "results"
EMBEDDED_MS = (80, 160, 560, 1120)
LARGE_MS = (160, 560)
SHERPA_PORT = 8798


def main() -> int:
    """Measure, write, print."""
    args = _arguments()
    began = time.monotonic()
    large = str(capacity.random_model("hybrid"))
    quick = bool(args.quick)
    plan = capacity.Plan(
        model=large,
        batches=(1, 4, 8, 16) if quick else capacity.BATCHES,
        rounds=3 if quick else args.rounds,
        look_aheads=(6,) if quick else (6, 1),
        rivals=("nemo",) if quick else capacity.RIVALS,
    )
    compared = capacity.compare(plan)
    if not quick:  # at once: what follows takes long and may fail
        capacity.write(compared)
    print(capacity.table_of(compared["periods"]), flush=True)
    rows, reports = _sustained(large, _effort(args.seconds, quick=quick), quick=quick)
    result = {
        "machine": machine(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "minutes": round((time.monotonic() - began) / 60, 1),
        "definition": streams.DEFINITION,
        "seconds": args.seconds,
        "workers": 1,
        "capacity": compared,
        "rows": rows,
    }
    if not quick:
        (RESULTS / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "lag.svg").write_text(draw([system_of(*r) for r in reports[:5]], limit_ms=200))
    print(table(streams.HEADER, [streams.cells(row) for row in rows], width=120, flexible=0))
    print(json.dumps(summary(result)))
    return 0


def _sustained(
    large: str, effort: Effort, *, quick: bool
) -> tuple[list[dict[str, Any]], list[tuple[str, dict[str, Any]]]]:
    """Find N* of every server: the embedded model, the large shape, sherpa-onnx."""
    rows, reports = [], []
    plan = [
        ("", "auto", EMBEDDED_MS),
        ("", "fp32", (560,)),
        (large, capacity.fastest(), LARGE_MS),
    ]
    for model, precision, chunks in [("", "auto", (560,))] if quick else plan:
        options = ["--precision", precision, *(["--model", model] if model else [])]
        each = replace(effort, wer_rise=None if precision == "fp32" else streams.WER_RISE)
        for report in streams.of_server(options, list(chunks), each, 1):
            rows.append(streams.as_row(report, "own", _precision(report)))
            reports.append((streams.name_of(rows[-1]), report))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if not quick:
        with sherpa.server(Path(large), 6, SHERPA_PORT) as url:
            each = replace(effort, wer_rise=streams.WER_RISE)
            report = measure(url, 560, each, wire="sherpa-onnx")
        row = {"model": "hybrid-114m", "backend": "sherpa-onnx", "precision": "int8"}
        rows.append(row | flat_report(report))
        reports.append((streams.name_of(rows[-1]), report))
    return rows, reports


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return the last line."""
    compared = result["capacity"]
    line = {"machine": result["machine"], "load": result["load"], "minutes": result["minutes"]}
    figures = capacity.summary(compared, is_known_shape=True)
    line |= {
        key: value
        for key, value in figures.items()
        if key.startswith(("ratio", "gemm", "step", "capacity"))
    }
    for period in ("160", "560"):
        if f"ratio_sherpa_int8_{period}" in line:  # its best
            int8, fp32 = line[f"ratio_sherpa_int8_{period}"], line[f"ratio_sherpa_{period}"]
            line[f"ratio_sherpa_{period}"] = (
                min(x for x in (int8, fp32) if x) if int8 or fp32 else None
            )
    found = {  # of several precisions the first counts
        (row["model"], row["backend"], row["chunk_ms"]): row for row in reversed(result["rows"])
    }
    for (model, backend, chunk_ms), row in found.items():
        name = "streams_embedded" if model == "rivulet-en" else "streams"
        line[f"{name}{'_sherpa' if backend != 'own' else ''}_{chunk_ms}"] = row["streams"]
    ours, theirs = line.get("streams_560"), line.get("streams_sherpa_560")
    if ours is not None and theirs:
        line["ratio_sherpa_server_560"] = round(ours / theirs, 2)
    wide = [row for row in result["rows"] if row["backend"] == "own" and row["chunk_ms"] == 560]
    at = wide[-1]["eased"] or wide[-1]["at"]
    return line | {
        "p99_chunk_lag_ms": at["lag_p99_ms"],
        "drift_ms_per_min": at["drift_ms_per_min"],
    }


def _precision(report: dict[str, Any]) -> str:
    return str((report["models"] or [{}])[0].get("precision", "auto"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one period, one rival, short runs")
    parser.add_argument("--rounds", type=int, default=4, help="of each engine and batch")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each run through sockets")
    return parser.parse_args()


def _effort(seconds: float, *, quick: bool) -> Effort:
    return Effort(
        seconds=8.0 if quick else seconds,
        ramp_s=2.0,
        warm_s=2.0 if quick else 4.0,
        start=48,
        most=256,
        confirm=0 if quick else 1,
        quiet_at_once=5,
        late_ms=8.0,
    )


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except CommandError as failed:
        raise SystemExit(f"bench: {failed}") from failed
