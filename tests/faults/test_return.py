"""Clients whose connection breaks: the session goes on, no final is lost or said twice."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from asr.scripted import ScriptedEngine
from clients.connection import Connection, connect
from server.app import Running, running
from server.store.base import Kept
from server.store.sqlite import SqliteStore
from server.wire.messages import AudioFormat, Endpointing, Final, Finalized
from server.worker.thread import ThreadWorker
from tests.io.serving import (
    Message,
    all_slots_free,
    config,
    dial,
    figure,
    read_until,
    rest,
    serving,
    speech,
    start,
    talk,
    transcript,
)

pytestmark = pytest.mark.io

TEXT = "turn on the kitchen light please thank you now we are here"
S16 = AudioFormat(encoding="pcm_s16le", rate=16_000)


def resume(token: str, **have: Any) -> str:
    return start(resume={"token": token, **have})


def cut(socket: ClientConnection) -> None:
    """Break the line without a word."""
    socket.transport.abort()


async def away(server: Running, count: int) -> None:
    """Wait until so many sessions have no client and no slot."""
    while server.gateway._keeper.away != count:  # noqa: ASYNC110 - a count has no event
        await asyncio.sleep(0.01)
    await all_slots_free(server)


async def say(socket: ClientConnection, said: bytes) -> None:
    """Send audio in frames of a second."""
    for begin in range(0, len(said), 32_000):
        await socket.send(said[begin : begin + 32_000])


async def begun(socket: ClientConnection, said: bytes) -> Message:
    await socket.send(start())
    ready = await read_until(socket, "ready")
    await say(socket, said)
    await read_until(socket, "partial")
    return ready


async def finish(socket: ClientConnection, said: bytes, at: int) -> list[Message]:
    await say(socket, said[2 * at :])
    await socket.send('{"type":"stop"}')
    return await rest(socket)


async def test_a_session_goes_on_where_the_server_says() -> None:
    said = speech(TEXT)
    async with serving() as server:
        async with dial(server) as socket:
            ready = await begun(socket, said[:30_000])
            cut(socket)
        await away(server, 1)
        assert await figure(server, "rivulet_sessions_away") == 1
        assert await figure(server, "rivulet_away_bytes") > 0
        async with dial(server) as socket:
            await socket.send(resume(ready["token"]))
            back = await read_until(socket, "ready")
            assert (back["resumed"], back["session"]) == (True, ready["session"])
            assert back["token"] != ready["token"]
            messages = await finish(socket, said, back["at"])
            assert transcript(messages) == TEXT
            assert messages[-1]["samples"] == len(said) // 2
        await away(server, 0)
        async with dial(server) as socket:
            await socket.send(resume(back["token"]))
            assert (await rest(socket))[-1]["code"] == "resume_unknown"


async def test_only_the_finals_that_a_client_lacks_are_said_again() -> None:
    said = speech("good day") + speech("no thank you") + speech("yes")
    async with serving() as server:
        async with dial(server) as socket:
            await socket.send(start())
            ready = await read_until(socket, "ready")
            await say(socket, said)
            while (await read_until(socket, "final"))["id"] < 1:
                pass
            cut(socket)
        await away(server, 1)
        async with dial(server) as socket:
            await socket.send(resume(ready["token"], finals=[1]))
            back = await read_until(socket, "ready")
            messages = await finish(socket, said, back["at"])
            finals = [m for m in messages if m["type"] == "final"]
            assert [m["id"] for m in finals] == list(range(1, len(finals) + 1))
            assert " ".join(m["text"] for m in finals) == "no thank you yes"


async def test_a_session_has_one_connection_the_newest() -> None:
    said = speech(TEXT)
    async with serving() as server, dial(server) as first, dial(server) as second:
        ready = await begun(first, said[:30_000])
        await second.send(resume(ready["token"]))
        back = await read_until(second, "ready")
        await rest(first)
        assert first.close_code == 4409
        assert transcript(await finish(second, said, back["at"])) == TEXT


async def test_a_lost_answer_locks_nobody_out() -> None:
    said = speech(TEXT)
    async with serving() as server:
        async with dial(server) as socket:
            ready = await begun(socket, said[:30_000])
            cut(socket)
        for _ in range(3):  # the client never sees the new token
            async with dial(server) as socket:
                await socket.send(resume(ready["token"]))
                await read_until(socket, "ready")
                cut(socket)
        async with dial(server) as socket:
            await socket.send(resume(ready["token"]))
            back = await read_until(socket, "ready")
            assert transcript(await finish(socket, said, back["at"])) == TEXT


async def test_a_client_cut_off_behind_its_stop_learns_the_end() -> None:
    said = speech(TEXT)
    async with serving() as server:
        async with dial(server) as socket:
            ready = await begun(socket, said)
            socket.transport.pause_reading()
            await socket.send('{"type":"stop"}')
            (connection,) = server.gateway._connections
            while connection.session.close_code is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            cut(socket)
        await away(server, 1)
        async with dial(server) as socket:
            await socket.send(resume(ready["token"]))
            back = await read_until(socket, "ready")
            assert back["at"] == len(said) // 2
            messages = await finish(socket, said, back["at"])
            assert transcript(messages) == TEXT
            assert messages[-1]["type"] == "done"
        await away(server, 0)


@pytest.mark.parametrize("token", ["", "a.b", "nonsense"])
async def test_a_token_of_nobody_is_refused_by_name(token: str) -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(resume(token))
        error = (await rest(socket))[-1]
        assert (error["code"], error["param"]) == ("resume_unknown", "resume.token")


async def test_other_audio_is_refused_and_the_session_waits_for_its_own() -> None:
    said = speech(TEXT)
    async with serving() as server:
        async with dial(server) as socket:
            ready = await begun(socket, said[:30_000])
            cut(socket)
        async with dial(server) as socket:
            other = {"encoding": "mulaw", "rate": 8_000}
            await socket.send(start(audio=other, resume={"token": ready["token"]}))
            assert (await rest(socket))[-1]["param"] == "audio"
        async with dial(server) as socket:
            await socket.send(resume(ready["token"]))
            back = await read_until(socket, "ready")
            assert transcript(await finish(socket, said, back["at"])) == TEXT


async def test_a_client_that_closes_politely_is_not_waited_for() -> None:
    async with serving() as server:
        async with dial(server) as socket:
            ready = await begun(socket, speech(TEXT)[:30_000])
        await all_slots_free(server)
        assert server.gateway._keeper.away == 0
        async with dial(server) as socket:
            await socket.send(resume(ready["token"]))
            assert (await rest(socket))[-1]["code"] == "resume_unknown"


async def test_a_server_that_is_started_again_takes_its_sessions_up(tmp_path: Path) -> None:
    said, store = speech(TEXT), f"sqlite:{tmp_path}/sessions.db"
    async with serving(store=store) as server:
        async with dial(server) as socket:
            await socket.send(start())
            ready = await read_until(socket, "ready")
            await say(socket, said[:50_000])
            before = [await read_until(socket, "partial")]
            stopping = asyncio.create_task(server.gateway.stop())
            before += await rest(socket)
            assert socket.close_code == 1001
            await stopping
    assert not any(m["type"] == "final" for m in before)  # it would cut a word in two
    async with serving(store=store) as server, dial(server) as socket:
        await socket.send(resume(ready["token"], finals=[0]))
        back = await read_until(socket, "ready")
        assert back["at"] == 25_000
        after = await finish(socket, said, back["at"])
        finals = [m for m in after if m["type"] == "final"]
        assert [m["id"] for m in finals] == list(range(len(finals)))
        assert transcript(after) == TEXT


@contextlib.asynccontextmanager
async def slow_to_load(store: str) -> AsyncIterator[tuple[Running, threading.Event]]:
    """A server that listens while its engine waits for the event."""
    setup, may_load = config(store=store), threading.Event()

    def load() -> ScriptedEngine:
        may_load.wait()
        return ScriptedEngine(slots=setup.slots)

    async with running(setup, launch=lambda _: ThreadWorker(load)) as server:
        try:
            yield server, may_load
        finally:
            may_load.set()


async def waits_for_an_engine(server: Running, socket: ClientConnection) -> None:
    """Wait until the server keeps a client waiting, or has told it something."""
    answer = asyncio.create_task(socket.wait_closed())
    while not any(one._is_asking for one in server.gateway._connections):
        await asyncio.sleep(0.01)
        assert not answer.done(), "turned away"
    answer.cancel()


async def test_who_is_back_before_the_engine_goes_on_as_soon_as_it_is_loaded(
    tmp_path: Path,
) -> None:
    said, store = speech(TEXT), f"sqlite:{tmp_path}/sessions.db"
    async with serving(store=store) as server, dial(server) as socket:
        ready = await begun(socket, said[:30_000])
        cut(socket)
        await away(server, 1)
    async with slow_to_load(store) as (server, may_load), dial(server) as socket:
        await socket.send(resume(ready["token"]))
        await waits_for_an_engine(server, socket)
        may_load.set()
        back = await read_until(socket, "ready")
        assert transcript(await finish(socket, said, back["at"])) == TEXT


async def test_a_server_ends_though_a_client_waits_for_its_engine(tmp_path: Path) -> None:
    async with (
        slow_to_load(f"sqlite:{tmp_path}/sessions.db") as (server, may_load),
        dial(server) as socket,
    ):
        await socket.send(resume("x.y"))
        await waits_for_an_engine(server, socket)
        await server.gateway.stop()
        assert socket.close_code == 1001
        assert not may_load.is_set()


async def test_a_session_gets_no_younger_by_going_on_at_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, store = speech(TEXT), f"sqlite:{tmp_path}/sessions.db"
    limits = {"session_ms": 100_000}
    async with serving(store=store, limits=limits) as server, dial(server) as socket:
        ready = await begun(socket, said[:50_000])
        stopping = asyncio.create_task(server.gateway.stop())
        await rest(socket)
        await stopping
    later = time.time() + 100
    monkeypatch.setattr("server.keeper.time", SimpleNamespace(time=lambda: later))
    async with serving(store=store, limits=limits) as server, dial(server) as socket:
        await socket.send(resume(ready["token"]))
        assert (await rest(socket))[-1]["code"] == "session_limit"


async def test_a_speaker_of_a_meeting_goes_on_at_a_server_that_holds_none(tmp_path: Path) -> None:
    said, store = speech(TEXT), f"sqlite:{tmp_path}/sessions.db"
    async with serving(store=store) as server, dial(server) as socket:
        await socket.send(start(meeting={"id": "room"}))
        ready = await read_until(socket, "ready")
        await say(socket, said[:50_000])
        stopping = asyncio.create_task(server.gateway.stop())
        await rest(socket)
        await stopping
    async with serving(store=store, gateways=2, workers=2) as server, dial(server) as socket:
        await socket.send(resume(ready["token"]))
        back = await read_until(socket, "ready")
        assert transcript(await finish(socket, said, back["at"])) == TEXT
        await all_slots_free(server)


async def heard(connection: Connection) -> list[Final]:
    return [message async for message in connection if isinstance(message, Final)]


async def test_who_comes_back_just_as_the_server_goes_is_taken_up_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, store = speech(TEXT), f"sqlite:{tmp_path}/sessions.db"
    is_asked, may_answer = threading.Event(), threading.Event()

    def acquire(self: SqliteStore, session: str, token: bytes, new: bytes) -> Kept | None:
        is_asked.set()
        may_answer.wait()
        return acquired(self, session, token, new)

    acquired = SqliteStore.acquire
    async with serving(store=store) as server:
        async with dial(server) as socket:
            ready = await begun(socket, said[:30_000])
            cut(socket)
        await away(server, 1)
        monkeypatch.setattr(SqliteStore, "acquire", acquire)
        async with dial(server) as socket:
            await socket.send(resume(ready["token"]))
            await asyncio.to_thread(is_asked.wait)
            stopping = asyncio.create_task(server.gateway.stop())
            await socket.wait_closed()
            assert socket.close_code == 1001
            may_answer.set()
        await stopping
    async with serving(store=store) as server, dial(server) as socket:
        await socket.send(resume(ready["token"]))
        back = await read_until(socket, "ready")
        assert transcript(await finish(socket, said, back["at"])) == TEXT


async def test_our_client_comes_back_by_itself_again_and_again() -> None:
    said = speech(TEXT)
    async with serving() as server:
        expected = await talk(server, said, endpointing={"silence_ms": 300})
        url, rules = server.addresses.websocket, Endpointing(silence_ms=300)
        async with connect(
            url, come_back_s=15, audio=S16, latency="low", endpointing=rules
        ) as connection:
            reading = asyncio.create_task(heard(connection))
            for begin in range(0, len(said), 6_400):
                await connection.send(said[begin : begin + 6_400])
                if begin // 6_400 % 4 == 2:
                    cut(connection._line.socket)
            await connection.stop()
            finals = await reading
        assert connection.returns >= 2
        assert [f.id for f in finals] == list(range(len(finals)))
        assert " ".join(f.text for f in finals if f.text) == transcript(expected) == TEXT
        await away(server, 0)


async def test_a_request_in_flight_is_answered_after_the_return() -> None:
    async with serving() as server:
        url = server.addresses.websocket
        async with connect(url, come_back_s=15, audio=S16, latency="low") as connection:
            await connection.send(speech("good day", silence_ms=0))
            cut(connection._line.socket)
            req = await connection.finalize()
            await connection.stop()
            said = [m.req async for m in connection if isinstance(m, Finalized)]
        assert said == [req]
