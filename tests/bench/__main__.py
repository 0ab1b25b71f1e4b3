"""``make bench``: one run over everything that is compared; the last line is one JSON object.

Does: capacity of our engine and of rivals (115M shape), what a gateway passes on, N* through
sockets of our server and of sherpa-onnx's, rows the last line needs first; each result is written
as soon as it is known (results/capacity.json, bench.json, lag.svg).
Does not know: how steps and streams are measured (capacity, streams).
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from asr.precision import fast_precisions
from clients.console import table
from clients.errors import CommandError
from clients.load.host import machine
from clients.load.lab import system_of
from clients.load.picture import draw
from tests.bench import capacity, frontend, sherpa, streams
from tests.bench.sustained import Effort, flat_report, measure

RESULTS = Path(__file__).parent / "results"
MINUTES = 40.0
"""What the whole may take; a row is left out when it would take longer."""
ROW_MINUTES = 5.0
"""What a row may take."""
STEADY_S = 120.0
RIVAL_START = 8
"""Streams with which the search for a rival's N* begins."""
ANY_RISE = 100.0
DRAWN = " 560"
"""Rows that the picture compares: those of one chunk."""
KEYS = (
    *(f"ratio_{rival}_{ms}" for rival in ("nemo", "nemo_medium", "sherpa") for ms in (160, 560)),
    *("ratio_nocache_560", "ratio_buffered_560", "ratio_sherpa_server_560"),
    *("gemm_share_560_b16", "step_b1_160_ms", "streams_160", "streams_560"),
    *("streams_embedded_560", "drift_ms_per_min", "p99_chunk_lag_ms"),
)
"""What the last line always has; null where it was not measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One search for N*."""

    model: str
    """Empty: the embedded one."""
    precision: str
    chunk_ms: int
    rival: Literal["", "sherpa-onnx", "nemo"] = ""
    """nemo: NeMo's pipeline behind our own sockets."""
    steady_s: float = 0.0


@dataclass(slots=True)
class Sustained:
    """Rows of the table, and the reports that they are taken from."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    reports: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(self, row: dict[str, Any], report: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows.append(row)
        self.reports.append((streams.name_of(row), report))
        _say(json.dumps(row))


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
    compared = _known_capacity() if args.keep_capacity else capacity.compare(plan)
    print(capacity.table_of(compared["periods"]), flush=True)
    if not quick and not args.keep_capacity:
        capacity.write(compared)
    found = Sustained()
    result = {
        "machine": machine(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "definition": streams.DEFINITION,
        "seconds": args.seconds,
        "workers": 1,
        "capacity": compared,
        "gateway": frontend.measure(),
        "rows": found.rows,
    }
    for row in _plan(large, quick=quick):
        minutes = (time.monotonic() - began) / 60
        if minutes + ROW_MINUTES > MINUTES:
            _say(f"left out after {minutes:.0f} minutes: {row}")
            continue
        try:
            _measure(row, _effort(args.seconds, quick=quick), found)
        except (CommandError, OSError) as failed:  # the other rows are worth having
            _say(f"{row} failed: {failed}")
        result["minutes"] = round((time.monotonic() - began) / 60, 1)
        if not quick:  # at once: what follows takes long
            _write(result, found)
    print(table(streams.HEADER, [streams.cells(row) for row in found.rows], width=120, flexible=0))
    print(json.dumps(summary(result)))
    return 0


def _plan(large: str, *, quick: bool) -> list[Row]:
    """Return the rows, those that the last line needs first."""
    if quick:
        return [Row("", "auto", 560)]
    fastest = capacity.fastest()
    return [
        Row(large, fastest, 560, steady_s=STEADY_S),
        Row(large, "int8", 560, rival="sherpa-onnx"),
        Row(large, fastest, 160),
        Row("", "auto", 560),
        Row(large, "fp32", 560, rival="nemo"),  # the picture has it
        Row("", "auto", 160),
        *(Row(large, x, 560) for x in fast_precisions() if x != fastest),
        Row("", "fp32", 560),
        Row("", "auto", 1120),
        Row("", "auto", 80),
    ]


def _measure(row: Row, effort: Effort, found: Sustained) -> None:
    """Find N* of a server; one after the other, each in processes of its own."""
    effort = replace(effort, steady_s=row.steady_s)
    if row.rival:  # judged by delay alone: a word of random weights is a toss
        effort = replace(effort, start=RIVAL_START, wer_rise=ANY_RISE)
    if row.rival == "sherpa-onnx":
        with sherpa.server(Path(row.model), row.chunk_ms // 80 - 1) as url:
            report = measure(url, row.chunk_ms, effort, wire="sherpa-onnx")
        known = {"model": Path(row.model).stem, "backend": "sherpa-onnx", "precision": "int8"}
        found.add(known | flat_report(report), report)
        return
    backend = row.rival or "own"
    options = ["--backend", backend, "--precision", row.precision]
    options += ["--model", row.model] if row.model else []
    for report in streams.of_server(options, [row.chunk_ms], effort, 1):
        found.add(streams.as_row(report, backend, _precision(report)), report)


def _write(result: dict[str, Any], found: Sustained) -> None:
    (RESULTS / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    drawn = [(name, report) for name, report in found.reports if name.endswith(DRAWN)]
    picture = draw([system_of(*report) for report in drawn], limit_ms=200)
    (RESULTS / "lag.svg").write_text(picture)


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return the last line."""
    compared = result["capacity"]
    line: dict[str, Any] = {key: result.get(key) for key in ("machine", "load", "minutes")}
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
        rival = "" if backend == "own" else f"_{backend.partition('-')[0]}"
        line[f"{name}{rival}_{chunk_ms}"] = row["streams"]
    line["gateway_packets_per_s"] = result["gateway"].get("packets_per_s_of_a_core")
    ours, theirs = line.get("streams_560"), line.get("streams_sherpa_560")
    if ours is not None and theirs:
        line["ratio_sherpa_server_560"] = round(ours / theirs, 2)
    wide = [row for row in result["rows"] if row["backend"] == "own" and row["chunk_ms"] == 560]
    if wide and (at := wide[0]["steady"] or wide[0]["eased"] or wide[0]["at"]):
        line["p99_chunk_lag_ms"] = at["lag_p99_ms"]
        line["drift_ms_per_min"] = at["drift_ms_per_min"]
    return dict.fromkeys(KEYS) | line


def _known_capacity() -> dict[str, Any]:
    path = RESULTS / "capacity.json"
    if not path.exists():
        raise CommandError(f"{path} is not there: measure it, without --keep-capacity")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _precision(report: dict[str, Any]) -> str:
    return str((report["models"] or [{}])[0].get("precision", "auto"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one period, one rival, short runs")
    parser.add_argument(
        "--keep-capacity", action="store_true", help="take it from results/capacity.json"
    )
    parser.add_argument("--rounds", type=int, default=4, help="of each engine and batch")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each run through sockets")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _effort(seconds: float, *, quick: bool) -> Effort:
    return Effort(
        seconds=8.0 if quick else seconds,
        ramp_s=2.0,
        warm_s=2.0 if quick else 4.0,
        start=48,
        most=384,
        confirm=0 if quick else 1,
        quiet_at_once=5,
        late_ms=8.0,
    )


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except CommandError as failed:
        raise SystemExit(f"bench: {failed}") from failed
