"""``make faults``: what clients see when workers and connections are killed under them.

Does: stream samples at the pace of speech through a server of our own, kill, compare the finals
with those of an undisturbed run, measure the gap; write results/faults.json.
Does not know: how sessions are brought back.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asr.scripted import silence, utter
from clients.audiofile import open_audio
from clients.connection import Connection, RivuletError, connect
from server.app import Running, running
from server.config import ServerConfig
from server.wire.messages import Ack, AudioFormat, Final
from server.worker.process import ProcessWorker

RESULTS = Path(__file__).parent / "results"
SAMPLES = Path(__file__).parents[2] / "samples"
TEXT = "turn on the kitchen light please thank you now we are here and there it is good day"
RATE = 16_000
PACKET_S = 0.1
PARTS = (0.3, 0.65)
"""Where in the audio the blow falls, by turns."""

Blow = Callable[[Running, Sequence[Connection]], Awaitable[None]]


@dataclass(slots=True)
class Stream:
    """What one client saw."""

    finals: list[tuple[str, int, int]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    acks: list[tuple[float, int]] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of run."""

    name: str
    backend: Literal["own", "scripted"]
    streams: int
    standby: int
    blow: Blow


async def kill_worker(server: Running, connections: Sequence[Connection]) -> None:
    """Kill the process that serves most sessions with SIGKILL."""
    os.kill(busiest(server), signal.SIGKILL)


async def stop_worker(server: Running, connections: Sequence[Connection]) -> None:
    """Freeze the process that serves most sessions with SIGSTOP, for good."""
    os.kill(busiest(server), signal.SIGSTOP)


def busiest(server: Running) -> int:
    """Return the process id of the worker that serves most sessions."""
    worker = max(server.manager._places, key=lambda place: place.streams).worker
    assert isinstance(worker, ProcessWorker) and worker.pid is not None
    return worker.pid


async def reset_clients(server: Running, connections: Sequence[Connection]) -> None:
    """Cut every client's socket."""
    for connection in connections:
        connection._line.socket.transport.abort()


async def nothing(server: Running, connections: Sequence[Connection]) -> None:
    """Leave them alone."""


CASES = (
    Case("nothing, own fp32, 4 streams", "own", 4, 0, nothing),
    Case("worker kill -9, scripted, 4 streams", "scripted", 4, 0, kill_worker),
    Case("worker kill -9, scripted, 4 streams, standby", "scripted", 4, 1, kill_worker),
    Case("worker stop, scripted, 4 streams, standby", "scripted", 4, 1, stop_worker),
    Case("client reset, scripted, 4 streams", "scripted", 4, 0, reset_clients),
    Case("worker kill -9, own fp32, 4 streams, standby", "own", 4, 1, kill_worker),
    Case("worker stop, own fp32, 4 streams, standby", "own", 4, 1, stop_worker),
    Case("client reset, own fp32, 4 streams", "own", 4, 0, reset_clients),
)


def main() -> int:
    """Run the cases; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--case", action="append", help="part of a name; default: all")
    parser.add_argument("--speed", type=float, default=1.0, help="times the pace of speech")
    args = parser.parse_args()
    chosen = [case for case in CASES if not args.case or any(c in case.name for c in args.case)]
    rows = [asyncio.run(measure(case, args.runs, args.speed)) for case in chosen]
    for row in rows:
        print(json.dumps(row), flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "faults.json"
    known = json.loads(path.read_text())["cases"] if path.exists() else []
    names = {row["case"] for row in rows}
    rows = [row for row in known if row["case"] not in names] + rows
    result = summary(rows) | {"cases": rows}
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary(rows)))
    return 0


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over all cases."""
    gaps = [row["gap_p95_s"] for row in rows]
    counted = ("runs", "identical", "duplicate_finals", "lost_finals", "leaked_slots")
    return {name: sum(row[name] for row in rows) for name in counted} | {"gap_p95_s": max(gaps)}


async def measure(case: Case, runs: int, speed: float) -> dict[str, Any]:
    """Run one case some times beside an undisturbed run."""
    sounds = recordings(case)
    with tempfile.TemporaryDirectory() as folder:
        config = ServerConfig(
            port=0, backend=case.backend, precision="fp32", workers=1, slots=16,
            standby=case.standby, store=f"sqlite:{folder}/sessions.db",
        )  # fmt: skip
        async with running(config) as server:
            await all_ready(server)
            whole = [stream.finals for stream in await run(server, sounds, nothing, speed, 0.5)]
            row: dict[str, Any] = {
                "case": case.name,
                "runs": runs,
                "identical": 0,
                "duplicate_finals": 0,
            }
            row |= {"lost_finals": 0, "leaked_slots": 0, "errors": 0, "same_words": 0}
            row["differences"] = []
            gaps = list[float]()
            for number in range(runs):
                await all_ready(server)
                part = PARTS[number % len(PARTS)]
                streams = await run(server, sounds, case.blow, speed, part)
                count(row, streams, whole)
                gaps += [gap_of(stream) for stream in streams]
                row["leaked_slots"] += await leaked(server)
            row["gap_p95_s"] = round(float(np.percentile(gaps, 95)), 3)
            row["gap_p50_s"] = round(float(np.percentile(gaps, 50)), 3)
            row["speed"], row["load_average"] = speed, round(os.getloadavg()[0], 1)
            return row


