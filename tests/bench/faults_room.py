"""Room of a server under pressure: many sessions at rest, more callers than it carries, churn.

Does: find N* of a server, then hold ten times as many still sessions connected while others speak;
offer twice as many as it carries; open and close by the thousand.
Does not know: faults, how load is made (clients/load).
"""

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from clients.connection import RivuletError, connect
from clients.demo import SAMPLES
from clients.load.caller import Target
from clients.load.host import usage_of
from clients.load.judge import Limits as LoadLimits
from clients.load.lab import Laboratory
from clients.load.material import material
from clients.load.plan import Traffic, plan
from clients.load.run import Run, play
from clients.load.search import Search
from clients.load.tally import Tally
from clients.load.view import View
from server.app import running
from server.config import ServerConfig
from server.wire.messages import AudioFormat, Chunk, Limits
from tests.bench import faults_engine
from tests.bench.faults_callers import RATE
from tests.bench.faults_outside import Program
from tests.bench.faults_stands import all_ready, leaked

KEYS = ("admitted_goodput", "refusal_p99_ms", "parked_bytes", "parked_lag_p99_ms")
CHUNK_MS = 560
LAG_S = 0.2
REST_AFTER_S = 1.0
FILL_S = 240.0
OPENED_A_S = 6
"""Sessions that come to rest, a second; who is refused comes again when the server says."""
AT_ONCE = 24
"""Sessions that open at the same time."""
SILENCE_S = 1.0
"""A packet of silence, and how often one comes."""
CYCLES_S = 60.0
CYCLERS = 8
AUDIO = AudioFormat(encoding="pcm_s16le", rate=RATE)
CHUNK = Chunk(chunk_ms=CHUNK_MS)


@dataclass(slots=True)
class Room:
    """N* of the server that these rows measure, searched for once."""

    model: str
    streams: int | None
    seconds: float

    @property
    def traffic(self) -> Traffic:
        """Return who speaks when."""
        return Traffic(seconds=self.seconds, ramp_s=2.0, warm_s=4.0, latencies=(str(CHUNK_MS),))

    def lab(self, url: str) -> Laboratory:
        """Return a laboratory before a server; transcripts are not compared."""
        return Laboratory(
            target=Target(url=url),
            traffic=self.traffic,
            material=material(SAMPLES, "speech", self.traffic.total_s),
            limits=LoadLimits(late_ms=8.0),
            view=View(sys.stderr, is_terminal=False),
        )

    def best(self) -> int:
        """Return N*: the most streams that are in time."""
        if self.streams is None:
            with served(
                self.model, "--slots", "400", "--admission", "slots", "--rest-after", "0"
            ) as program:
                lab = self.lab(program.url)
                search = lab.search(Search(most=360, start=48, confirm=0))
            self.streams = max(4, search.best)
        return self.streams

    def goodput(self) -> float:
        """Return how many streams' worth of whole chunks come in time of N* streams."""
        best = self.best()
        with served(
            self.model, "--slots", str(2 * best), "--admission", "slots", "--rest-after", "0"
        ) as program:
            return _in_time(_lags(_play(self, program, best), self.traffic), self.traffic)


@contextmanager
def served(model: str, *options: str) -> Iterator[Program]:
    """Start a server of the model in question with one worker."""
    chosen = faults_engine.spec(model)
    program = Program(["--model", chosen.model, "--precision", chosen.precision, *options])
    program.add("--workers", "1", "--store", "memory")
    program.start()
    try:
        asyncio.run(program.ready())
        yield program
    finally:
        asyncio.run(program.end())


