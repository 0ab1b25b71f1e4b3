"""``make bench``: streams sustained at the pace of speech, by model, look-ahead and precision.

Does: start a server per model and precision, search N*, write tests/bench/results/sustained.json.
Does not know: how streams are measured.
"""

import argparse
import asyncio
import json
import platform
import urllib.request
from pathlib import Path

from clients.console import table
from clients.serving import ServerProcess
from tests.bench.sustained import as_row, search

PORT = 8799
RESULTS = Path(__file__).parent / "results" / "sustained.json"
HEADER = ("model", "look-ahead", "precision", "streams", "lag p50", "p95", "p99", "finalize", "MB")


def main() -> int:
    """Measure and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one look-ahead, short points")
    parser.add_argument("--model", action="append", help="checkpoint; may be given again")
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="of audio per stream and point")
    parser.add_argument("--most", type=int, default=128, help="streams at most")
    args = parser.parse_args()
    chunks = [560] if args.quick else [80, 160, 560, 1120]
    seconds = 10.0 if args.quick else args.seconds
    rows: list[dict[str, object]] = []
    for model in args.model or [""]:
        for precision in args.precision or (["fp32"] if args.quick else ["fp32", "bf16"]):
            rows += _of_server(model, precision, chunks, seconds, args)
    result = {"machine": machine(), "workers": args.workers, "seconds": seconds, "rows": rows}
    if not args.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(table(HEADER, [_cells(row) for row in rows], width=110, flexible=0))
    print(json.dumps({"machine": result["machine"], "rows": [_short(r) for r in rows]}))
    return 0


def _of_server(
    model: str, precision: str, chunks: list[int], seconds: float, args: argparse.Namespace
) -> list[dict[str, object]]:
    options = ["--precision", precision, "--workers", str(args.workers), "--slots", "150"]
    options += ["--model", model] if model else []
    rows = []
    with ServerProcess(PORT, options) as server:
        server.wait_ready()
        name, memory = _describe()
        for chunk_ms in chunks:
            points = asyncio.run(search(PORT, chunk_ms, seconds, args.most))
            rows.append(as_row(name, precision, chunk_ms, points) | {"bytes_per_stream": memory})
            print(json.dumps(_short(rows[-1])), flush=True)
    return rows


def _describe() -> tuple[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v1/models") as reply:
        listed = json.load(reply)
    model = (listed.get("models") or listed.get("data"))[0]
    return str(model.get("model") or model.get("id") or model.get("name")), int(
        model["bytes_per_stream"]
    )


def _short(row: dict[str, object]) -> dict[str, object]:
    return {k: v for k, v in row.items() if k != "points"}


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    at = row["at"]
    assert isinstance(at, dict)
    memory = row["bytes_per_stream"]
    assert isinstance(memory, int)
    return (
        str(row["model"]),
        str(row["look_ahead"]),
        str(row["precision"]),
        str(row["streams"]),
        *(f"{at[key]:.0f} ms" for key in ("lag_p50_ms", "lag_p95_ms", "lag_p99_ms")),
        f"{at['finalize_p99_ms']:.0f} ms",
        f"{memory / 1e6:.1f}",
    )


def machine() -> str:
    """Name the processor and its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    fast = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    name = names[0] if names else platform.machine()
    return f"{name} x {len(names)} ({', '.join(fast) or 'no bf16'})"


if __name__ == "__main__":
    raise SystemExit(main())
