"""Clients that break the rules: each gets a named error or a clean drop; nobody else notices."""

import asyncio
import json
import random
import socket as sockets
import struct
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from server.app import Running
from tests.io.serving import (
    all_slots_free,
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

F32 = {"encoding": "pcm_f32le", "rate": 16_000}
TEXT = "turn on the kitchen light please thank you"


async def told(server: Running, *frames: str | bytes) -> tuple[str, int | None]:
    """Send frames to a new session; return the last error's code and the close code."""
    async with dial(server) as socket:
        try:
            for frame in frames:
                await socket.send(frame)
        except ConnectionClosed:
            pass
        errors = [m["code"] for m in await rest(socket) if m["type"] == "error"]
        return (errors or [""])[-1], socket.close_code


BAD = {
    "odd byte count": ((start(), bytes(3)), ("bad_request", 4400)),
    "half a frame of two channels": (
        (start(audio={"encoding": "pcm_s16le", "rate": 16_000, "channels": 2}), bytes(6)),
        ("bad_request", 4400),
    ),
    "not a number": (
        (start(audio=F32), np.full(160, np.nan, "<f4").tobytes()),
        ("unsupported_audio", 4400),
    ),
    "infinite": (
        (start(audio=F32), np.full(160, np.inf, "<f4").tobytes()),
        ("unsupported_audio", 4400),
    ),
    "unknown encoding": (
        (start(audio={"encoding": "mp3", "rate": 16_000}),),
        ("unsupported_audio", 4400),
    ),
    "unknown rate": (
        (start(audio={"encoding": "pcm_s16le", "rate": 96_000}),),
        ("unsupported_audio", 4400),
    ),
    "eight channels": (
        (start(audio={"encoding": "pcm_s16le", "rate": 16_000, "channels": 8}),),
        ("unsupported_audio", 4400),
    ),
    "audio before start": ((bytes(3_200),), ("bad_request", 1003)),
    "unknown latency class": ((start(latency="warp"),), ("bad_request", 4400)),
    "a chunk the model lacks": ((start(latency={"chunk_ms": 240}),), ("bad_request", 4400)),
    "unknown language": ((start(language="xx"),), ("unsupported_language", 4400)),
    "eager end later than the end": (
        (start(endpointing={"silence_ms": 200, "eager_ms": 300}),),
        ("bad_request", 4400),
    ),
    "a frame of audio beyond its limit": ((start(), bytes(65_538)), ("bad_request", 1009)),
    "audio while paused": ((start(), '{"type":"pause"}', bytes(2)), ("bad_request", 4400)),
    "nothing but mistakes": ((start(), *["what?"] * 40), ("bad_request", 4400)),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_client_is_told_by_name(name: str) -> None:
    frames, expected = BAD[name]
    async with serving() as server:
        assert await told(server, *frames) == expected
        await all_slots_free(server)
        assert transcript(await talk(server, speech("here we are"))) == "here we are"


@pytest.mark.parametrize("text", ["hello", "[1]", '{"type":"sing"}', '{"type":"start","v":1}', "{"])
async def test_text_where_audio_is_due_is_answered_and_the_session_goes_on(text: str) -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(start())
        await read_until(socket, "ready")
        await socket.send(text)
        error = await read_until(socket, "error")
        if error["fatal"]:
            assert text.startswith('{"type":"start"')
            return
        assert error["code"] == "bad_request"
        await socket.send(speech("good day"))
        await socket.send('{"type":"stop"}')
        assert transcript(await rest(socket)) == "good day"


async def test_bad_numbers_of_one_client_do_not_touch_another() -> None:
    async with serving() as server:
        good = asyncio.create_task(talk(server, speech(TEXT), packet=320))
        for _ in range(5):
            frames, expected = BAD["not a number"]
            assert await told(server, *frames) == expected
        assert transcript(await good) == TEXT


async def test_invalid_utf8_is_closed_with_1007() -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(start())
        await read_until(socket, "ready")
        await socket.send(b"\xff\xfe{", text=True)
        await rest(socket)
        assert socket.close_code == 1007
        await all_slots_free(server)


async def test_a_flood_behind_invalid_utf8_does_not_hide_that_the_client_left() -> None:
    async with serving() as server:
        socket = await begin(server)
        writer = socket.transport
        writer.write(masked(0x81, b"\xff" * 200) + masked(0x82, bytes(200)) * 60)
        writer.abort() if not writer.get_write_buffer_size() else writer.close()
        async with asyncio.timeout(3):
            await all_slots_free(server)


async def test_a_message_of_a_hundred_megabytes_is_closed_with_1009_at_its_head() -> None:
    async with serving() as server, dial(server) as socket:
        await socket.send(start())
        await read_until(socket, "ready")
        # only the frame's head: a server that waited for the body would never answer
        socket.transport.write(b"\x82\xff" + struct.pack(">Q", 100 * 1024 * 1024) + bytes(4))
        await rest(socket)
        assert socket.close_code == 1009
        await all_slots_free(server)


async def test_compression_is_not_negotiated_so_there_is_no_bomb() -> None:
    async with serving() as server, dial(server, compression="deflate") as socket:
        assert socket.response is not None
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        # a compressed frame nobody agreed on
        socket.transport.write(b"\xc2\x84" + bytes(4) + b"bomb")
        await rest(socket)
        assert socket.close_code == 1002


async def test_a_client_that_resets_mid_word_frees_its_slots() -> None:
    async with serving() as server:
        socket = await begin(server)
        await socket.send(speech("turn on", silence_ms=0)[:5_000])
        raw = socket.transport.get_extra_info("socket")
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        socket.transport.abort()
        await all_slots_free(server)
        assert await figure(server, "rivulet_streams") == 0


async def test_a_client_that_never_reads_is_dropped_and_its_slots_are_free() -> None:
    async with serving(stalled_reader_s=0.2) as server:
        reader, writer = await raw_client(server)
        writer.write(masked(0x81, start().encode()))
        configure = json.dumps({"type": "configure", "req": "r" * 64}).encode()
        with pytest.raises(ConnectionError):
            while True:
                for _ in range(200):
                    writer.write(masked(0x81, configure))
                await writer.drain()
                await asyncio.sleep(0)
        await all_slots_free(server)
        del reader


async def test_a_half_open_client_is_found_by_its_silence() -> None:
    async with serving(limits={"idle_ms": 100}) as server:
        _, writer = await raw_client(server)
        writer.write(masked(0x81, start().encode()))
        while not await figure(server, "rivulet_errors_total"):  # noqa: ASYNC110 - a metric
            await asyncio.sleep(0.01)
        await all_slots_free(server)
        writer.close()


async def test_a_client_that_says_nothing_is_closed_after_the_start_timeout() -> None:
    async with serving(start_timeout_s=0.05) as server:
        assert await told(server) == ("idle_timeout", 4408)


@pytest.mark.parametrize(
    "request_line",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/stream HTTP/1.1\r\n",
    ],
)
async def test_a_broken_handshake_is_a_clean_drop(request_line: bytes) -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.addresses.port)
        writer.write(request_line)
        writer.write_eof()
        await reader.read()
        writer.close()
        assert (await get(server, "/livez"))["status"] == 200


