"""Posted files: what they decode to, and what is refused."""

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from server import media
from server.wire.errors import MessageTooBig, UnsupportedAudio

TONE = (0.5 * np.sin(np.arange(24_000) / 20)).astype(np.float32)


def sound(samples: np.ndarray = TONE, rate: int = 16_000, **form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **({"format": "WAV", "subtype": "PCM_16"} | form))
    return file.getvalue()


def test_16_bit_samples_come_back_as_they_were() -> None:
    samples = np.arange(-32_768, 32_768, 3, dtype=np.int16)
    heard = media.decode(sound(samples), "mix")
    assert heard.samples == samples.astype("<i2").tobytes()
    assert heard.duration_s == pytest.approx(len(samples) / 16_000)


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3"])
def test_other_formats_are_read(form: str) -> None:
    heard = media.decode(sound(format=form, subtype=None), "mix")  # type: ignore[arg-type]
    assert heard.audio.rate == 16_000
    assert heard.duration_s == pytest.approx(1.5, abs=0.1)


def test_channels_are_mixed_or_kept() -> None:
    stereo = np.stack([TONE, -TONE], axis=1)
    assert not np.frombuffer(media.decode(sound(stereo), "mix").samples, "<i2").any()
    kept = media.decode(sound(stereo), "keep")
    assert (kept.audio.channels, kept.duration_s) == (2, 1.5)


@pytest.mark.parametrize(("rate", "heard"), [(96_000, 48_000), (44_100, 44_100), (88_200, 44_100)])
def test_rates_above_our_own_come_down_by_a_whole_factor(rate: int, heard: int) -> None:
    assert media.decode(sound(rate=rate), "mix").audio.rate == heard


@pytest.mark.parametrize(
    "bad", [b"", b"RIFF", b"nonsense" * 99, sound(TONE[:0]), sound(rate=4_000)]
)
def test_what_is_no_recording_is_refused(bad: bytes) -> None:
    with pytest.raises(UnsupportedAudio):
        media.decode(bad, "mix")


def test_a_recording_that_decodes_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_DECODED_BYTES", 1_000)
    with pytest.raises(MessageTooBig):
        media.decode(sound(), "mix")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("name", ["a.webm", "a.m4a"])
def test_what_browsers_record_is_read_where_ffmpeg_is(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    made = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", "pipe:0", path], input=sound(), check=False
    )
    if made.returncode:
        pytest.skip("this ffmpeg cannot write the format")
    assert media.decode(path.read_bytes(), "mix").duration_s == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("head", [b"\x1a\x45\xdf\xa3", b"\0\0\0\x20ftypM4A "])
def test_a_broken_container_is_refused(head: bytes) -> None:
    with pytest.raises(UnsupportedAudio):
        media.decode(head + b"nonsense" * 99, "mix")


def test_without_ffmpeg_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UnsupportedAudio, match="ffmpeg"):
        media.decode(b"\x1a\x45\xdf\xa3", "mix")
