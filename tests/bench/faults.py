"""``make faults``: what clients see when the parts of a server are killed under them.

Does: run the rows one after the other, write results/faults.json after each; a row that fails says
so and the next one runs. The last line is one JSON object.
Does not know: how a server is set up and struck (faults_stands), what clients do (faults_callers),
how room is measured (faults_room, faults_engine).
"""

import argparse
import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.connection import Connection
from clients.load.host import machine
from tests.bench import faults_engine, faults_ray, faults_room
from tests.bench import faults_stands as stands
from tests.bench.faults_callers import (
    NEAR_S,
    RATE,
    FinalSeen,
    Stream,
    compare,
    empty_row,
    p50,
    p95,
    scripted,
    spoken,
    talk,
)
from tests.bench.faults_outside import Gateways, Program
from tests.bench.faults_stands import Setup, Stand, inside, kill_worker, outside, stop_worker

RESULTS = Path(__file__).parent / "results"
PARTS = (0.3, 0.65)
"""Where in the audio the blow falls, by turns."""
FAST = 4.0
"""Pace of the undisturbed run: in fp32 words do not depend on it."""
CARRIED_GAP_S = 1.5
"""Where streams that nobody disturbs stand still for longer, the machine does not carry them."""
ROW_MINUTES = 6.0
"""A row that takes longer has failed."""
Row = dict[str, Any]
Whole = dict[tuple[str, int], list[list[FinalSeen]]]
"""What the undisturbed clients heard, by material."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A blow under live streams."""

    name: str
    setup: Setup
    streams: int = 4
    runs: int = 1
    many: int = 5
    """Repetitions of a thorough run."""
    is_scripted: bool = False
    clips: int = 2
    """Samples that each stream says."""
    outage_s: float = 0.0
    """What the blow itself lasts."""
    part: float | None = None
    """Where in the audio the blow falls; None: by turns."""
    is_first_slow: bool = False
    """The first client does not read: its own gap counts for nothing."""


KILL, KILL_40 = "worker kill -9, 4 streams, standby", "worker kill -9, 40 streams, standby"
CASES = (
    Case(name=KILL, setup=inside(kill_worker, standby=1), runs=3, many=20),
    Case(name=KILL_40, setup=inside(kill_worker, standby=1), streams=40, many=20),
    Case(name="worker SIGSTOP, 4 streams, standby", setup=inside(stop_worker, standby=1)),
    Case(name="worker kill -9, 4 streams, no standby", setup=inside(kill_worker)),
    Case(
        name="worker kill -9, scripted, 4 streams, standby",
        setup=inside(kill_worker, backend="scripted", standby=1),
        is_scripted=True,
    ),
    Case(name="gateway kill -9, SQLite", setup=outside(Program, stands.kill_gateway)),
    Case(name="gateway kill -9, one of two", setup=outside(Gateways, stands.kill_busiest_gateway)),
    Case(name="store restart, Redis", setup=stands.with_redis),
    Case(name="client TCP reset", setup=inside(stands.reset_clients), runs=2),
    Case(
        name="blackout of 30 s",
        setup=stands.behind_a_network,
        outage_s=stands.BLACKOUT_S,
    ),
    Case(name="store's clock 1 h forward", setup=inside(stands.set_clock_forward)),
    Case(name="slow reader", setup=inside(stands.read_slowly), clips=4, is_first_slow=True),
    Case(name="node loss under Ray", setup=faults_ray.node_loss("SIGKILL")),
    Case(name="node silent under Ray", setup=faults_ray.node_loss("SIGSTOP")),
    Case(
        name="node loss under Ray, scripted",
        setup=faults_ray.node_loss("SIGKILL", is_scripted=True),
        is_scripted=True,
    ),
    Case(name="rolling restart of two", setup=stands.rolling, clips=12, part=0.08),
)


