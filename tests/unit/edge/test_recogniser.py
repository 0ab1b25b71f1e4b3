"""A leg's audio on its way to a server: a chunk at a time, and never later for it."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clients.connection import Connection
from edge import recogniser
from edge.recogniser import LegAudio, Past, Recogniser, Start
from edge.ring import AudioRing
from edge.wire import Result
from server.wire.messages import Ack, Chunks

RATE, PACKET = 8_000, 160
CHUNKS = Chunks(first=765, beyond=26)


class Nobody:
    """Hears nothing."""

    def final(self, number: int, result: Result) -> None: ...
    def partial(self, result: Result) -> None: ...
    def progressed(self) -> None: ...


class Server:
    """Notes what a connection is told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.changed = asyncio.Event()

    def _note(self, what: object) -> None:
        self.told.append(what)
        self.changed.set()

    async def send(self, data: bytes) -> None:
        self._note(len(data) * 1000 // RATE)

    async def pause(self) -> None:
        self._note("pause")

    async def resume(self) -> None:
        self._note("resume")

    async def stop(self) -> None:
        self._note("stop")

    async def until(self, *told: object) -> None:
        """Wait until it was told exactly this."""
        async with asyncio.timeout(5):
            while self.told != list(told):
                assert self.told == list(told)[: len(self.told)]
                self.changed.clear()
                await self.changed.wait()


class Leg:
    """A leg whose audio goes to a server."""

    def __init__(self, past: Past | None = None, chunks: Chunks | None = CHUNKS) -> None:
        self.ring = AudioRing(sample_bytes=1, memory_bytes=1 << 20)
        audio = LegAudio(encoding="mulaw", rate=RATE)
        self.recogniser = Recogniser("", audio, self.ring, Nobody(), Start(past=past))
        self.server = Server()
        ready: Any = SimpleNamespace(chunk_ms=160, chunks=chunks)
        self.recogniser._align(ready, None if past else 0)
        connection = cast("Connection", self.server)
        self.task = asyncio.create_task(self.recogniser._send(connection, 0))

    async def hear(self, ms: int) -> None:
        """Take so much audio, packet by packet."""
        for _ in range(ms // 20):
            self.ring.append(PACKET, bytes(PACKET))
            self.recogniser.changed()
            for _ in range(5):
                await asyncio.sleep(0)  # the sender looks at each

    def decoded(self, ms: int) -> None:
        """Have the server say how far it is."""
        ack: Any = Ack(at=0, done=ms * RATE // 1000, durable=0)
        self.recogniser._hear(ack, 0)


async def test_packets_go_together_as_soon_as_the_server_can_decode_them() -> None:
    leg = Leg()
    await leg.hear(1_000)
    leg.task.cancel()
    assert leg.server.told == [100, 160, 160, 160, 160, 160]  # 95.6 ms are the first chunk


async def test_chunks_end_where_the_server_says_that_they_do() -> None:
    leg = Leg()
    await leg.hear(100)
    leg.decoded(40)  # it has skipped a part
    await leg.hear(200)
    leg.task.cancel()
    assert leg.server.told == [100, 120]


async def test_a_session_that_began_elsewhere_hears_each_packet_until_it_tells_where_it_is() -> (
    None
):
    leg = Leg(Past("token", 0, 0))
    await leg.hear(60)
    leg.decoded(20)
    await leg.hear(160)
    leg.task.cancel()
    assert leg.server.told == [20, 20, 20, 140]


async def test_a_server_that_tells_nothing_of_its_chunks_hears_each_packet() -> None:
    leg = Leg(chunks=None)
    await leg.hear(40)
    leg.decoded(20)
    await leg.hear(40)
    leg.task.cancel()
    assert leg.server.told == [20, 20, 20, 20]


async def test_what_makes_no_chunk_goes_before_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recogniser, "PAUSE_AFTER_S", 0.01)
    leg = Leg()
    await leg.hear(40)
    await leg.server.until(40, "pause")
    await leg.hear(60)
    await leg.server.until(40, "pause", "resume", 60)
    leg.task.cancel()


async def test_the_rest_goes_at_the_end() -> None:
    leg = Leg()
    await leg.hear(140)
    leg.ring.end()
    leg.recogniser.changed()
    await leg.task
    assert leg.server.told == [100, 40, "stop"]
