"""An engine process that is killed: it comes back, and its sessions go on as if nothing was."""

import asyncio
import json
import os
import signal
import time

import pytest

from server.app import Running, running
from server.worker.process import ProcessWorker
from tests.io.serving import (
    Message,
    all_slots_free,
    config,
    dial,
    figure,
    get,
    read_until,
    rest,
    serving,
    speech,
    start,
    talk,
    transcript,
)

pytestmark = pytest.mark.io

TEXT = "turn on the kitchen light please thank you"


def workers_of(server: Running) -> list[ProcessWorker]:
    """The processes behind a server."""
    workers = [place.worker for place in server.manager._places]
    return [worker for worker in workers if isinstance(worker, ProcessWorker)]


def kill(worker: ProcessWorker, number: signal.Signals = signal.SIGKILL) -> None:
    assert worker.pid is not None
    os.kill(worker.pid, number)


async def readiness(server: Running) -> Message:
    answer = await get(server, "/readyz")
    return {"status": answer["status"], **json.loads(answer["body"])}


async def all_ready(server: Running, workers: int) -> None:
    while await figure(server, "rivulet_workers_ready") < workers:  # noqa: ASYNC110 - a metric
        await asyncio.sleep(0.01)


async def test_a_session_goes_on_when_its_only_worker_is_killed() -> None:
    said = speech(TEXT)
    async with serving(is_process=True) as server, dial(server) as socket:
        await socket.send(start())
        await read_until(socket, "ready")
        await socket.send(said[:40_000])
        await read_until(socket, "partial")
        kill(workers_of(server)[0])
        while (down := await readiness(server))["ready"]:
            pass
        assert down["status"] == 503
        assert "signal 9" in down["workers"][0]["reason"]
        for begin in range(40_000, len(said), 32_000):
            await socket.send(said[begin : begin + 32_000])
        await socket.send('{"type":"stop"}')
        assert transcript(await rest(socket)) == TEXT
        assert socket.close_code == 1000
        assert (await readiness(server))["status"] == 200
        assert transcript(await talk(server, speech("here we are"))) == "here we are"
        await all_slots_free(server)
        assert await figure(server, "rivulet_worker_restarts_total") == 1


async def test_sessions_move_to_another_worker_when_theirs_is_killed() -> None:
    async with serving(is_process=True, workers=2) as server:
        await all_ready(server, 2)
        async with dial(server) as first, dial(server) as second:
            for socket in (first, second):
                await socket.send(start())
                await read_until(socket, "ready")
                await socket.send(speech("good day", silence_ms=0))
            home = next(iter(server.manager._home.values()))  # the first session's worker
            assert isinstance(home.worker, ProcessWorker)
            kill(home.worker)
            for socket in (first, second):
                await socket.send('{"type":"stop"}')
                assert transcript(await rest(socket)) == "good day"
        await all_slots_free(server)


async def test_a_frozen_worker_is_killed_and_its_streams_say_the_same_once() -> None:
    said, began = speech(TEXT), 40_000
    async with serving(is_process=True, workers=2) as server:
        await all_ready(server, 2)
        expected = await talk(server, said)
        async with dial(server) as first, dial(server) as second:
            for socket in (first, second):
                await socket.send(start())
                await read_until(socket, "ready")
                await socket.send(said[:began])
                await read_until(socket, "partial")
            home = next(iter(server.manager._home.values()))
            assert isinstance(home.worker, ProcessWorker)
            kill(home.worker, signal.SIGSTOP)
            for socket in (first, second):
                for begin in range(began, len(said), 32_000):
                    await socket.send(said[begin : begin + 32_000])
                await socket.send('{"type":"stop"}')
            for socket in (first, second):
                messages = await rest(socket)
                assert transcript(messages) == transcript(expected) == TEXT
                assert socket.close_code == 1000
        assert await figure(server, "rivulet_worker_hangs_total") == 1
        await all_ready(server, 2)
        await all_slots_free(server)


async def test_a_gateway_that_slept_calls_nobody_dead() -> None:
    async with serving(is_process=True) as server:
        asyncio.get_running_loop().call_soon(time.sleep, 3)  # as long as a frozen loop
        assert transcript(await talk(server, speech(TEXT))) == TEXT
        assert await figure(server, "rivulet_worker_hangs_total") == 0


async def test_a_gateway_and_workers_that_slept_together_go_on() -> None:
    async with serving(is_process=True) as server, dial(server) as socket:
        await socket.send(start())
        await read_until(socket, "ready")
        worker = workers_of(server)[0]
        kill(worker, signal.SIGSTOP)
        time.sleep(3)  # noqa: ASYNC251 - the gateway is frozen too
        kill(worker, signal.SIGCONT)
        said = speech(TEXT)
        for begin in range(0, len(said), 32_000):
            await socket.send(said[begin : begin + 32_000])
        await socket.send('{"type":"stop"}')
        assert transcript(await rest(socket)) == TEXT
        assert await figure(server, "rivulet_worker_hangs_total") == 0


async def test_a_session_that_starts_while_no_worker_is_ready_is_told_when_to_retry() -> None:
    async with serving(is_process=True) as server:
        kill(workers_of(server)[0])
        while (await readiness(server))["ready"]:
            pass
        async with dial(server) as socket:
            await socket.send(start())
            error = (await rest(socket))[-1]
            assert (error["code"], socket.close_code) == ("over_capacity", 4429)
            assert error["retry_after"] > 0


async def test_a_model_that_cannot_be_loaded_is_said_in_a_sentence_and_not_retried() -> None:
    setup = config(backend="own", model="/nowhere/at/all.nemo")
    async with running(setup) as server:
        with pytest.raises(RuntimeError, match="nowhere"):
            await server.manager.ready()
        assert (await readiness(server))["workers"][0]["state"] == "unfit"
        assert not server.manager._restarts


async def test_an_engine_process_ends_with_its_gateway() -> None:
    async with serving(is_process=True) as server:
        worker = workers_of(server)[0]
        process = worker._process
        assert process is not None and worker._line is not None
        worker._is_closing = True
        worker._line.cut()  # as if the gateway had been killed
        await process.wait()
        assert process.returncode is not None
