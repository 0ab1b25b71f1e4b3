"""The embedded model behind a cut: the transcript is the one of the uncut run."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge.wire import Policy
from tests.edge_rig import PACKET, feed, mulaw, rig

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