class Crowd:
    """Coroutines in a thread of their own, until told to end."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._main = main
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> "Crowd":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())
        self._thread.join(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._main())
        self._loop.run_until_complete(asyncio.wait([self._task]))
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()


# ---- many at rest


@dataclass(slots=True)
class Still:
    """Sessions that are connected and say nothing."""

    url: str
    wanted: int
    connected: int = 0
    lost: list[str] = field(default_factory=list)

    async def main(self) -> None:
        """Keep them connected."""
        door = asyncio.Semaphore(AT_ONCE)
        tasks = [asyncio.create_task(self._sit(n, door)) for n in range(self.wanted)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sit(self, number: int, door: asyncio.Semaphore) -> None:
        await asyncio.sleep(number / OPENED_A_S)
        while True:
            try:
                await self._stay(door, is_paused=number % 2 == 0)
            except RivuletError as error:
                if error.code not in ("over_capacity", "rate_limited"):
                    self.lost.append(error.code)
                await asyncio.sleep(error.retry_after_s or REST_AFTER_S)

    async def _stay(self, door: asyncio.Semaphore, *, is_paused: bool) -> None:
        quiet = b"\x00" * round(2 * RATE * SILENCE_S)
        await door.acquire()
        try:
            line = connect(self.url, audio=AUDIO, latency=CHUNK)
            connection = await line.__aenter__()
        finally:
            door.release()
        self.connected += 1
        try:
            await connection.send(quiet)
            if is_paused:
                await connection.pause()
            while True:
                await asyncio.sleep(SILENCE_S)
                if not is_paused:
                    await connection.send(quiet)
        finally:
            self.connected -= 1
            await line.__aexit__(None, None, None)


def parked(room: Room) -> dict[str, Any]:
    """Connect ten times N*, half paused, half silent; others speak meanwhile."""
    best = room.best()
    live, wanted = max(1, best // 2), 10 * best
    options = ["--slots", str(best + best // 6 + 4), "--rest-after", str(REST_AFTER_S)]
    options += ["--overcommit", "20", "--max-connections", str(wanted + live + best)]
    with served(room.model, *options) as program:
        before = program.memory_bytes
        still = Still(program.url, wanted)
        with Crowd(still.main):
            until = time.monotonic() + FILL_S
            while still.connected < wanted and time.monotonic() < until:
                time.sleep(0.5)
            time.sleep(2 * REST_AFTER_S)
            connected, resting = still.connected, program.figure("rivulet_sessions_resting")
            kept, after = program.figure("rivulet_resting_bytes"), program.memory_bytes
            point = room.lab(program.url).run(live)
            at_end = still.connected
    (figures,) = point.classes.values()
    lag = figures.chunk_lag.p99 if figures.chunk_lag else None
    return {
        "model": Path(room.model).stem,
        "n_star": best,
        "wanted": wanted,
        "connected": connected,
        "connected_at_end": at_end,
        "resting": round(resting),
        "parked_bytes": round(kept / max(1, resting)),
        "memory_per_connection_bytes": round((after - before) / max(1, connected)),
        "live_streams": live,
        "parked_lag_p99_ms": lag,
        "live_failures": point.failures,
        "is_breached": lag is None or lag > 1000 * LAG_S or bool(point.failures),
        "lost": sorted(set(still.lost)),
    }


# ---- more than it carries


@dataclass(slots=True)
class Knocker:
    """Somebody who asks for a session again and again."""

    url: str
    refused_s: list[float] = field(default_factory=list)
    admitted: int = 0

    async def main(self) -> None:
        """Knock ten times a second."""
        while True:
            began = time.monotonic()
            try:
                async with connect(self.url, audio=AUDIO, latency=CHUNK):
                    self.admitted += 1
            except RivuletError as error:
                if error.code == "over_capacity":
                    self.refused_s.append(time.monotonic() - began)
            await asyncio.sleep(0.1)


def offered(room: Room) -> dict[str, Any]:
    """Offer twice N*: who is admitted keeps the delay, the others are told at once.

    Goodput is compared with that of N* streams whom nobody refuses: of calls the last part of a
    chunk never counts, however few they are.
    """
    best, alone = room.best(), room.goodput()
    with served(
        room.model, "--slots", str(2 * best + best // 3 + 8), "--rest-after", "0"
    ) as program:
        # before anybody speaks nobody knows what a step costs
        room.lab(program.url).run(max(2, best // 2))
        knocker = Knocker(program.url)
        with Crowd(knocker.main):
            tally = _play(room, program, 2 * best)
    lags = _lags(tally, room.traffic)
    in_time = _in_time(lags, room.traffic)
    return {
        "model": Path(room.model).stem,
        "n_star": best,
        "offered": 2 * best,
        "in_time_at_n_star": round(alone, 1),
        "in_time": round(in_time, 1),
        "admitted_goodput": round(in_time / alone, 3),
        "admitted_lag_p99_ms": p99_ms(lags),
        "refusals": len(knocker.refused_s),
        "refusal_p99_ms": p99_ms(knocker.refused_s),
        "refused_calls": sum(bool(call.failure) for call in tally.calls),
        "calls": len(tally.calls),
    }


def _play(room: Room, program: Program, streams: int) -> Tally:
    """Offer so many streams."""
    voices = material(SAMPLES, "speech", room.traffic.total_s)
    seats = plan(room.traffic, streams, voices.lengths)
    run = Run(Target(url=program.url), seats, tuple(voice.pcm for voice in voices.voices))
    return play(run, lambda at_s, tick: None)


def _lags(tally: Tally, traffic: Traffic) -> np.ndarray:
    """Return the lags of all chunks in seconds."""
    return np.asarray(tally.lags[str(CHUNK_MS)].within(traffic.window_s).values)


def _in_time(lags: np.ndarray, traffic: Traffic) -> float:
    """Return how many streams' worth of whole chunks came in time."""
    begin, end = traffic.window_s
    return float((lags <= LAG_S).sum()) * CHUNK_MS / 1000 / (end - begin)


