"""The embedded model behind cuts and moves: the transcript is the one of the quiet run."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge.wire import Policy
from tests.edge_rig import PACKET, EdgeNode, another_edge_node, feed, heard, mulaw, rig

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
pytestmark = [pytest.mark.io, pytest.mark.model, pytest.mark.slow]


def call() -> bytes:
    """Half a minute of the samples as mu-law at 8 kHz."""
    parts, seconds = [], 0.0
    for path in sorted(SAMPLES.glob("*.ogg")) + sorted(SAMPLES.glob("*.flac")):
        audio, rate = soundfile.read(path, dtype="float32")
        if rate == 16_000 and audio.ndim == 1 and seconds < 30:
            even = audio[: len(audio) // 2 * 2].reshape(-1, 2).mean(axis=1)
            parts.append(even)
            seconds += len(even) / 8_000
    if not parts:
        pytest.skip("no sample at 16 kHz")
    audio = mulaw(np.concatenate(parts))
    return audio[: len(audio) // PACKET * PACKET]


async def transcript(audio: bytes, cuts: list[int], policy: Policy) -> str:
    async with rig(policy, has_model=True, slots=8) as r:
        leg, at = r.open(), 0
        for cut in cuts:
            feed(leg, audio[at:cut])
            at = cut
            await r.until(lambda at=cut: leg.leg.acked >= at)  # type: ignore[misc]
            r.link.cut()
            await r.until(lambda: not r.uplink.state.is_up)
            feed(leg, audio[at : at + 10 * PACKET])
            at += 10 * PACKET
            r.link.heal()
            await r.until(lambda: r.uplink.state.is_up)
        feed(leg, audio[at:])
        leg.end()
        await leg.is_over.wait()
        return leg.leg.transcript.final_text()


@pytest.mark.parametrize("policy", ["core", "core+local"])
def test_words_of_the_model_do_not_depend_on_cuts(policy: Policy) -> None:
    audio = call()
    third = len(audio) // 3 // PACKET * PACKET
    whole = asyncio.run(transcript(audio, [], "core"))
    cut = asyncio.run(transcript(audio, [third, 2 * third], policy))
    assert whole and cut == whole


async def moved_transcript(audio: bytes, target: str) -> str:
    """Recognise on a node; a third of the way in, and again at two, the session moves."""
    async with (
        rig("edge", has_model=True, is_apart=True, slots=8) as r,
        another_edge_node(r, "n2", has_model=True) as second,
    ):
        nodes = [second, EdgeNode(r.node, r.moves, r.uplink)]
        leg, third = r.open(), len(audio) // 3 // PACKET * PACKET
        for number in range(2):
            feed(leg, audio[leg.leg.ring.head : (number + 1) * third])
            await heard(leg, leg.leg.ring.head - 16_000)
            await r.until(lambda: r.uplink.state.is_up and bool(r.core.legs))
            if target == "core":
                await r.moves.to_core(leg)
                break
            leg = await nodes[number].fetch(leg)
        feed(leg, audio[leg.leg.ring.head :])
        leg.end()
        await leg.is_over.wait()
        return leg.leg.transcript.final_text()


@pytest.mark.parametrize("target", ["node", "core"])
def test_words_of_the_model_do_not_depend_on_moves(target: str) -> None:
    audio = call()
    whole = asyncio.run(transcript(audio, [], "core"))
    assert whole and asyncio.run(moved_transcript(audio, target)) == whole
