"""G.722: what another encoder wrote comes back as the sound it was, and as words."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from asr.scripted import silence, utter
from edge import g722, wire
from edge.g722 import G722Decoder, G722Error
from edge.node import Caller
from edge.packets import CodecMissing, decoder_of
from tests.edge_rig import rig, sentences, words_of

RATE, UNIT, PACKET = 16_000, 320, 160
needs_package = pytest.mark.skipif(
    not g722.is_available(), reason="the package G722 is not installed"
)
needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg is not installed: another encoder"
)


def encoded(audio: np.ndarray, folder: Path) -> bytes:
    """G.722 as ffmpeg writes it."""
    source, target = folder / "in.raw", folder / "out.g722"
    source.write_bytes((audio * 32_767).astype("<i2").tobytes())
    given = ["-f", "s16le", "-ar", str(RATE), "-ac", "1", "-i", str(source)]
    made = ["-c:a", "g722", "-f", "g722", str(target)]
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *given, *made], check=True)
    return target.read_bytes()


def packets(data: bytes) -> list[bytes]:
    return [data[at : at + PACKET] for at in range(0, len(data) - PACKET + 1, PACKET)]


def sounds(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2").astype(np.float64) / 32_768


@needs_package
@needs_ffmpeg
def test_what_ffmpeg_encoded_comes_back_as_the_sound_it_was(tmp_path: Path) -> None:
    time = np.arange(2 * RATE) / RATE
    said = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 5_200 * time)
    decoder = G722Decoder()
    sent = packets(encoded(said, tmp_path))
    heard = sounds(b"".join(decoder.decode(packet, UNIT) for packet in sent))
    # both filter banks together delay by 22 samples
    wanted, got = said[RATE // 2 : RATE], heard[RATE // 2 + 22 : RATE + 22]
    noise = float(np.mean((got - wanted) ** 2))
    assert 10 * np.log10(float(np.mean(wanted**2)) / noise) > 20


@needs_package
@needs_ffmpeg
async def test_a_g722_leg_goes_up_as_it_came_and_becomes_its_words(tmp_path: Path) -> None:
    texts = sentences(2)
    audio = np.concatenate([part for text in texts for part in (utter(text), silence(960))])
    async with rig() as r:
        leg = r.node.open(Caller(encoding="g722", rate=RATE))
        data = encoded(audio, tmp_path)
        for packet in packets(data):
            leg.append(UNIT, packet)
        leg.end()
        assert await words_of(leg) == " ".join(texts)
        assert len(data) <= r.link.up.bytes < 1.3 * len(data)


@needs_package
def test_a_missing_packet_is_the_last_one_fading_and_then_silence() -> None:
    decoder = G722Decoder()
    decoder.decode(bytes(range(PACKET)), UNIT)
    once, again = sounds(decoder.conceal(2 * UNIT)), sounds(decoder.conceal(UNIT))
    assert np.abs(once[: UNIT // 2]).max() > 0
    assert not once[UNIT:].any() and not again.any()


def test_no_packet_and_one_that_fits_into_no_frame_are_named() -> None:
    assert g722.packet_samples(bytes(PACKET)) == UNIT
    assert g722.packet_samples(bytes(g722.MAX_PACKET_BYTES)) < wire.AHEAD
    for size in (0, g722.MAX_PACKET_BYTES + 1):
        with pytest.raises(G722Error, match="no packet"):
            g722.packet_samples(bytes(size))


def test_a_machine_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "G722", None)
    assert not g722.is_available()
    with pytest.raises(CodecMissing, match="pip install"):
        decoder_of("g722", RATE)
    assert decoder_of("mulaw", 8_000) is None
