"""Workers are killed while sessions rest: nobody notices, and everybody says what was said."""

import asyncio
import contextlib

import pytest

from asr.scripted import silence
from tests.faults.test_worker_death import all_ready, kill, workers_of
from tests.io.serving import (
    all_slots_free,
    dial,
    figure,
    pcm,
    read_until,
    rest,
    serving,
    speech,
    start,
    transcript,
)

pytestmark = pytest.mark.io

MANY = 12
"""Sessions for the three streams of each worker."""


async def all_rest(server: object, sessions: int) -> None:
    """Wait until so many sessions rest."""
    while await figure(server, "rivulet_sessions_resting") < sessions:  # type: ignore[arg-type]  # noqa: ASYNC110 - a metric
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_silent", [False, True], ids=["nothing comes", "silence comes"])
async def test_sessions_at_rest_outlive_every_worker(*, is_silent: bool) -> None:
    """Half of a text is said, then nothing or silence; the workers die; the rest is said."""
    async with (
        serving(is_process=True, workers=2, slots=4, rest_after_s=0.2) as server,
        contextlib.AsyncExitStack() as sockets,
    ):
        await all_ready(server, 2)
        clients = []
        for number in range(MANY):
            socket = await sockets.enter_async_context(dial(server))
            await socket.send(start())
            await read_until(socket, "ready")
            await socket.send(speech("turn on the light"))
            await read_until(socket, "final")
            if is_silent:
                for _ in range(10):
                    await socket.send(pcm(silence(200)))
            clients.append(socket)
            await all_rest(server, number + 1)
        assert await figure(server, "rivulet_resting_bytes") > 0
        for worker in workers_of(server):
            kill(worker)
        while await figure(server, "rivulet_worker_restarts_total") < 2:  # noqa: ASYNC110 - a metric
            await asyncio.sleep(0.01)
        await all_ready(server, 2)
        assert await figure(server, "rivulet_sessions_resting") == MANY
        for number, socket in enumerate(clients):
            await socket.send(speech("thank you"))
            if number % 4 == 3:
                with contextlib.suppress(ProcessLookupError):
                    kill(workers_of(server)[number % 8 // 4])
        for socket in clients:
            await socket.send('{"type":"stop"}')
        for socket in clients:
            messages = await rest(socket)
            assert socket.close_code == 1000, messages[-1]
            said = [m["text"] for m in messages if m["type"] == "final" and m["text"]]
            assert said == ["thank you"]
        await all_slots_free(server)
        assert await figure(server, "rivulet_sessions_resting") == 0


async def test_a_client_cut_off_while_its_session_rests_comes_back_to_it() -> None:
    async with serving(rest_after_s=0.2) as server:
        async with dial(server) as socket:
            await socket.send(start())
            token = (await read_until(socket, "ready"))["token"]
            await socket.send(speech("turn on the light"))
            await all_rest(server, 1)
            socket.transport.abort()
        async with dial(server) as socket:
            await socket.send(start(resume={"token": token, "last_final": -1}))
            at = (await read_until(socket, "ready"))["at"]
            assert at == len(speech("turn on the light")) // 2
            await socket.send(speech("thank you"))
            await socket.send('{"type":"stop"}')
            assert transcript(await rest(socket)) == "turn on the light thank you"
        await all_slots_free(server)
