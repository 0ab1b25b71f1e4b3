"""Workers that others started and that register themselves: real processes, real links.

One is killed, or its link is cut, under a live session; others are not who they should be.
"""

import asyncio
import contextlib
import os
import re
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from server.app import Running, StartError, running
from server.worker.external import ExternalWorker, Registry
from server.worker.process import environment
from server.worker.registration import SECRET_VARIABLE, shared_secret
from tests.io.serving import (
    all_slots_free,
    config,
    dial,
    figure,
    read_until,
    rest,
    speech,
    start,
    talk,
    transcript,
)

pytestmark = pytest.mark.io

TEXT = "turn on the kitchen light please thank you"
SAID, BEGAN = speech(TEXT), 40_000
OTHER_MODEL = """
import dataclasses, runpy
from asr.scripted import ScriptedEngine as Engine
info = Engine.info.fget
Engine.info = property(lambda self: dataclasses.replace(info(self), fingerprint="other"))
runpy.run_module("server.worker", run_name="__main__")
"""


class Fleet:
    """A server that waits for workers, and the workers that a test starts."""

    def __init__(self, folder: Path) -> None:
        self.secret = folder / "secret"
        self.secret.write_text(secrets.token_hex(16) + "\n")
        self.registry = Registry(shared_secret(str(self.secret)))
        self.started: list[Process] = []

    async def start(self, *options: str, secret: Path | None = None) -> Process:
        """Start a worker as systemd would."""
        command = ("-m", "server.worker") if "-c" not in options else ()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(*command, *options, "--join", f"127.0.0.1:{self.registry.port}"),
            *("--backend", "scripted", "--secret-file", str(secret or self.secret)),
            stderr=PIPE,
            env=environment(),
        )
        self.started.append(process)
        return process

    async def end(self) -> None:
        """End those that are left."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


@contextlib.asynccontextmanager
async def serving(fleet: Fleet, workers: int) -> AsyncIterator[Running]:
    await fleet.registry.open("127.0.0.1", 0)
    setup = config(workers=workers)
    try:
        async with running(setup, launch=lambda _: ExternalWorker(fleet.registry)) as server:
            yield server
    finally:
        await fleet.registry.close()
        await fleet.end()


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


async def count_ready(server: Running, workers: int) -> None:
    while await figure(server, "rivulet_workers_ready") != workers:  # noqa: ASYNC110 - a metric
        await asyncio.sleep(0.01)


def home_of(server: Running) -> ExternalWorker:
    """Where the first session is."""
    worker = next(iter(server.manager._home.values())).worker
    assert isinstance(worker, ExternalWorker)
    return worker


async def survive(server: Running, sessions: int, strike: Callable[[], Awaitable[None]]) -> None:
    """Hold sessions over a blow."""
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(dial(server)) for _ in range(sessions)]
        for socket in sockets:
            await socket.send(start())
            await read_until(socket, "ready")
            await socket.send(SAID[:BEGAN])
            await read_until(socket, "partial")
        await strike()
        for socket in sockets:
            for begin in range(BEGAN, len(SAID), 32_000):
                await socket.send(SAID[begin : begin + 32_000])
            await socket.send('{"type":"stop"}')
        for socket in sockets:
            assert transcript(await rest(socket)) == TEXT
            assert socket.close_code == 1000


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_sessions_say_the_same_once_when_an_external_worker_is_lost(
    fleet: Fleet, how: signal.Signals
) -> None:
    async with serving(fleet, 2) as server:
        first = await fleet.start()
        await count_ready(server, 1)  # whoever registers first has the first place
        await fleet.start()
        await count_ready(server, 2)

        async def strike() -> None:
            assert [len(place.sessions) for place in server.manager._places] == [1, 1]
            first.send_signal(how)

        await survive(server, 2, strike)
        if how is signal.SIGSTOP:
            first.send_signal(signal.SIGCONT)  # it wakes up, is nobody, and registers anew
        else:
            await fleet.start()  # as systemd would
        await count_ready(server, 2)
        assert sorted(p.worker.epoch for p in server.manager._places) == [2, 3]  # type: ignore[attr-defined]
        assert transcript(await talk(server, speech("here we are"))) == "here we are"
        await all_slots_free(server)


async def test_a_worker_whose_link_is_cut_comes_back_and_ends_the_session(fleet: Fleet) -> None:
    async with serving(fleet, 1) as server:
        process = await fleet.start()
        await count_ready(server, 1)

        async def strike() -> None:
            worker = home_of(server)
            assert worker._seated is not None
            worker._seated.line.cut()

        await survive(server, 1, strike)
        await all_slots_free(server)
        assert server.manager._places[0].worker.epoch == 2  # type: ignore[attr-defined]
        assert process.returncode is None


async def test_a_worker_finds_its_gateway_again_after_a_restart(fleet: Fleet) -> None:
    async with serving(fleet, 1) as server:
        await fleet.start()
        await count_ready(server, 1)
        port = fleet.registry.port
        await fleet.registry.close()
        await count_ready(server, 0)
        await fleet.registry.open("127.0.0.1", port)
        await count_ready(server, 1)


async def refusal(process: Process) -> str:
    """Wait until a worker ends; return its one line."""
    _, said = await process.communicate()
    assert process.returncode == 2
    (line,) = said.decode().splitlines()
    return line


async def test_a_worker_with_another_secret_is_refused_in_one_line(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    other.write_text(secrets.token_hex(16))
    async with serving(fleet, 1) as server:
        line = await refusal(await fleet.start(secret=other))
        assert re.fullmatch(r"127.0.0.1:\d+ refused this worker: .*another secret.*", line)
        (refused,) = [r for r in caplog.records if r.getMessage() == "worker refused"]
        assert "did not prove" in vars(refused)["reason"]
        assert not server.manager.is_ready


async def test_a_worker_of_another_model_is_refused_in_one_line(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(fleet, 2) as server:
        await fleet.start()
        await count_ready(server, 1)
        line = await refusal(await fleet.start("-c", OTHER_MODEL))
        assert re.search(r"refused this worker: it runs the model .+, the other workers run", line)
        assert [r for r in caplog.records if r.getMessage() == "worker refused"]
        assert transcript(await talk(server, speech("good day"))) == "good day"


async def test_a_worker_too_many_waits_and_takes_the_place_of_one_that_ends(fleet: Fleet) -> None:
    async with serving(fleet, 1) as server:
        first = await fleet.start()
        await count_ready(server, 1)
        second = await fleet.start()
        assert second.stderr is not None
        assert b"every place for workers is taken" in await second.stderr.readline()
        await survive(server, 1, lambda: _kill(first))
        await count_ready(server, 1)


async def _kill(process: Process) -> None:
    process.kill()
    await process.wait()


async def test_a_worker_that_is_told_to_end_does_and_its_sessions_go_on(fleet: Fleet) -> None:
    async with serving(fleet, 2) as server:
        first = await fleet.start()
        await count_ready(server, 1)

        async def strike() -> None:
            first.terminate()  # as Kubernetes does
            assert await first.wait() == 0

        await fleet.start()
        await count_ready(server, 2)
        await survive(server, 2, strike)


async def test_sessions_go_to_the_worker_that_states_the_lower_cost(fleet: Fleet) -> None:
    async with serving(fleet, 2) as server:
        await fleet.start()
        await count_ready(server, 1)
        await fleet.start("--audio-hour-cost", "0.5")
        await count_ready(server, 2)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                socket = await stack.enter_async_context(dial(server))
                await socket.send(start())
                await read_until(socket, "ready")
            told = [place.as_told() for place in server.manager.status()]
            assert [place.get("audio_hour_cost") for place in told] == [4.0, 0.5]
            assert [place.streams for place in server.manager.status()] == [0, 3]


async def test_strangers_at_the_port_keep_no_worker_out(fleet: Fleet) -> None:
    async with serving(fleet, 1) as server:
        _, silent = await asyncio.open_connection("127.0.0.1", fleet.registry.port)
        _, rude = await asyncio.open_connection("127.0.0.1", fleet.registry.port)
        rude.write(os.urandom(4_000))
        await fleet.start()
        await count_ready(server, 1)
        silent.close()
        rude.close()


async def test_without_a_secret_the_server_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    with pytest.raises(StartError, match=SECRET_VARIABLE):
        async with running(config(external="127.0.0.1:0")):
            pass
