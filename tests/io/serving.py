"""A whole server with a scripted engine on loopback, and a client that keeps the rules."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError
from websockets.typing import Subprotocol

from asr.interface import Samples
from asr.scripted import ScriptedEngine, silence, utter
from server.app import Running, running
from server.config import ServerConfig
from server.wire.messages import Limits
from server.worker.thread import ThreadWorker

RATE_HZ = 16_000
START: dict[str, Any] = {
    "type": "start",
    "v": 1,
    "audio": {"encoding": "pcm_s16le", "rate": RATE_HZ},
    "latency": "low",
}
Message = dict[str, Any]


def pcm(audio: Samples) -> bytes:
    """16-bit bytes of samples."""
    return (audio * 32767).astype("<i2").tobytes()


def speech(text: str, *, silence_ms: int = 800) -> bytes:
    """16-bit bytes that say a text, then are silent."""
    return pcm(np.concatenate([utter(text), silence(silence_ms)]))


def config(**settings: Any) -> ServerConfig:
    """Settings for a test: any port, short limits where they are waited for."""
    limits = msgspec.structs.replace(Limits(), **settings.pop("limits", {}))
    base: dict[str, Any] = {
        "port": 0,
        "backend": "scripted",
        "workers": 1,
        "slots": 8,
        "store": "memory",
    }
    return ServerConfig(**(base | {"drain_s": 0.2} | settings), limits=limits)


@contextlib.asynccontextmanager
async def serving(*, is_process: bool = False, **settings: Any) -> AsyncIterator[Running]:
    """A ready server; its engine runs in a thread, or in a process of its own."""
    setup = config(**settings)

    def launch(_: int) -> ThreadWorker:
        return ThreadWorker(lambda: ScriptedEngine(slots=setup.slots))

    async with running(setup, launch=None if is_process else launch) as server:
        await server.manager.ready()
        yield server


@contextlib.asynccontextmanager
async def dial(server: Running, **options: Any) -> AsyncIterator[ClientConnection]:
    """An open socket."""
    url = options.pop("url", server.addresses.websocket)
    async with connect(url, subprotocols=[Subprotocol("rivulet.v1")], **options) as socket:
        yield socket


def start(**changes: Any) -> str:
    """A start message."""
    return json.dumps(START | changes)


async def read(socket: ClientConnection) -> Message:
    """The next message."""
    message: Message = json.loads(await socket.recv())
    return message


async def read_until(socket: ClientConnection, kind: str) -> Message:
    """The next message of a type; those before it are skipped."""
    while (message := await read(socket))["type"] != kind:
        pass
    return message


async def rest(socket: ClientConnection) -> list[Message]:
    """All messages until the socket closes."""
    messages = list[Message]()
    with contextlib.suppress(ConnectionClosedError):
        async for text in socket:
            messages.append(json.loads(text))
    return messages


async def talk(
    server: Running, said: bytes, /, *, packet: int = 3_200, **changes: Any
) -> list[Message]:
    """Send a whole recording with its start and stop; return all that was answered."""
    async with dial(server) as socket:
        await socket.send(start(**changes))
        await read_until(socket, "ready")
        for begin in range(0, len(said), packet):
            await socket.send(said[begin : begin + packet])
        await socket.send('{"type":"stop"}')
        messages = await rest(socket)
        assert socket.close_code == 1000, (socket.close_code, messages[-1:])
        return messages


def transcript(messages: list[Message], channel: int = 0) -> str:
    """Text of the finals of a channel."""
    finals = [m for m in messages if m["type"] == "final" and m["channel"] == channel]
    assert [m["id"] for m in finals] == list(range(len(finals)))
    return " ".join(m["text"] for m in finals if m["text"])


async def get(server: Running, path: str, *, method: str = "GET", headers: str = "") -> Message:
    """A plain HTTP request: status, headers (lower case) and body."""
    reader, writer = await asyncio.open_connection(server.addresses.host, server.addresses.port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n".encode())
    raw = await reader.read()
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    return {"status": int(lines[0].split()[1]), "headers": fields, "body": body}


async def figure(server: Running, name: str) -> float:
    """The sum of a metric over its labels."""
    body = (await get(server, "/metrics"))["body"].decode()
    lines = [line for line in body.splitlines() if line.partition("{")[0].split(" ")[0] == name]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def all_slots_free(server: Running) -> None:
    """Wait until no slot is in use (the test's own time limit ends a wait in vain)."""
    while await figure(server, "rivulet_slots_in_use"):  # noqa: ASYNC110 - a metric has no event
        await asyncio.sleep(0.01)
