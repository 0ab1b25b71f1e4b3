"""RTP as ffmpeg sends it: a peer that nobody here wrote."""

import asyncio
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from asr.scripted import utter
from edge import g722
from edge.adapters.rtp import STATIC, codec_of
from edge.listeners import FeedConfig, Listeners
from tests.edge_rig import rig, sentences
from tests.io.serving import pcm

pytestmark = [
    pytest.mark.io,
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed"),
]


@pytest.mark.parametrize(
    ("rate", "codec", "kind"),
    [
        (8_000, "pcm_mulaw", 0),
        (8_000, "pcm_alaw", 8),
        (16_000, "pcm_s16be", 96),
        (16_000, "g722", 9),
    ],
)
async def test_a_file_that_ffmpeg_sends_becomes_its_words(
    tmp_path: Path, rate: int, codec: str, kind: int
) -> None:
    if codec == "g722" and not g722.is_available():
        pytest.skip("the package G722 is not installed")
    (text,) = sentences(1, words=4)
    quiet = np.zeros(rate * 48 // 50, np.float32)
    path = tmp_path / "said.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm(np.concatenate([utter(text, rate=rate), quiet])))
    async with rig() as r:
        codecs = {**STATIC, 96: codec_of(f"L16/{rate}")}
        config = FeedConfig(rtp_port=0, codecs=codecs, idle_s=1.5, window_s=0.2)
        async with Listeners(config, r.node, respond=lambda _: None).listening() as ports:
            options = ["-nostdin", "-v", "error", "-re", "-i", str(path), "-c:a", codec]
            target = ["-payload_type", str(kind), "-f", "rtp", f"rtp://127.0.0.1:{ports.rtp}"]
            sender = await asyncio.create_subprocess_exec(
                "ffmpeg", *options, *target, stdout=asyncio.subprocess.DEVNULL
            )
            assert await sender.wait() == 0
            await r.until(lambda: any(k == "closed" for _, k, _ in r.events) and not r.node.legs)
        assert " ".join(result.text for _, _, result in r.finals if result.text) == text
