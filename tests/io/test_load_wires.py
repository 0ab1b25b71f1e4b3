"""Every wire of the load client against a real server of ours: two streams, all words."""

import asyncio

import numpy as np
import pytest

from asr.scripted import silence, utter
from clients.load.caller import Caller, Target, check
from clients.load.plan import Call
from clients.load.tally import Tally
from clients.load.wires import WIRES
from server.app import Running
from tests.io.serving import all_slots_free, pcm, serving

pytestmark = pytest.mark.io

SAID = ("turn on the light please", "good day")
PORTS = {"vosk": "vosk", "sherpa-onnx": "sherpa"}
STRANGERS = {"nemo-speech"}
"""Wires that our server does not speak."""


def url(server: Running, wire: str) -> str:
    port = server.addresses.port
    if wire in PORTS:
        port = server.gateway.ports.port_of(PORTS[wire])
    return f"ws://{server.addresses.host}:{port}{WIRES[wire].path}"


async def call(target: Target, latency: str) -> Tally:
    """A call whose audio is due at once."""
    audio = pcm(np.concatenate([part for text in SAID for part in (utter(text), silence(880))]))
    seconds = len(audio) / 32_000
    tally = Tally()
    plan = Call(-seconds, 0, len(audio) // 2, True, 40, latency)
    await Caller(target, plan, audio, asyncio.get_running_loop().time(), tally).run()
    return tally


@pytest.mark.parametrize("wire", sorted(set(WIRES) - STRANGERS))
async def test_two_streams_hear_all_their_words(wire: str) -> None:
    latency = "low" if wire == "rivulet" else "560"
    async with serving(vosk_port=0, sherpa_port=0) as server:
        target = Target(url=url(server, wire), wire=wire)
        await check(target, latency)
        tallies = await asyncio.gather(*(call(target, latency) for _ in range(2)))
        await all_slots_free(server)
    for tally in tallies:
        (one,) = tally.calls
        assert (one.failure, one.text) == ("", " ".join(SAID))
        assert len(tally.ends[latency].values) == 1