def p99_ms(seconds: Sequence[float] | np.ndarray) -> float | None:
    """Return the 99th percentile; None of nothing."""
    return round(1000 * float(np.percentile(seconds, 99)), 1) if len(seconds) else None


# ---- open and close


async def cycles(most: int) -> dict[str, Any]:
    """Open and close sessions of a scripted engine: politely, without a word, with a reset."""
    limits = msgspec.structs.replace(Limits(), resume_ms=1_000)
    config = ServerConfig(
        port=0, backend="scripted", workers=1, slots=32, store="memory", limits=limits
    )
    async with running(config) as server:
        await all_ready(server)
        numbers, until = iter(range(most)), time.monotonic() + CYCLES_S
        done, errors, memory = [0], dict[str, int](), [(0, _memory())]

        async def cycle() -> None:
            for number in numbers:
                if time.monotonic() > until:
                    return
                try:
                    await _cycle(server.addresses.websocket, number)
                except RivuletError as error:
                    errors[error.code] = errors.get(error.code, 0) + 1
                done[0] += 1
                if done[0] % 500 == 0:
                    memory.append((done[0], _memory()))

        await asyncio.gather(*(cycle() for _ in range(CYCLERS)))
        await asyncio.sleep(2.0)  # those who left without a word are forgotten
        slots, sessions = await leaked(server), len(server.keeper._tenants)
        gc.collect()
        memory.append((done[0], _memory()))
    third = memory[max(1, len(memory) // 3)]
    grown = (memory[-1][1] - third[1]) / max(1, memory[-1][0] - third[0])
    return {
        "cycles": done[0],
        "leaked_slots": slots,
        "leaked_sessions": sessions,
        "errors_by_code": errors,
        "memory_mb": [round(size / 1e6, 1) for _, size in memory],
        "bytes_grown_per_cycle": round(grown),
    }


async def _cycle(url: str, number: int) -> None:
    async with connect(url, audio=AUDIO, latency="low") as connection:
        await connection.send(b"\x00" * 6_400)
        if number % 3 == 0:
            await connection.stop()
            async for _ in connection:
                pass
        elif number % 3 == 1:
            connection._line.socket.transport.abort()


def _memory() -> int:
    """Of this process, which is gateway and clients, and its engine."""
    usage = usage_of(os.getpid())
    return usage.memory_bytes if usage else 0