def count(
    row: dict[str, Any], streams: Sequence[Stream], whole: Sequence[list[tuple[str, int, int]]]
) -> None:
    """Compare the streams of one run with the undisturbed ones."""
    pairs = list(zip(streams, whole, strict=True))
    row["identical"] += all(stream.finals == wanted for stream, wanted in pairs)
    row["same_words"] += all(words_of(stream.finals) == words_of(w) for stream, w in pairs)
    row["differences"] += [
        (got, wanted)
        for stream, whole_one in pairs
        for got, wanted in itertools.zip_longest(stream.finals, whole_one)
        if got != wanted
    ]
    row["duplicate_finals"] += sum(len(s.ids) - len(set(s.ids)) for s in streams)
    row["lost_finals"] += sum(
        max(0, len(w) - len(set(s.ids))) for s, w in zip(streams, whole, strict=True)
    )
    row["errors"] += sum(bool(stream.error) for stream in streams)


def words_of(finals: Sequence[tuple[str, int, int]]) -> str:
    """Return the words of all finals."""
    return " ".join(text for text, _, _ in finals if text)


def gap_of(stream: Stream) -> float:
    """Return the longest time without progress, the usual time between two acks included."""
    progress = [stream.acks[0]] if stream.acks else []
    for when, done in stream.acks:
        if done > progress[-1][1]:
            progress.append((when, done))
    times = [when for when, _ in progress]
    return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


async def run(
    server: Running, sounds: Sequence[bytes], blow: Blow, speed: float, part: float
) -> list[Stream]:
    """Stream all sounds at once; strike in the middle."""
    streams = [Stream() for _ in sounds]
    connections: dict[int, Connection] = {}
    talks = [
        asyncio.create_task(talk(server, sound, stream, connections, speed))
        for sound, stream in zip(sounds, streams, strict=True)
    ]
    longest_s = max(map(len, sounds)) / 2 / RATE / speed
    await asyncio.sleep(longest_s * part)
    await blow(server, list(connections.values()))
    await asyncio.gather(*talks)
    return streams


async def talk(
    server: Running,
    sound: bytes,
    stream: Stream,
    connections: dict[int, Connection],
    speed: float,
) -> None:
    """Be one client."""
    clock = asyncio.get_running_loop().time
    audio = AudioFormat(encoding="pcm_s16le", rate=RATE)
    try:
        async with connect(
            server.addresses.websocket, come_back_s=60, audio=audio, latency="low"
        ) as connection:
            connections[id(stream)] = connection
            reading = asyncio.create_task(listen(connection, stream))
            began, size = clock(), round(RATE * PACKET_S) * 2
            for number, begin in enumerate(range(0, len(sound), size)):
                await asyncio.sleep(max(0.0, began + number * PACKET_S / speed - clock()))
                await connection.send(sound[begin : begin + size])
            await connection.stop()
            await reading
    except RivuletError as error:
        stream.error = error.code


async def listen(connection: Connection, stream: Stream) -> None:
    """Keep what comes."""
    clock = asyncio.get_running_loop().time
    async for message in connection:
        if isinstance(message, Final):
            stream.finals.append((message.text, message.start_ms, message.end_ms))
            stream.ids.append(message.id)
        elif isinstance(message, Ack):
            stream.acks.append((clock(), message.done))


def recordings(case: Case) -> list[bytes]:
    """Return what each stream says."""
    if case.backend != "scripted":
        files = sorted(SAMPLES.glob("0*.ogg"))[: case.streams]
        return [b"".join(open_audio(path).packets()) for path in files]
    words, pause = TEXT.split(), silence(640)
    groups = [" ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    parts = [part for group in groups for part in (utter(group), pause)]
    one = (np.concatenate(parts) * 32767).astype("<i2").tobytes()
    return [one] * case.streams


async def all_ready(server: Running) -> None:
    """Wait until every worker is warm."""
    while any(place.state != "ready" for place in server.manager.status()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def leaked(server: Running) -> int:
    """Return the slots in use a while after the last client left."""
    for _ in range(100):
        if not server.manager.slots_in_use and not server.manager.sessions:
            return 0
        await asyncio.sleep(0.05)
    return server.manager.slots_in_use or server.manager.sessions


if __name__ == "__main__":
    raise SystemExit(main())
