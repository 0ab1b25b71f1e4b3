"""``make accuracy``: WER of every evaluation set at every look-ahead and precision.

Does: run asr.offline.evaluate over ../shared/speech/eval, write tests/bench/results/accuracy.json;
record which precisions pass their WER gate (asr/models/precision_gates.json).
Does not know: how scoring works.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import torch

from asr.checkpoint import DEFAULT_MODEL
from asr.encoder.linear import Precision
from asr.engine import EngineConfig, load_engine
from asr.offline import evaluate
from asr.precision import GATES, fast_precisions
from clients.console import table
from clients.load.host import machine

SPEECH = Path(__file__).resolve().parents[3] / "shared" / "speech" / "eval"
RESULTS = Path(__file__).parent / "results" / "accuracy.json"
GATE = 0.003
"""WER, as a fraction of all words of the sets, that less than fp32 may cost."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one process evaluates at a time: all sets at one look-ahead and precision."""

    model: str
    precision: Precision
    look_ahead: int
    every: int
    """Each n-th utterance."""


def run(work: Work) -> list[dict[str, object]]:
    """Evaluate all sets."""
    torch.set_num_threads(1)
    engine = load_engine(work.model, EngineConfig(slots=16, precision=work.precision))
    rows: list[dict[str, object]] = []
    for manifest in sorted(SPEECH.glob("*/manifest.jsonl")):
        result = evaluate(engine, manifest, work.look_ahead, every=work.every)
        row = {"set": manifest.parent.name, "look_ahead": work.look_ahead}
        rows.append(row | {"precision": work.precision} | result.as_json())
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Evaluate and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="make accuracy ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each 20th utterance, look-ahead 6")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--precision", action="append", choices=get_args(Precision))
    parser.add_argument("--look-ahead", type=int, action="append")
    args = parser.parse_args()
    manifests = sorted(SPEECH.glob("*/manifest.jsonl"))
    if not manifests:
        print("there are no evaluation sets beside this checkout (../shared/speech/eval)")
        return 1
    info = load_engine(args.model, EngineConfig(slots=1)).info
    fingerprint = info.fingerprint
    wanted = [6] if args.quick else args.look_ahead or sorted(info.look_aheads)
    work = [
        Work(args.model, precision, look_ahead, 20 if args.quick else 1)
        for precision in args.precision or ["fp32", *fast_precisions()]
        for look_ahead in wanted
    ]
    # One single-threaded process a core, as the server has them.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        rows = [row for part in pool.map(run, work) for row in part]
    passed = _passed(rows)
    summary = {
        "machine": machine(),
        "model": args.model,
        "fingerprint": fingerprint,
        "passed": passed,
        "rows": rows,
    }
    if not args.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(summary, indent=1) + "\n")
        _record(fingerprint, passed)
    print(_table(rows))
    print(json.dumps({k: v for k, v in summary.items() if k != "rows"}))
    return 0


def _passed(rows: list[dict[str, object]]) -> dict[str, bool]:
    """Whether a precision is as good as fp32 at every look-ahead, of those that ran beside it."""
    errors: dict[tuple[str, object], list[float]] = {}
    for row in rows:
        words = float(str(row["words"]))
        total = errors.setdefault((str(row["precision"]), row["look_ahead"]), [0.0, 0.0])
        total[0] += float(str(row["wer"])) * words
        total[1] += words
    rise = {
        (precision, look): wrong / words - errors["fp32", look][0] / words
        for (precision, look), (wrong, words) in errors.items()
        if precision != "fp32" and ("fp32", look) in errors
    }
    return {
        precision: all(x <= GATE for (name, _), x in rise.items() if name == precision)
        for precision in dict.fromkeys(name for name, _ in rise)
    }


def _record(fingerprint: str, passed: dict[str, bool]) -> None:
    """Keep what other processors passed."""
    records = json.loads(GATES.read_text()) if GATES.exists() else {}
    known = records.get(fingerprint, {})
    records[fingerprint] = known | passed | {"evidence": "make accuracy"}
    GATES.write_text(json.dumps(records, indent=1) + "\n")


def _table(rows: list[dict[str, object]]) -> str:
    columns = sorted({(str(r["precision"]), int(str(r["look_ahead"]))) for r in rows})
    cells = {(r["set"], str(r["precision"]), r["look_ahead"]): r["wer"] for r in rows}
    lines = [
        [name, *(f"{100 * float(str(cells[name, p, look])):.1f}" for p, look in columns)]
        for name in sorted({str(r["set"]) for r in rows})
    ]
    header = ["WER %, set", *(f"{p} L={look}" for p, look in columns)]
    return table(header, lines, width=110, flexible=0)


if __name__ == "__main__":
    raise SystemExit(main())
