"""Servers of the fault laboratory, and what is done to each while clients speak.

Does: set a server up, strike it in the middle, say when its parts noticed and were back.
Does not know: how clients are compared, rows, files.
"""

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from clients.connection import Connection, connect
from server.app import Running, running
from server.config import ServerConfig
from server.place import Place
from server.wire.messages import AudioFormat
from server.worker import link
from server.worker.process import ProcessWorker
from tests.bench.faults_callers import RATE
from tests.bench.faults_outside import Gateways, Program, Proxy, RedisServer

BLACKOUT_S = 30.0
SLOW_S = 12.0
STORE_DOWN_S = 1.0
CLOCK_S = 3_600.0
SETTLE_S = 180.0
POLL_S = 0.05

Blow = Callable[[Running, Sequence[Connection]], Awaitable[None]]
Backend = Literal["own", "scripted"]
P = TypeVar("P", bound=Program)


@dataclass(slots=True)
class Phases:
    """When the parts of a server noticed a blow and were back, in seconds after it."""

    struck: float = 0.0
    """By the clock of the event loop."""
    detected_s: float | None = None
    restored_s: float | None = None
    """The last session has a slot and its snapshot again."""
    standby_s: float | None = None
    """Another worker is ready where the lost one was."""

    def strike(self) -> None:
        """Begin."""
        self.detected_s = self.restored_s = self.standby_s = None
        self.struck = time.monotonic()

    def watch(self, server: Running) -> None:
        """Look over the manager's shoulder."""
        manager: Any = server.manager
        gone, report = manager._gone, manager._report

        def see_gone(place: Place, reason: str) -> None:
            if self.struck and self.detected_s is None:
                self.detected_s = self.now()
            gone(place, reason)

        def see_report(place: Place, said: link.Report) -> None:
            if self.detected_s is not None and isinstance(said, link.Opened):
                self.restored_s = self.now()
            if self.detected_s is not None and isinstance(said, link.Ready):
                self.standby_s = self.standby_s or self.now()
            report(place, said)

        manager._gone, manager._report = see_gone, see_report

    def now(self) -> float:
        """Return the seconds since the blow."""
        return round(time.monotonic() - self.struck, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """A server with a blow ready."""

    url: str
    strike: Callable[[Sequence[Connection]], Awaitable[None]]
    ready: Callable[[], Awaitable[None]]
    """Wait until it is as before the first blow."""
    leaked: Callable[[], Awaitable[int]]
    phases: Phases = field(default_factory=Phases)


Setup = Callable[[int], AbstractAsyncContextManager[Stand]]
"""Streams -> a stand."""


def inside(
    blow: Blow, *, backend: Backend = "own", standby: int = 0, store: str = "sqlite"
) -> Setup:
    """Return how to set up a server in this process, whose engines are processes."""

    @contextlib.asynccontextmanager
    async def stand(streams: int) -> AsyncIterator[Stand]:
        with tempfile.TemporaryDirectory() as folder:
            place = f"sqlite:{folder}/sessions.db" if store == "sqlite" else store
            async with running(_config(backend, streams, standby, place)) as server:
                yield await _standing(server, blow)

    return stand


async def _standing(server: Running, blow: Blow, url: str = "") -> Stand:
    phases = Phases()
    phases.watch(server)

    async def strike(connections: Sequence[Connection]) -> None:
        phases.strike()
        await blow(server, connections)

    return Stand(
        url=url or server.addresses.websocket,
        strike=strike,
        ready=lambda: all_ready(server),
        leaked=lambda: leaked(server),
        phases=phases,
    )


def _config(backend: Backend, streams: int, standby: int, store: str) -> ServerConfig:
    return ServerConfig(
        port=0,
        backend=backend,
        precision="fp32",
        workers=1,
        slots=streams + streams // 4 + 4,
        standby=standby,
        store=store,
        admission="slots",  # who is refused is another row's question
    )


async def all_ready(server: Running) -> None:
    """Wait until every worker is warm for all look-aheads."""
    places: Sequence[Place] = server.manager._places
    async with asyncio.timeout(SETTLE_S):
        while not all(map(_is_calm, places)):  # noqa: ASYNC110 - a bench looks from outside
            await asyncio.sleep(POLL_S)


def _is_calm(place: Place) -> bool:
    pulse = place.watch._last
    return place.state.value == "ready" and pulse is not None and pulse.doing == "waiting"


async def leaked(server: Running) -> int:
    """Return the slots in use a while after the last client left."""
    for _ in range(100):
        if not server.manager.slots_in_use and not server.manager.sessions:
            return 0
        await asyncio.sleep(POLL_S)
    return server.manager.slots_in_use or server.manager.sessions


# ---- blows to a server in this process


def _signal(number: signal.Signals) -> Blow:
    async def blow(server: Running, connections: Sequence[Connection]) -> None:
        worker = max(server.manager._places, key=lambda place: place.streams).worker
        assert isinstance(worker, ProcessWorker) and worker.pid is not None
        os.kill(worker.pid, number)

    return blow


kill_worker = _signal(signal.SIGKILL)
"""Kill the process that serves most sessions."""
stop_worker = _signal(signal.SIGSTOP)
"""Freeze it for good."""


async def nothing(server: Running, connections: Sequence[Connection]) -> None:
    """Leave them alone."""


async def reset_clients(server: Running, connections: Sequence[Connection]) -> None:
    """Cut every client's socket."""
    for connection in connections:
        connection._line.socket.transport.abort()


async def read_slowly(server: Running, connections: Sequence[Connection]) -> None:
    """Have the first client read nothing for a while."""
    transport: Any = connections[0]._line.socket.transport
    transport.pause_reading()
    await asyncio.sleep(SLOW_S)
    transport.resume_reading()


async def set_clock_forward(server: Running, connections: Sequence[Connection]) -> None:
    """Have the store's clock jump, a session begin behind the jump, and all clients come back.

    Nothing else in a server looks at a clock that can be set: workers are watched by counted
    beats, deadlines run on the monotonic clock.
    """
    store: Any = server.keeper._store
    store._clock = lambda: time.time() + CLOCK_S
    audio = AudioFormat(encoding="pcm_s16le", rate=RATE)
    async with connect(server.addresses.websocket, audio=audio) as other:
        await other.stop()
        async for _ in other:
            pass
    await reset_clients(server, connections)


# ---- servers with something around them


@contextlib.asynccontextmanager
async def behind_a_network(streams: int) -> AsyncIterator[Stand]:
    """Set up a server behind a network that goes silent for 30 s."""
    async with running(_config("own", streams, 0, "memory")) as server:
        async with Proxy([server.addresses.port]) as proxy:

            async def blow(_: Running, connections: Sequence[Connection]) -> None:
                await proxy.black_out(BLACKOUT_S)

            yield await _standing(server, blow, proxy.url)


@contextlib.asynccontextmanager
async def with_redis(streams: int) -> AsyncIterator[Stand]:
    """Set up a server with a Redis that is killed, and is back a second later."""
    with tempfile.TemporaryDirectory() as folder:
        redis = RedisServer(Path(folder))
        await redis.start()
        try:
            store = f"redis://127.0.0.1:{redis.port}"
            async with running(_config("own", streams, 0, store)) as server:

                async def blow(_: Running, connections: Sequence[Connection]) -> None:
                    redis.kill()
                    await asyncio.sleep(STORE_DOWN_S)
                    await redis.start()

                yield await _standing(server, blow)
        finally:
            redis.kill()


async def kill_gateway(program: Program, phases: Phases) -> None:
    """End it and start it again at once."""
    await asyncio.to_thread(program.kill)
    program.start()
    await program.ready()
    phases.standby_s = phases.now()


async def kill_busiest_gateway(program: Gateways, phases: Phases) -> None:
    """End the one with more clients; the group starts it again by itself."""
    await asyncio.to_thread(program.kill_busiest)


def outside(kind: type[P], blow: Callable[[P, Phases], Awaitable[None]]) -> Setup:
    """Return how to set up a server in a process of its own, with its store in a file."""

    @contextlib.asynccontextmanager
    async def stand(streams: int) -> AsyncIterator[Stand]:
        with tempfile.TemporaryDirectory() as folder:
            program, phases = kind(options(folder, streams)), Phases()
            program.start()

            async def strike(connections: Sequence[Connection]) -> None:
                phases.strike()
                await blow(program, phases)

            try:
                yield Stand(
                    url=program.url,
                    strike=strike,
                    ready=program.ready,
                    leaked=program.leaked,
                    phases=phases,
                )
            finally:
                await program.end()

    return stand


@contextlib.asynccontextmanager
async def rolling(streams: int) -> AsyncIterator[Stand]:
    """Set up two servers with one store behind a balancer; each is restarted in its turn."""
    with tempfile.TemporaryDirectory() as folder:
        programs = [Program(options(folder, streams)) for _ in range(2)]
        for program in programs:
            program.start()
        try:
            async with Proxy([program.port for program in programs]) as proxy:

                async def blow(connections: Sequence[Connection]) -> None:
                    for program in programs:
                        await program.end()
                        program.start()
                        await program.ready()

                async def ready() -> None:
                    for program in programs:
                        await program.ready()

                async def leaked_of_both() -> int:
                    return sum([await program.leaked() for program in programs])

                yield Stand(url=proxy.url, strike=blow, ready=ready, leaked=leaked_of_both)
        finally:
            for program in programs:
                await program.end()


def options(folder: str, streams: int) -> list[str]:
    """Return those of a server program: one worker, a store in a file."""
    slots = str(streams + streams // 4 + 4)
    options = ["--workers", "1", "--precision", "fp32", "--slots", slots, "--admission", "slots"]
    return [*options, "--store", f"sqlite:{folder}/sessions.db"]