@dataclass(slots=True)
class Laboratory:
    """What the rows share."""

    args: argparse.Namespace
    whole: Whole

    def disturb(self, case: Case) -> Row:
        """Run a case."""
        return asyncio.run(self._disturb(case))

    async def _disturb(self, case: Case) -> Row:
        usual = case.many if self.args.thorough else case.runs
        runs = self.args.repetitions or usual
        wanted = min(case.streams, self.args.streams)
        async with asyncio.timeout(60 * ROW_MINUTES * max(1, runs / 3)), case.setup(wanted) as at:
            await at.ready()
            sounds, whole = await self._undisturbed(case, at, wanted)
            row = empty_row(case.name, runs, len(sounds)) | {"wanted_streams": case.streams}
            if case.streams > len(sounds):
                row["note"] = f"{len(sounds)} streams: this machine carries no more at this load"
            gaps, phases = list[float](), list[Row]()
            for number in range(runs):
                await at.ready()
                streams = await run(at, sounds, case.part or PARTS[number % len(PARTS)])
                compare(row, streams, whole)
                judged = streams[1:] if case.is_first_slow else streams
                gaps += [max(0.0, stream.gap_s - case.outage_s) for stream in judged]
                phases.append(phases_of(at, streams))
                row["leaked_slots"] += await at.leaked()
                say(f"  {number + 1}/{runs}: gap p95 {p95(gaps)} s, {phases[-1]}")
        row |= {"gap_p95_s": p95(gaps), "gap_p50_s": p50(gaps), "outage_s": case.outage_s}
        return row | {"phases": phases, "load_average": round(os.getloadavg()[0], 1)}

    async def _undisturbed(
        self, case: Case, at: Stand, streams: int
    ) -> tuple[list[bytes], list[list[FinalSeen]]]:
        """Return what is said and what is heard of it when nothing happens.

        Where so many streams stand still by themselves, fewer are taken.
        """
        material = scripted if case.is_scripted else lambda n: spoken(n, clips=case.clips)
        key = ("scripted" if case.is_scripted else "spoken", case.clips)
        different = 1 if case.is_scripted else min(9, streams)
        if len(self.whole.get(key, ())) < different:
            sounds = material(different)
            self.whole[key] = list(await asyncio.gather(*(calmly(at, s) for s in sounds)))
        while streams > 4:
            sounds = material(streams)
            tried = await run(at, [sound[: 5 * 2 * RATE] for sound in sounds], None)
            worst = p95([stream.gap_s for stream in tried]) or 0.0
            if worst <= CARRIED_GAP_S and not any(stream.error for stream in tried):
                break
            say(f"  {streams} undisturbed streams stand still for {worst} s: fewer")
            streams //= 2
        calm = self.whole[key]
        return material(streams), [calm[number % len(calm)] for number in range(streams)]


async def calmly(at: Stand, sound: bytes) -> list[FinalSeen]:
    """Return what is heard of a stream when nothing happens."""
    stream = Stream()
    await talk(at.url, sound, stream, {}, FAST)
    if stream.error:
        raise RuntimeError(f"an undisturbed stream failed: {stream.error}")
    return stream.finals


async def run(at: Stand, sounds: Sequence[bytes], part: float | None) -> list[Stream]:
    """Stream all sounds at once; strike in the middle."""
    streams = [Stream() for _ in sounds]
    connections: dict[int, Connection] = {}
    talks = [
        asyncio.create_task(talk(at.url, sound, stream, connections))
        for sound, stream in zip(sounds, streams, strict=True)
    ]
    if part is not None:
        await asyncio.sleep(part * max(map(len, sounds)) / 2 / RATE)
        marks = [stream.sent for stream in streams]
        await at.strike(list(connections.values()))
        for stream, mark in zip(streams, marks, strict=True):
            stream.sent_at_blow = mark
    await asyncio.gather(*talks)
    return streams


def phases_of(at: Stand, streams: Sequence[Stream]) -> Row:
    """Return when a server's parts were back, and its clients heard of it, after the blow."""
    phases, struck = at.phases, at.phases.struck
    row: Row = {"detected_s": phases.detected_s, "restored_s": phases.restored_s}
    row["new_worker_s"] = phases.standby_s
    if struck:
        near = round(NEAR_S * RATE)
        first = [next((t for t, _ in s.steps() if t > struck), None) for s in streams]
        caught = [s.reached(s.sent_at_blow - near) for s in streams]
        row["first_word_s"] = p95([t - struck for t in first if t])
        row["caught_up_s"] = p95([max(0.0, t - struck) for t in caught if t])
    return row


