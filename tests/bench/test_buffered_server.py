"""The server around the buffered pipeline, with a pipeline that says what it was given."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.bench.buffered_server import Batcher, Piece, converse

pytestmark = pytest.mark.io

CHUNK = 8_960
COMMIT = json.dumps({"type": "input_audio_buffer.commit"})
DELTA = "conversation.item.input_audio_transcription.delta"


class Scripted:
    """Names the first sample of each piece; a step waits while the gate is shut."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        self.texts: dict[int, str] = {}
        self.forgotten: list[int] = []
        self.began = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def step(self, pieces: Sequence[Piece]) -> Sequence[str]:
        self.steps.append([piece.stream for piece in pieces])
        self.began.set()
        assert self.gate.wait(10)
        for piece in pieces:
            assert piece.is_first == (piece.stream not in self.texts)
            assert len(piece.samples) + (piece.lacking or 0) == CHUNK
            said = f"{32_768 * piece.samples[0]:.0f}{'' if piece.lacking is None else '.'}"
            self.texts[piece.stream] = f"{self.texts.get(piece.stream, '')} {said}".strip()
        return [self.texts[piece.stream] for piece in pieces]

    def forget(self, stream: int) -> None:
        self.forgotten.append(stream)


@contextlib.asynccontextmanager
async def stepping(pipeline: Scripted, most: int = 32) -> AsyncIterator[Batcher]:
    """A batcher whose loop runs."""
    batcher = Batcher(pipeline, CHUNK, most)
    loop = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        pipeline.gate.set()
        loop.cancel()
        await asyncio.wait([loop])


@contextlib.asynccontextmanager
async def listening(pipeline: Scripted) -> AsyncIterator[str]:
    async with stepping(pipeline) as batcher:

        async def answer(socket: ServerConnection) -> None:
            await converse(batcher, socket)

        async with serve(answer, "127.0.0.1", 0, compression=None) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def said(first: int, samples: int = CHUNK) -> bytes:
    """Audio of one value."""
    return first.to_bytes(2, "little") * samples


async def heard(socket: ClientConnection) -> list[dict[str, Any]]:
    """Everything up to the last word."""
    events = []
    async for message in socket:
        events.append(json.loads(message))
        if events[-1]["type"] == "input_audio_buffer.committed":
            break
    return events


async def test_each_chunk_of_each_stream_is_answered_once_and_in_order() -> None:
    pipeline = Scripted()
    async with listening(pipeline) as url, connect(url) as one, connect(url) as two:
        for number in range(3):
            for socket, first in ((one, 10), (two, 20)):
                await socket.send(said(first + number))
        await one.send(said(13, 100))
        for socket in (one, two):
            await socket.send(COMMIT)
        of_one, of_two = await heard(one), await heard(two)
    deltas = [event for event in of_one if event["type"] == DELTA]
    assert [event["audio_processed"] for event in deltas] == [0.56, 1.12, 1.68]
    assert "".join(event["delta"] for event in deltas) == "10 11 12"
    assert of_one[-2]["transcript"] == "10 11 12 13."
    assert of_two[-2]["transcript"] in ("20 21 22", "20 21 22.")


async def test_what_waits_goes_together_a_chunk_of_each_and_who_waits_longest_first() -> None:
    pipeline = Scripted()
    pipeline.gate.clear()
    async with stepping(pipeline, most=2) as batcher:
        first, *others = (batcher.open() for _ in range(3))
        batcher.hear(first, said(1, 2 * CHUNK))
        assert await asyncio.to_thread(pipeline.began.wait, 10)
        for stream in others:
            batcher.hear(stream, said(2))
        short = batcher.open()
        batcher.hear(short, said(3, CHUNK - 1))
        pipeline.gate.set()
        for stream in (first, first, *others):
            await stream.answers.get()
    assert pipeline.steps == [[0], [1, 2], [0]]
    assert short.answers.empty()


@pytest.mark.parametrize("nonsense", ["{", "[]", json.dumps({"type": "sing"}), b"odd"])
async def test_a_bad_connection_ends_alone(nonsense: str | bytes) -> None:
    pipeline = Scripted()
    async with listening(pipeline) as url, connect(url) as good, connect(url) as bad:
        await good.send(said(1))
        await bad.send(said(2))
        await bad.send(nonsense)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await bad.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1007
        await good.send(said(3))
        await good.send(COMMIT)
        events = await heard(good)
    assert events[-2]["transcript"] in ("1 3", "1 3.")


async def test_audio_of_who_hung_up_is_never_stepped() -> None:
    pipeline = Scripted()
    pipeline.gate.clear()
    async with stepping(pipeline) as batcher:
        gone, stays = batcher.open(), batcher.open()
        batcher.hear(gone, said(1, 5 * CHUNK))
        assert await asyncio.to_thread(pipeline.began.wait, 10)
        batcher.leave(gone)
        batcher.hear(stays, said(2))
        pipeline.gate.set()
        await stays.answers.get()
    assert pipeline.steps == [[0], [1]]
    assert pipeline.forgotten == [0]