Attack = Callable[[Running, random.Random], Awaitable[None]]


async def bad_frames(server: Running, rng: random.Random) -> None:
    """One of the clients of the table above."""
    frames, expected = BAD[rng.choice(sorted(BAD))]
    assert await told(server, *frames) == expected


async def vanish(server: Running, rng: random.Random) -> None:
    """Reset the connection somewhere in a word."""
    socket = await begin(server)
    await socket.send(speech("turn on the", silence_ms=0)[: 2 * rng.randrange(1, 5_000)])
    if rng.random() < 0.5:
        await socket.send('{"type":"finalize"}')
    socket.transport.abort()


async def stop_and_vanish(server: Running, rng: random.Random) -> None:
    """Ask for the end and do not wait for it."""
    socket = await begin(server)
    await socket.send(speech("good day")[: 2 * rng.randrange(1, 20_000)])
    await socket.send('{"type":"stop"}')
    socket.transport.abort()


async def garbage(server: Running, rng: random.Random) -> None:
    """Random frames after a start."""
    socket = await begin(server)
    try:
        for _ in range(20):
            data = rng.randbytes(rng.randrange(200))
            await socket.send(data, text=rng.random() < 0.3)
    except ConnectionClosed:
        pass
    await socket.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_two_hundred_hostile_clients_leak_nothing_and_disturb_nobody(seed: int) -> None:
    rng, clients, said = random.Random(seed), 200, speech(TEXT)
    attacks: list[Attack] = [bad_frames, vanish, stop_and_vanish, garbage]
    async with serving(is_process=True) as server:
        alone = transcript(await talk(server, said))
        async with dial(server) as good:
            await good.send(start())
            await read_until(good, "ready")
            for number in range(clients):
                begin_at = len(said) // 2 * number // clients * 2
                end_at = len(said) // 2 * (number + 1) // clients * 2
                await good.send(said[begin_at:end_at])
                await rng.choice(attacks)(server, rng)
            await good.send('{"type":"stop"}')
            beside = transcript(await rest(good))
        assert beside == alone == TEXT
        await all_slots_free(server)
        assert await figure(server, "rivulet_worker_restarts_total") == 0


async def begin(server: Running) -> ClientConnection:
    """A session that is ready."""
    socket = await connect(server.addresses.websocket, subprotocols=[Subprotocol("rivulet.v1")])
    await socket.send(start())
    await read_until(socket, "ready")
    return socket


async def raw_client(server: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A handshake by hand: nothing is read or answered unless the test does."""
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    raw.connect(("127.0.0.1", server.addresses.port))
    raw.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=raw, limit=1_024)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def masked(first: int, payload: bytes) -> bytes:
    """A client frame with an all-zero mask."""
    return bytes([first, 0xFE]) + struct.pack(">H", len(payload)) + bytes(4) + payload
