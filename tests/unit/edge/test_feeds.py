"""A feed whose node has a voice gate: what the leg holds stays where the call's clock says."""

import numpy as np
import pytest

pytest.importorskip("webrtcvad")

from edge.adapters.events import Audio, Ended, Missing, Started
from edge.feeds import Feed
from edge.g711 import encode
from edge.node import Node, NodeConfig

RATE, PACKET = 8_000, 160


def call(*, voice_gate: bool, behind: int) -> tuple[int, int]:
    """Give two seconds of silence, 20 ms a packet, the clock some samples ahead of the audio.

    Returns the samples of the leg's time line and how many of them are audio.
    """
    feed = Feed(Node(NodeConfig(name="n", voice_gate=voice_gate), uplink=None))
    feed.take([Started("call", "mulaw", RATE, ("caller",))])
    quiet = encode(np.zeros(PACKET, np.int16), "mulaw")
    for at in range(0, 2 * RATE, PACKET):
        feed.take([Audio(quiet, "caller", at + behind)])
    feed.take([Missing(400), Ended()])
    ring = feed.legs["caller"].leg.ring
    audio, at = 0, 0
    while (span := ring.read(at, RATE)) is not None:
        audio += 0 if span.data is None else span.samples
        at = span.end
    return ring.head, audio


@pytest.mark.parametrize("behind", [0, RATE // 10, RATE])
def test_a_gate_takes_bytes_and_no_time(behind: int) -> None:
    whole, audio = call(voice_gate=False, behind=behind)
    gated, sent = call(voice_gate=True, behind=behind)
    assert gated == whole
    assert sent == 0
    assert audio == 2 * RATE
