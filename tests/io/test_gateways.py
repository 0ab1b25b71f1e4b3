"""Several gateway processes on one port: real ones with one store; the kernel says who serves."""

import asyncio
import contextlib
import functools
import os
import signal
import socket as sockets
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from server.app import Addresses, StartError
from server.config import ConfigError, ServerConfig
from server.gateways import reserved, serve, share
from tests.io.serving import Message, config, read, read_until, rest, speech, start, transcript

pytestmark = [
    pytest.mark.io,
    pytest.mark.skipif(not hasattr(sockets, "SO_REUSEPORT"), reason="no SO_REUSEPORT here"),
]

TEXT = "turn on the kitchen light please thank you now we are here"
LIMIT_S = 120


def in_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test that starts processes: on a busy machine they take their time."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**fixtures), LIMIT_S))

    return run


@dataclass
class Group:
    """Gateways that serve, for a test that acts like their clients and their worst enemy."""

    addresses: Addresses
    stop: asyncio.Event
    serving: "asyncio.Task[int]"

    @contextlib.asynccontextmanager
    async def dial(self, *, at: int | None = None) -> AsyncIterator[ClientConnection]:
        """Connect, again and again until it is to this gateway."""
        async with contextlib.AsyncExitStack() as stack:
            while True:
                url = self.addresses.websocket
                try:
                    socket = await connect(url, subprotocols=[Subprotocol("rivulet.v1")])
                except OSError:  # in the queue of the one that was killed
                    continue
                if at in (None, gateway_of(socket)):
                    stack.push_async_callback(socket.close)
                    yield socket
                    return
                await socket.close()

    async def get(self, path: str) -> bytes:
        """Return the whole answer of whichever gateway it comes to."""
        host, port = self.addresses.host, self.addresses.port
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def gateways(store: Path, **settings: Any) -> AsyncIterator[Group]:
    """Serve with two of them."""
    setup = config(gateways=2, workers=2, store=f"sqlite:{store / 'sessions.db'}", **settings)
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(setup, on_ready=ready.set_result, stop=stop))
    try:
        await asyncio.wait((ready, serving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield Group(await ready, stop, serving)
    finally:
        stop.set()
        await serving


def gateway_of(socket: ClientConnection) -> int:
    """Return which of them a connection came to."""
    assert socket.response is not None
    return int(socket.response.headers["Server"].removeprefix("rivulet gateway "))


def reset(socket: ClientConnection) -> None:
    """Break the connection with a TCP reset, without a word."""
    raw = socket.transport.get_extra_info("socket")
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    socket.transport.abort()


def members() -> list[int]:
    """Return the processes of gateways that this process started."""
    found = list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if parent == os.getpid() and b"server.member" in command:
                found.append(int(folder.name))
    return found


async def say(socket: ClientConnection, said: bytes) -> None:
    for begin in range(0, len(said), 3_200):
        await socket.send(said[begin : begin + 3_200])


async def undisturbed(group: Group, said: bytes) -> list[Message]:
    async with group.dial() as socket:
        await socket.send(start())
        await read_until(socket, "ready")
        await say(socket, said)
        await socket.send('{"type":"stop"}')
        return finals(await rest(socket))


def finals(messages: list[Message]) -> list[Message]:
    return [{k: v for k, v in m.items() if k != "seq"} for m in messages if m["type"] == "final"]


@in_time
async def test_a_stream_cut_in_mid_word_goes_on_at_the_other_gateway_and_back(
    tmp_path: Path,
) -> None:
    parts = [
        speech(text) for text in ("turn on the kitchen light", "please thank you", "now we are")
    ]
    said = b"".join([*parts, speech("here")])
    # in a word of each sentence; gateway 0 gets the session back when 1 has said a final of it
    ends = [sum(map(len, parts[:n])) + 12_100 for n in range(3)]
    async with gateways(tmp_path) as group:
        expected = await undisturbed(group, said)
        seen, at, where, begin = list[Message](), 0, 0, start()
        for sentence, end in enumerate([*ends, len(said)]):
            async with group.dial(at=where) as socket:
                await socket.send(begin)
                ready = await read_until(socket, "ready")
                assert at == 0 or (ready["resumed"] and ready["at"] <= at)
                await say(socket, said[2 * ready.get("at", 0) : end])
                if end == len(said):
                    await socket.send('{"type":"stop"}')
                    seen += finals(await rest(socket))
                    break
                while (message := await read(socket))["type"] != "partial" or len(seen) < sentence:
                    seen += finals([message])
                reset(socket)
            at, where = end // 2, 1 - where
            begin = start(resume={"token": ready["token"], "finals": [len(seen)]})
        assert seen == expected
        assert transcript(seen) == TEXT


async def opened(group: Group, at: int, stack: contextlib.AsyncExitStack) -> ClientConnection:
    socket = await stack.enter_async_context(group.dial(at=at))
    await socket.send(start())
    await read_until(socket, "ready")
    return socket


@in_time
async def test_a_killed_gateway_is_started_again_and_the_other_serves_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = speech(TEXT)
    async with gateways(tmp_path) as group, contextlib.AsyncExitStack() as stack:
        sockets = [await opened(group, number, stack) for number in (0, 1)]
        for socket in sockets:
            await say(socket, said[:40_000])
            await read_until(socket, "partial")
        os.kill(members()[0], signal.SIGKILL)
        closing = [asyncio.create_task(socket.wait_closed()) for socket in sockets]
        await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
        dead, alive = (0, 1) if closing[0].done() else (1, 0)
        closing[alive].cancel()
        await say(sockets[alive], said[40_000:])
        await sockets[alive].send('{"type":"stop"}')
        assert transcript(await rest(sockets[alive])) == TEXT
        async with group.dial(at=dead) as socket:  # it is there again, and can serve at once
            await socket.send(start())
            await read_until(socket, "ready")
        (line,) = [record for record in caplog.records if record.msg == "gateway gone"]
        assert (line.gateway, line.reason) == (dead, "it ended with status -9")  # type: ignore[attr-defined]


@in_time
async def test_readiness_and_figures_say_which_gateway_they_are_of(tmp_path: Path) -> None:
    async with gateways(tmp_path) as group:
        seen = set[bytes]()
        while len(seen) < 2:
            body = await group.get("/readyz")
            assert b"200 OK" in body
            seen.add(body.rpartition(b'"gateway":')[2])
        assert seen == {b"0}\n", b"1}\n"}
        lines = (await group.get("/metrics")).decode().splitlines()
        figures = [line for line in lines if line.startswith("rivulet_")]
        number = figures[0].partition('gateway="')[2][0]
        assert number in "01"
        assert all(f'gateway="{number}"' in line for line in figures)


@in_time
async def test_an_end_drains_all_of_them_and_leaves_nobody_behind(tmp_path: Path) -> None:
    async with gateways(tmp_path) as group, contextlib.AsyncExitStack() as stack:
        sockets = [await opened(group, number, stack) for number in (0, 1)]
        os.kill(os.getpid(), signal.SIGTERM)
        for socket in sockets:
            assert "goaway" in [message["type"] for message in await rest(socket)]
            assert socket.close_code == 1001
        assert await group.serving == 0
        assert not members()


@in_time
async def test_a_meeting_is_refused_in_a_sentence_for_its_readers_may_be_elsewhere(
    tmp_path: Path,
) -> None:
    async with gateways(tmp_path) as group:
        async with group.dial() as socket:
            await socket.send(start(meeting={"id": "monday", "speakers": ["Ada"]}))
            refused = (await rest(socket))[-1]
            assert (refused["code"], refused["param"]) == ("bad_request", "meeting")
        url = group.addresses.websocket.replace("/v1/stream", "/v1/meeting/monday")
        async with connect(url) as socket:
            await socket.wait_closed()
            assert socket.close_code == 4400


async def test_gateways_that_share_no_store_do_not_start() -> None:
    setup = config(gateways=2, workers=2, store="memory")
    with pytest.raises(StartError, match="a store that they share"):
        await serve(setup, on_ready=lambda _: None)


@in_time
async def test_an_engine_that_cannot_start_is_said_once_by_the_group(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'sessions.db'}"
    setup = config(gateways=2, workers=2, store=store, backend="own", model="/nowhere/x.nemo")
    with pytest.raises(StartError, match="nowhere"):
        await serve(setup, on_ready=lambda _: None)
    assert not members()


def test_a_port_of_another_program_is_not_shared() -> None:
    with sockets.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}"),
            reserved(config(port=port)),
        ):
            pass


def test_ports_are_chosen_once_for_all() -> None:
    with reserved(config(wyoming_port=0)) as found:
        assert found.port and found.wyoming_port
        assert found.port != found.wyoming_port


def test_every_worker_belongs_to_one_gateway_with_its_device() -> None:
    devices = ("cpu:0", "cpu:1", "cpu:2")
    whole = ServerConfig(gateways=2, workers=5, devices=devices, wyoming_port=0, announce=True)
    first, second = share(whole, 0), share(whole, 1)
    assert (first.workers, first.devices) == (3, ("cpu:0", "cpu:2", "cpu:1"))
    assert (second.workers, second.devices) == (2, ("cpu:1", "cpu:0"))
    assert (first.announce, second.announce) == (True, False)
    with pytest.raises(ConfigError, match="2 gateways need as many workers"):
        ServerConfig(gateways=2, workers=1)