def rows_of(lab: Laboratory) -> list[tuple[str, Callable[[], Row]]]:
    """Return the rows in their order: name and what measures it."""
    cases = [(case.name, lambda case=case: lab.disturb(case)) for case in CASES]
    effort = faults_engine.Effort.of(small=lab.args.small)
    room = faults_room.Room(model=effort.model, streams=lab.args.room, seconds=lab.args.seconds)
    return [
        *cases,
        ("open and close", lambda: asyncio.run(faults_room.cycles(lab.args.cycles))),
        ("two pinned workers", lambda: faults_engine.two_workers(effort)),
        ("checkpoints", lambda: faults_engine.checkpoints(effort)),
        ("10 x N* connected", lambda: faults_room.parked(room)),
        ("2 x N* offered", lambda: faults_room.offered(room)),
    ]


def main() -> int:
    """Run the rows; the last line is one JSON object."""
    args = arguments()
    lab, began = Laboratory(args, {}), time.monotonic()
    path = RESULTS / "faults.json"
    rows: list[Row] = kept(path) if args.row else []
    places = {name: number for number, (name, _) in enumerate(rows_of(lab))}
    for name, measure in rows_of(lab):
        if args.row and not any(part in name for part in args.row):
            continue
        say(f"[{(time.monotonic() - began) / 60:4.1f} min] {name}")
        since = time.monotonic()
        try:
            row = measure()
        except faults_ray.NoRay as missing:
            say(str(missing))
            row = {"not_run": str(missing)}
        except (Exception, SystemExit) as failed:  # noqa: BLE001 - the other rows are worth having
            say(traceback.format_exc())
            row = {"failed": f"{type(failed).__name__}: {failed}"}
        took = {"seconds": round(time.monotonic() - since, 1), "machine": machine()}
        row = {"case": name} | row | took
        rows = [other for other in rows if other["case"] != name] + [row]
        rows.sort(key=lambda row: places.get(row["case"], len(places)))
        print(json.dumps({k: v for k, v in row.items() if k != "differences"}), flush=True)
        minutes = round((time.monotonic() - began) / 60, 1)
        result = summary(rows) | {"machine": machine(), "minutes": minutes, "cases": rows}
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary(rows) | {"minutes": round((time.monotonic() - began) / 60, 1)}))
    return 0


def summary(rows: Sequence[Row]) -> Row:
    """Return the figures over all rows; null where a row failed or was not run."""
    by_name = {row["case"]: row for row in rows}
    struck = [row for row in rows if "identical" in row]
    counted = ("runs", "identical", "same_words", "duplicate_finals", "lost_finals", "errors")
    line: Row = {name: sum(row[name] for row in struck) for name in counted}
    line["leaked_slots"] = sum(row.get("leaked_slots", 0) for row in rows)
    line["gap_p95_s"] = by_name.get(KILL, {}).get("gap_p95_s")
    line["gap_p95_40_s"] = by_name.get(KILL_40, {}).get("gap_p95_s")
    for key in faults_engine.KEYS + faults_room.KEYS:
        line[key] = next((row[key] for row in rows if key in row), None)
    for key in ("failed", "not_run"):
        line[key] = [row["case"] for row in rows if key in row]
    return line


def kept(path: Path) -> list[Row]:
    """Return the rows measured before, each with its own machine."""
    if not path.exists():
        return []
    before = json.loads(path.read_text())
    return [{"machine": before["machine"]} | row for row in before["cases"]]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--repetitions", type=int, help="of each blow (3 and 1)")
    parser.add_argument(
        "--thorough", action="store_true", help="20 worker kills beside a standby, else 5 (40 min)"
    )
    parser.add_argument("--row", action="append", help="part of a row's name; default: all")
    parser.add_argument("--streams", type=int, default=40, help="at most, under a blow")
    parser.add_argument("--cycles", type=int, default=10_000, help="at most; 60 s at most")
    parser.add_argument("--small", action="store_true", help="see that the last rows run")
    parser.add_argument("--room", type=int, help="N*; default: it is searched for")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a run of the room rows")
    return parser.parse_args()


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
