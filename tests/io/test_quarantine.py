"""One client's audio that ends engine processes: its session is ended by name, the others live."""

import asyncio

import numpy as np
import pytest

from asr.interface import Emission, Samples
from asr.scripted import ScriptedEngine
from server.app import running
from server.worker.thread import ThreadWorker
from tests.io.serving import (
    all_slots_free,
    config,
    dial,
    read_until,
    rest,
    speech,
    start,
    transcript,
)

pytestmark = pytest.mark.io

TEXT = "turn on the kitchen light please thank you"
POISON = np.full(4_000, 32_000, "<i2").tobytes()
"""Louder than any word of the script."""


class Mortal(ScriptedEngine):
    """Dies in the step behind very loud audio."""

    is_dying = False

    def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
        """Hear."""
        self.is_dying |= bool(np.max(np.abs(samples), initial=0) > 0.95)
        super().feed(stream, samples, now=now)

    def step(self) -> list[Emission]:
        """Step or die."""
        if self.is_dying:
            raise MemoryError
        return super().step()


async def test_audio_that_kills_engines_ends_its_session_by_name_and_no_other() -> None:
    setup, launched = config(workers=2), list[int]()

    def launch(number: int) -> ThreadWorker:
        launched.append(number)
        return ThreadWorker(lambda: Mortal(slots=setup.slots))

    said = speech(TEXT)
    async with running(setup, launch=launch) as server:
        await server.manager.ready()
        async with dial(server) as bad, dial(server) as first, dial(server) as second:
            for socket in (bad, first, second):
                await socket.send(start())
                await read_until(socket, "ready")
            for socket in (first, second):
                await socket.send(said[:30_000])
                await read_until(socket, "partial")
            await bad.send(POISON)
            error = (await rest(bad))[-1]
            assert (error["code"], bad.close_code) == ("quarantined", 4400)
            assert len(launched) <= 2 + 3  # it was there, was replayed, was tried alone
            for socket in (first, second):
                for begin in range(30_000, len(said), 32_000):
                    await socket.send(said[begin : begin + 32_000])
                await socket.send('{"type":"stop"}')
            async with asyncio.timeout(30):
                for socket in (first, second):
                    assert transcript(await rest(socket)) == TEXT
        await all_slots_free(server)
