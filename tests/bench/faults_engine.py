"""Engines of the fault laboratory: two pinned to a core each against one, and what snapshots cost.

Does: engines in processes of their own (subjects), alone and at once, with and without snapshots;
what a gateway does with a snapshot, in this process.
Does not know: sockets of clients, sessions under faults.

Through sockets two cores cannot show what a second worker is worth: the gateway and the load would
need cores of their own. So the engines' own capacity is compared, each pinned to a core.
"""

import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from asr.checkpoint import DEFAULT_MODEL
from server.ledger import SNAPSHOT_EVERY_S, Ledger
from server.store.base import Snapshot
from server.store.sqlite import SqliteStore
from server.worker import link
from tests.bench import capacity
from tests.bench.subjects import Spec, Steps, Timing

KEYS = ("two_workers_ratio", "checkpoint_overhead")
LOOK_AHEAD = 6
CHUNK_S = 0.56
ROWS = 16
STEPS = 24
ROUNDS = 4
WRITES = 40


@dataclass(frozen=True, slots=True)
class Effort:
    """Which model, and how often."""

    model: str
    rounds: int = ROUNDS

    @classmethod
    def of(cls, *, small: bool) -> "Effort":
        """Take the 115M shape where `make bench` built it; ``small``: just see that it runs."""
        large = capacity.BUILD / "hybrid-114m.nemo"
        if large.exists() and not small:
            return cls(str(large))
        return cls(DEFAULT_MODEL, 1 if small else ROUNDS)

    @property
    def name(self) -> str:
        """What the model is called."""
        return Path(self.model).stem


def spec(model: str, core: int | None = None) -> Spec:
    """Return the engine that is measured."""
    return Spec(
        kind="ours",
        model=model,
        look_ahead=LOOK_AHEAD,
        batches=(ROWS,),
        precision=capacity.fastest(),
        core=core,
    )


def two_workers(effort: Effort) -> dict[str, Any]:
    """Compare two engines at once with each alone."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return {"failed": "one core only"}
    alone, both = list[Timing](), list[Timing]()
    with ExitStack() as stack:
        links = [stack.enter_context(capacity._process(spec(effort.model, core))) for core in cores]
        for _ in range(effort.rounds):
            for one in links:
                alone += at_once([one])
            both += at_once(links)
    audio_s = ROWS * STEPS * CHUNK_S
    single, pair = (audio_s * 1000 / median(t.wall_ms for t in ts) for ts in (alone, both))
    cpu = [median(t.cpu_ms for t in timings) / audio_s for timings in (alone, both)]
    return {
        "two_workers_ratio": round(2 * pair / single, 3),
        "audio_s_per_s": {"one": round(single, 1), "two": round(2 * pair, 1)},
        "cpu_ms_per_audio_s": {"one": round(cpu[0], 2), "two": round(cpu[1], 2)},
        "model": effort.name,
        "note": "engines alone, pinned: gateway and load would share the two cores",
    }


def at_once(links: list[Connection], save_every: int = 0) -> list[Timing]:
    """Have all engines make the same steps at the same time."""
    for one in links:
        one.send(Steps(rows=ROWS, count=STEPS, save_every=save_every))
    return [one.recv() for one in links]


def checkpoints(effort: Effort) -> dict[str, Any]:
    """Compare steps with and without the snapshots that fall due among them."""
    every = round(SNAPSHOT_EVERY_S / CHUNK_S)
    plain, saving = list[Timing](), list[Timing]()
    with capacity._process(spec(effort.model)) as engine:
        for _ in range(effort.rounds):
            plain += at_once([engine])
            saving += at_once([engine], every)
    cpu = [median(t.cpu_ms for t in timings) for timings in (plain, saving)]
    taken = sum(len(range(n % every, ROWS, every)) for n in range(STEPS))
    size = saving[0].tokens // max(1, taken)
    gateway_ms = gateway_cost_ms(size)
    return {
        "checkpoint_overhead": round(cpu[1] / cpu[0] - 1, 4),
        "snapshot_bytes": size,
        "engine_ms_per_snapshot": round((cpu[1] - cpu[0]) / max(1, taken), 2),
        "gateway_ms_per_snapshot": round(gateway_ms, 2),
        "gateway_share_per_100_streams": round(gateway_ms / 1000 * 100 / SNAPSHOT_EVERY_S, 4),
        "every_s": SNAPSHOT_EVERY_S,
        "model": effort.name,
    }


def gateway_cost_ms(size: int) -> float:
    """Return the processor time that a gateway spends on one snapshot, its store included."""
    opening = link.Open(
        session=1, encoding="pcm_s16le", rate=16_000, channels=1, look_ahead=LOOK_AHEAD,
        language=None, turns=link.Turns(), partials="all", words=False,
    )  # fmt: skip
    frame = link.frame(link.Saved(1, 0, (os.urandom(size),)))
    ledger, reader = Ledger(opening), link.ReportReader()
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "sessions.db")
        store.create("one", b"token", b"about")
        began = time.process_time()
        for number in range(WRITES):
            (report,) = reader.feed(frame)
            assert isinstance(report, link.Saved)
            ledger.saved(report)
            store.put_snapshot("one", 1, Snapshot(number, 0, ledger.kept(with_snapshots=True)))
        spent = time.process_time() - began
        store.close()
    return 1000 * spent / WRITES
