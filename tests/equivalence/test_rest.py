"""Sessions at rest on the embedded model: what is said behind a silence does not change."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.checkpoint import DEFAULT_MODEL, embedded_models, load_checkpoint
from asr.checkpoint.spec import Checkpoint
from asr.engine import Engine, EngineConfig
from asr.events import Final
from asr.interface import Samples
from server.worker import link
from tests.unit.server.house import Client, House, opening

if DEFAULT_MODEL not in embedded_models():
    pytest.skip("the embedded model is not there", allow_module_level=True)

CLIPS = sorted((Path(__file__).parents[2] / "samples").glob("*.ogg"))[:3]
PACKET = 3_200


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint()


def clips() -> Iterator[Samples]:
    for path in CLIPS:
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == 16_000
        yield samples


def zeros(seconds: float) -> Samples:
    return np.zeros(round(seconds * 16_000), np.float32)


def hiss(seconds: float) -> Samples:
    noise = np.random.default_rng(1).standard_normal(round(seconds * 16_000))
    return (noise * 10 ** (-62 / 20)).astype(np.float32)


async def listen(
    checkpoint: Checkpoint, audio: Samples, *, rests: bool, kills: bool = False
) -> tuple[list[Final], list[int]]:
    """Return the finals, and the memory kept of the session whenever it rested."""

    def make(slots: int) -> Engine:
        return Engine(checkpoint, EngineConfig(slots=slots, precision="fp32", lm="none"))

    house = House(slots=2, rest_after_s=3.0 if rests else 0.0, make=make)
    client, kept = Client(), list[int]()
    await house.open()
    house.keeper.attach(opening(1), client)
    house.run()
    for number in range(len(audio) // PACKET):
        packet = audio[number * PACKET : (number + 1) * PACKET].tobytes()
        house.keeper.send(link.Audio(1, packet, 0.0), 1)
        if number % 4 == 3:
            await house.settle()
            kept += house.keeper.resting
        if kills and number % 50 == 49:
            house.living[0].kill()
            await house.settle()
    house.keeper.send(link.Stop(1), 1)
    await house.settle()
    return client.finals(), kept


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("kills", [False, True])
def test_real_speech_behind_silence_and_a_quiet_room_is_heard_the_same(
    checkpoint: Checkpoint, *, kills: bool
) -> None:
    first, second, third = clips()
    parts = [first, zeros(75), second, hiss(25), third, zeros(8), first, zeros(2)]
    audio = np.concatenate(parts)
    expected, _ = asyncio.run(listen(checkpoint, audio, rests=False))
    found, kept = asyncio.run(listen(checkpoint, audio, rests=True, kills=kills))
    assert [(f.text, f.start_ms, f.end_ms, f.cause) for f in found] == [
        (f.text, f.start_ms, f.end_ms, f.cause) for f in expected
    ]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.confidence == pytest.approx(theirs.confidence, abs=2e-3)
    assert len(expected) >= 4
    assert len(kept) * 4 * PACKET > 0.6 * len(zeros(75)) + len(hiss(25)) / 2
    print(f"kept of a session at rest: {min(kept)} to {max(kept)} bytes")  # noqa: T201
