"""The server as the command runs it: announced when ready, ended by a signal or a sentence."""

import asyncio
import json
import os
import signal
import socket as sockets
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from server import door
from server.app import Addresses, Running, StartError, serve
from server.gateways import serve as group
from server.store.base import Outcome, StoreUnavailable
from server.store.memory import MemoryStore
from tests.io.serving import config, get, rest, speech, start
from tests.io.serving import serving as running

pytestmark = pytest.mark.io

HALF = b"POST /v1/listen?encoding=linear16&sample_rate=8000 HTTP/1.1\r\nContent-Length: 9\r\n\r\nab"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_ends_with_status_0(number: signal.Signals) -> None:
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(config(), on_ready=ready.set_result))
    async with connect((await ready).websocket) as socket:
        await socket.send(start())
        await socket.send(speech("good day", silence_ms=0))
        await socket.recv()
        os.kill(os.getpid(), number)
        kinds = [message["type"] for message in await rest(socket)]
        assert "goaway" in kinds
        assert socket.close_code == 1001
    assert await serving == 0


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"POST /v1/listen HTTP/1.1\r\n", HALF])
async def test_nobody_who_is_slow_to_ask_holds_up_the_end(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("OPEN_S", "BODY_S"):
        monkeypatch.setattr(door, limit, 3_600)
    async with running() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses.port)
        writer.write(said)
        while not server.gateway._opening:  # noqa: ASYNC110 - a set has no event
            await asyncio.sleep(0)
    assert await reader.read() == b""
    writer.close()


async def test_a_port_in_use_is_said_in_one_sentence() -> None:
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}"):
            await serve(config(port=port), on_ready=lambda _: None)


@pytest.mark.parametrize("wire", ["wyoming", "vosk", "sherpa", "grpc"])
@pytest.mark.parametrize("gateways", [1, 2])
async def test_a_port_of_another_wire_in_use_is_the_one_that_is_named(
    wire: str, gateways: int, tmp_path: Path
) -> None:
    if wire == "grpc":
        pytest.importorskip("grpc", reason="needs the extra 'grpc'")
    run = serve if gateways == 1 else group
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = config(
            gateways=gateways,
            workers=gateways,
            store=f"sqlite:{tmp_path / 'sessions.db'}",
            **{f"{wire}_port": port},
        )
        with pytest.raises(StartError, match=f"127.0.0.1:{port}: .* or --{wire}-port$"):
            await run(settings, on_ready=lambda _: None)


async def test_a_store_that_is_away_at_the_start_is_said_and_so_is_its_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Store(MemoryStore):
        is_there = False

        def confirm(self, *values: Any) -> Outcome:
            if self.is_there:
                return super().confirm(*values)
            raise StoreUnavailable("nobody listens")

    store = Store()
    monkeypatch.setattr("server.app.open_store", lambda *_: store)

    async def told(server: Running) -> str:
        return str(json.loads((await get(server, "/readyz"))["body"])["store"])

    async with running() as server:
        while await told(server) != "away":  # noqa: ASYNC110 - it is asked in a thread
            await asyncio.sleep(0)
        store.is_there = True
        while await told(server) != "answers":  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_model_that_is_not_there_ends_the_start() -> None:
    with pytest.raises(StartError, match="nowhere") as caught:
        await serve(config(backend="own", model="/nowhere/x.nemo"), on_ready=lambda _: None)
    assert "Error" not in str(caught.value)
    assert "Unreadable" not in str(caught.value)


async def test_a_look_ahead_that_the_model_has_not_ends_the_start_and_those_it_has_are_named() -> (
    None
):
    said = list[Addresses]()
    with pytest.raises(StartError, match=r"scripted has no look-ahead 3; it has 0, 1, 6, 13$"):
        await serve(config(look_ahead=3), on_ready=said.append)
    assert not said


async def test_a_stop_before_the_engine_is_ready_ends_at_once() -> None:
    stop = asyncio.Event()
    stop.set()
    said: list[Addresses] = []
    assert await serve(config(), on_ready=said.append, stop=stop) == 0
    assert not said


def test_addresses_of_every_interface_are_given_as_loopback() -> None:
    assert Addresses("0.0.0.0", 80).page == "http://127.0.0.1:80/"
    assert Addresses("::", 80).websocket == "ws://[::1]:80/v1/stream"
