"""Streams sustained at the pace of speech, by model, look-ahead and precision.

Does: start a server per model, backend and precision, find N* with the load laboratory, write
results/sustained.json and results/lag.svg.
Does not know: how streams are measured.

    python -m tests.bench.streams --precision bf16 --chunk-ms 560 [--model M] [--backend nemo]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from clients.console import table
from clients.demo import url_of
from clients.errors import CommandError
from clients.load.host import machine
from clients.load.lab import system_of
from clients.load.picture import draw
from clients.serving import ServerProcess
from tests.bench.sustained import Effort, flat_report, free_port, measure

RESULTS = Path(__file__).parent / "results"
DEFINITION = (
    "N*: the most streams with p99 chunk lag <= min(chunk, 200 ms), p99 finalize delay <= 300 ms, "
    "lag grows by at most 10 ms a minute and no transcript changes under load "
    "(others' servers are judged by delay alone)"
)
HEADER = ("model", "chunk", "precision", "streams", "lag p50", "p95", "p99", "finalize", "cpu/s")


def main() -> int:
    """Measure and print; the last line is one JSON object."""
    args = _arguments()
    effort = _effort(args)
    chunks = args.chunk_ms or ([560] if args.quick else [80, 160, 560, 1120])
    precisions = args.precision or (["auto"] if args.quick else ["fp32", "bf16"])
    rows: list[dict[str, Any]] = []
    reports: list[tuple[str, dict[str, Any]]] = []
    for model in args.model or [""]:
        for backend in args.backend or ["own"]:
            for precision in precisions:
                options = ["--precision", precision, "--backend", backend]
                options += ["--model", model] if model else []
                for report in of_server(options, chunks, effort, args.workers):
                    rows.append(as_row(report, backend, precision))
                    reports.append((name_of(rows[-1]), report))
                    print(json.dumps(rows[-1]), flush=True)
    result = {
        "machine": machine(),
        "workers": args.workers,
        "seconds": effort.seconds,
        "definition": DEFINITION,
        "rows": rows,
    }
    if not args.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "sustained.json").write_text(json.dumps(result, indent=1) + "\n")
        picture = draw([system_of(name, report) for name, report in reports[:5]], limit_ms=200)
        (RESULTS / "lag.svg").write_text(picture)
    print(table(HEADER, [cells(row) for row in rows], width=120, flexible=0))
    print(json.dumps(summary(result)))
    return 0


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return the last line: N* of every row by name, and lag and drift of the widest 560 ms row."""
    rows = result["rows"]
    streams = {f"streams_{name_of(row).replace(' ', '_')}": row["streams"] for row in rows}
    wide = [row for row in rows if row["chunk_ms"] == 560] or rows
    best = max(wide, key=lambda row: row["streams"])
    at = best["eased"] or best["at"]
    return {
        "machine": result["machine"],
        **streams,
        "p99_chunk_lag_ms": at["lag_p99_ms"],
        "drift_ms_per_min": at["drift_ms_per_min"],
    }


def as_row(report: dict[str, Any], backend: str, precision: str) -> dict[str, Any]:
    """Return one line of the table."""
    model = (report["models"] or [{}])[0]
    return {
        "model": str(model.get("id", "?")),
        "backend": backend,
        "precision": precision,
        "bytes_per_stream": int(str(model.get("bytes_per_stream", 0))),
        **flat_report(report),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.streams", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one look-ahead, short runs")
    parser.add_argument("--model", action="append", help="checkpoint; may be given again")
    parser.add_argument("--backend", action="append", choices=["own", "nemo"])
    parser.add_argument("--precision", action="append", choices=["auto", "fp32", "bf16", "int8"])
    parser.add_argument("--chunk-ms", type=int, action="append", metavar="MS")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="measured a run (60; quick: 8)")
    parser.add_argument("--start", type=int, default=8, help="streams to begin with")
    parser.add_argument("--most", type=int, default=128, help="streams at most")
    parser.add_argument(
        "--late", type=float, default=5.0, help="ms of p99 lateness that void a run"
    )
    return parser.parse_args()


def _effort(args: argparse.Namespace) -> Effort:
    quick = bool(args.quick)
    return Effort(
        seconds=args.seconds or (8.0 if quick else 60.0),
        ramp_s=2.0 if quick else 4.0,
        warm_s=2.0 if quick else 6.0,
        start=args.start,
        most=args.most,
        confirm=0 if quick else 2,
        quiet_at_once=5 if quick else 1,
        late_ms=args.late,
    )


def of_server(
    options: list[str], chunks: list[int], effort: Effort, workers: int
) -> list[dict[str, Any]]:
    """Start a server and find N* at each chunk."""
    # Slots for forks of finals and for callers who overlap on a seat.
    slots = ["--slots", str(effort.most // workers + 24), "--workers", str(workers)]
    slots += ["--admission", "slots", "--rest-after", "0"]  # how many it bears is to be found
    with ServerProcess(free_port(), [*options, *slots]) as server:
        server.wait_ready()
        return [measure(url_of(server.port), chunk_ms, effort) for chunk_ms in chunks]


def name_of(row: dict[str, Any]) -> str:
    """Return what a row is called."""
    backend = "" if row["backend"] == "own" else f" {row['backend']}"
    return f"{row['model']}{backend} {row['precision']} {row['chunk_ms']}"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table in the terminal."""
    at = row["at"]
    shown = ("lag_p50_ms", "lag_p95_ms", "lag_p99_ms", "finalize_p99_ms", "cpu_ms_per_audio_s")
    return (
        row["model"],
        f"{row['chunk_ms']} ms",
        row["precision"],
        str(row["streams"]),
        *("-" if at[key] is None else f"{at[key]:.0f} ms" for key in shown),
    )


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except CommandError as failed:
        raise SystemExit(f"bench: {failed}") from failed
