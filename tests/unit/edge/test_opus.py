"""Opus: packets of the system's encoder come back as the sound they were."""

import numpy as np
import pytest

from edge import opus
from edge.node import Caller
from edge.opus import OpusDecoder, OpusError
from tests.edge_rig import rig, words_of
from tests.opus_source import RATE_HZ, UNIT, packets

RATE = RATE_HZ
pytestmark = pytest.mark.skipif(not opus.is_available(), reason="libopus is not installed")


def tone(seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (np.sin(2 * np.pi * 440 * time) * 8_000).astype(np.int16)


def test_a_tone_comes_back_as_that_tone() -> None:
    decoder = OpusDecoder(RATE)
    heard = b"".join(decoder.decode(packet, UNIT) for packet in packets(tone(1.0)))
    spectrum = np.abs(np.fft.rfft(np.frombuffer(heard, "<i2")[RATE // 2 :].astype(float)))
    assert len(heard) == 2 * RATE
    assert abs(int(spectrum.argmax()) * 2 - 440) <= 4


def test_a_packet_says_its_length_and_rubbish_is_concealed() -> None:
    packet = packets(tone(0.02))[0]
    assert opus.packet_samples(packet, RATE) == UNIT
    with pytest.raises(OpusError):
        opus.packet_samples(b"", RATE)
    assert len(OpusDecoder(RATE).decode(b"\xff\xff\xff", UNIT)) == 2 * UNIT
    with pytest.raises(OpusError, match="refuses"):
        OpusDecoder(11_025)


async def test_an_opus_leg_goes_up_as_it_came_and_is_decoded_at_the_core() -> None:
    async with rig() as r:
        leg = r.node.open(Caller(encoding="opus", rate=RATE))
        sent = packets(tone(2.0))
        for number, packet in enumerate(sent):
            leg.append(UNIT, None if number == 50 else packet)
        leg.end()
        assert await words_of(leg) == ""
        assert leg.leg.covered == 2 * RATE or leg.leg.ring.head == 2 * RATE
        assert r.link.up.bytes < 2 * RATE * 2 * 0.2
