"""Streams a core could hold, in process: a + b*B fitted over batches, ours and NeMo 3.0.0's.

Does: engines in processes of their own, steps of all of them in turn (one runs at a time), medians,
fits, ratios; results/capacity.json. Capacity is (0.9 * period - a) / b.
Does not know: how an engine is driven (subjects), sockets (`make bench` measures N*).

On a quiet machine, about ten minutes a look-ahead for all engines (the model is built once, in
build/bench, and needs the extra `nemo`):

    python -m tests.bench.capacity
    python -m tests.bench.capacity --quick --look-ahead 6 --rival nemo
    python -m tests.bench.capacity --model some.nemo --rounds 30

Machine load is part of the result: where others work, CPU time is the figure to use (--by cpu, the
default) and differences below 1.3x prove nothing.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

from asr.encoder.linear import Precision
from asr.precision import fast_precisions
from clients.console import table
from clients.load.host import machine
from tests.bench import sherpa
from tests.bench.subjects import Spec, Timing, batches_up_to, started, work

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "bench"
RESULTS = HERE / "results" / "capacity.json"
BATCHES = (1, 2, 4, 8, 16, 24, 32)
SLOW_MOST = 8
"""Batch beyond which NeMo's ways without cache take seconds a step."""
SHARE = 0.9
GFLOP_PER_AUDIO_S = {6: 2.83, 1: 2.90}
"""By look-ahead, of the 115M shape: encoder, attention, subsampling, RNN-T at 85 % blanks."""
VISITS = 8
"""Of one stream, a round."""
RIVALS = ("nemo", "nemo_medium", "nocache", "buffered", "sherpa", "sherpa_int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared, and how often."""

    model: str
    batches: tuple[int, ...] = BATCHES
    rounds: int = 15
    look_aheads: tuple[int, ...] = (6, 1)
    rivals: tuple[str, ...] = RIVALS
    by: str = "cpu"


@dataclass(frozen=True, slots=True)
class Runner:
    """A name in the table, and how its steps are asked for."""

    name: str
    spec: Spec
    matmul: str = "highest"


@dataclass(frozen=True, slots=True)
class Fit:
    """Cost of a step: a + b * streams, in ms."""

    a: float
    b: float

    @classmethod
    def of(cls, by_rows: dict[int, float]) -> "Fit":
        """Least squares."""
        b, a = np.polyfit(list(by_rows), list(by_rows.values()), 1)
        return cls(float(a), float(b))

    def capacity(self, period_ms: float) -> float:
        """Streams of one core that are stepped as one batch each period."""
        return max(0.0, (SHARE * period_ms - self.a) / self.b) if self.b > 0 else 0.0


@dataclass(slots=True)
class Times:
    """Steps of one runner, by batch."""

    steps: defaultdict[int, list[Timing]] = field(default_factory=lambda: defaultdict(list))

    def medians(self, by: str) -> dict[int, float]:
        """Return the median step of each batch in ms of ``cpu`` or ``wall``."""
        return {
            rows: median(getattr(timing, f"{by}_ms") for timing in timings)
            for rows, timings in sorted(self.steps.items())
        }

    def tokens_per_s(self, period_ms: float) -> float:
        """Return what the streams said a second: engines are compared at like rates only."""
        tokens = sum(t.tokens for timings in self.steps.values() for t in timings)
        steps = sum(rows * len(timings) for rows, timings in self.steps.items())
        return tokens / (steps * period_ms / 1000)


def main() -> int:
    """Measure and print; the last line is one JSON object."""
    args = _arguments()
    result = compare(
        Plan(
            model=args.model or str(random_model(args.shape)),
            batches=(1, 4, 8) if args.quick else BATCHES,
            rounds=3 if args.quick else args.rounds,
            look_aheads=tuple(args.look_ahead or [6, 1]),
            rivals=tuple(args.rival or RIVALS),
            by=args.by,
        )
    )
    looks = result["periods"]
    if not args.quick:
        write(result)
    print(table_of(looks))
    print(json.dumps(summary(result, is_known_shape=args.model is None)))
    return 0


def write(result: dict[str, Any]) -> None:
    """Write the results file."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def compare(plan: Plan) -> dict[str, Any]:
    """Measure every engine at every look-ahead; return what the results file holds."""
    looks: dict[str, Any] = {}
    for look_ahead in plan.look_aheads:
        runners = list(_runners(plan.model, look_ahead, plan.batches, plan.rivals))
        times, gemm = measure(runners, plan.rounds, 16 * (look_ahead + 1))
        period_ms = 80.0 * (look_ahead + 1)
        looks[f"{period_ms:.0f}"] = figures(times, period_ms, plan.by) | {"gemm_gflops": gemm}
    return {
        "machine": machine(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "versions": {name: _version(name) for name in ("torch", "nemo_toolkit")},
        "model": Path(plan.model).name,
        "by": plan.by,
        "rounds": plan.rounds,
        "periods": looks,
    }


def measure(
    runners: Sequence[Runner], rounds: int, gemm_rows: int
) -> tuple[dict[str, Times], float]:
    """Visit all engines and batches in turn, so that a busy moment hits all of them alike."""
    times = {runner.name: Times() for runner in runners}
    rates = []
    roof = next(x for x in runners if x.name in {"bf16", "fp32"})  # whose products are measured
    with ExitStack() as stack:
        links: dict[Spec, Connection] = {}
        for runner in runners:
            if runner.spec not in links:
                _say(f"starting {runner.name} at look-ahead {runner.spec.look_ahead}")
                links[runner.spec] = stack.enter_context(_started(runner.spec))
        for number in range(-1, rounds):  # round -1 warms every shape
            began = time.monotonic()
            for runner in runners:
                for rows in (x for x in runner.spec.batches for _ in range(visits(x))):
                    timing = Timing(*_ask(links[runner.spec], (rows, runner.matmul)))
                    if number >= 0:
                        times[runner.name].steps[rows].append(timing)
            rates.append(_ask(links[roof.spec], ("gemm", gemm_rows)))
            _say(f"round {number + 1} of {rounds}: {time.monotonic() - began:.1f} s")
    return times, round(median(rates), 1)


def visits(rows: int) -> int:
    """Return how often a batch is visited in a round: short ones more, they decide what ``a`` is.

    A rival that hardly carries one stream has a capacity of (0.9 period - a) / b near nothing.
    """
    return max(1, VISITS // rows)


def figures(times: dict[str, Times], period_ms: float, by: str) -> dict[str, Any]:
    """Return steps, fit and capacity of every engine at one period."""
    rows = {}
    for name, steps in times.items():
        medians = steps.medians(by)
        fit = Fit.of(medians)
        rows[name] = {
            "a_ms": round(fit.a, 2),
            "b_ms": round(fit.b, 3),
            "capacity": round(fit.capacity(period_ms), 3),
            "steps_ms": {str(batch): round(ms, 2) for batch, ms in medians.items()},
            "tokens_per_s": round(steps.tokens_per_s(period_ms), 2),
        }
    return {"engines": rows}


def summary(result: dict[str, Any], *, is_known_shape: bool) -> dict[str, Any]:
    """Return the last line: capacities of ours over each rival's, and what a step costs."""
    line: dict[str, Any] = {key: result[key] for key in ("machine", "load", "model", "by")}
    for period, look in result["periods"].items():
        engines = look["engines"]
        mine = [name for name in engines if name in get_args(Precision)]  # the fastest first
        ours = line["precision"] = mine[0]
        line[f"capacity_{period}"] = engines[ours]["capacity"]
        for rival in RIVALS:
            if rival in engines:
                theirs = engines[rival]["capacity"]
                for name in mine:
                    suffix = "" if name == ours else f"_{name}"
                    ratio = round(engines[name]["capacity"] / theirs, 2) if theirs else None
                    line[f"ratio_{rival}_{period}{suffix}"] = ratio
        steps = engines[ours]["steps_ms"]
        line[f"step_b1_{period}_ms"] = steps.get("1")
        look_ahead = int(period) // 80 - 1
        known = engines.get("bf16", engines["fp32"])["steps_ms"].get("16")
        if is_known_shape and known and look_ahead in GFLOP_PER_AUDIO_S:
            gflop = GFLOP_PER_AUDIO_S[look_ahead] * 16 * int(period) / 1000
            share = gflop / (known / 1000) / look["gemm_gflops"]
            line[f"gemm_share_{period}_b16"] = round(share, 3)
    return line


def fastest() -> Precision:
    """Return what ours is measured in: random weights have no words that a gate could compare."""
    return (*fast_precisions(), "fp32")[0]


def random_model(shape: str) -> Path:
    """Return a model of random weights and a real share of blanks; built when its code is new."""
    from tests.equivalence import models

    wanted = {"hybrid": models.HYBRID, "small": models.SMALL}[shape]
    path = BUILD / f"{wanted.name}.nemo"
    if not path.exists() or path.stat().st_mtime < Path(models.__file__).stat().st_mtime:
        _say(f"building {path.name} (once, some minutes)")
        BUILD.mkdir(parents=True, exist_ok=True)
        model = models.build(wanted, BUILD)
        models.tune(model, wanted)
        models.save(model, path)
    return path


def _runners(
    model: str, look_ahead: int, batches: tuple[int, ...], rivals: Sequence[str]
) -> Iterator[Runner]:
    few = batches_up_to(batches, SLOW_MOST)
    common: dict[str, Any] = {"model": model, "look_ahead": look_ahead}
    for precision in (*fast_precisions(), "fp32"):
        yield Runner(precision, Spec(kind="ours", precision=precision, batches=batches, **common))
    cached = Spec(kind="nemo", batches=batches, **common)
    # Ways without cache re-encode 5.6 s in every step: at 160 ms nobody would run them.
    slow = look_ahead >= 6
    if "nemo" in rivals:
        yield Runner("nemo", cached)
    if "nemo_medium" in rivals:
        yield Runner("nemo_medium", cached, "medium")
    if "nocache" in rivals and slow:
        yield Runner("nocache", Spec(kind="nemo", mode="nocache", batches=few, **common))
    if "buffered" in rivals and slow:
        yield Runner("buffered", Spec(kind="nemo", mode="buffered", batches=few, **common))
    if "sherpa" in rivals:
        yield Runner("sherpa", Spec(kind="sherpa", batches=batches, **common))
    if "sherpa_int8" in rivals:
        yield Runner(
            "sherpa_int8", Spec(kind="sherpa", precision="int8", batches=batches, **common)
        )


def _started(spec: Spec) -> AbstractContextManager[Connection]:
    if spec.kind == "sherpa":
        return sherpa.started(Path(spec.model), spec.look_ahead, spec.precision, spec.batches)
    return _process(spec)


@contextmanager
def _process(spec: Spec) -> Iterator[Connection]:
    with started(work, spec) as (link, _):
        yield link


def _ask(link: Connection, question: tuple[object, object]) -> Any:
    link.send(question)
    try:
        return link.recv()
    except EOFError as error:
        raise SystemExit("an engine died; what it wrote is above") from error


def table_of(looks: dict[str, Any]) -> str:
    """Return the table for the terminal."""
    header = ("engine", "period", "a + b*B ms", "capacity", "B=1 ms", "tokens/s")
    lines = []
    for period, look in looks.items():
        for name, row in look["engines"].items():
            fit = f"{row['a_ms']:.1f} + {row['b_ms']:.2f}*B"
            first = f"{row['steps_ms'].get('1', 0):.1f}"
            cells = (name, f"{period} ms", fit, f"{row['capacity']:.1f}", first)
            lines.append((*cells, f"{row['tokens_per_s']:.1f}"))
    return table(header, lines, width=100, flexible=0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.capacity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="batches 1, 4, 8; three rounds")
    parser.add_argument("--model", help="a .nemo file with RNN-T, instead of random weights")
    parser.add_argument("--shape", choices=["hybrid", "small"], default="hybrid")
    parser.add_argument("--look-ahead", type=int, action="append", metavar="N")
    parser.add_argument("--rival", choices=RIVALS, action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--by", choices=["cpu", "wall"], default="cpu")
    return parser.parse_args()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
