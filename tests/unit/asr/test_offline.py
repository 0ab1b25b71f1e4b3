"""Whole files: what recorders write is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.offline import ManifestError, read_audio, read_manifest


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 88_200, 96_000, 192_000])
def test_a_file_of_any_usual_rate_keeps_its_sound(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "x.wav"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    soundfile.write(path, np.stack([tone, tone], axis=1), rate, subtype="PCM_24")
    heard = read_audio(path)
    assert len(heard) == 16_000
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    # a mean of neighbours stands half a sample of the recorder's later
    assert np.abs(heard - expected)[200:-200].max() < 0.02


def test_what_is_no_number_is_silence(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.array([0.5, np.nan, np.inf, -np.inf]), 16_000, subtype="FLOAT")
    assert read_audio(path).tolist() == [0.5, 0.0, 1.0, -1.0]


def test_a_rate_that_cannot_be_is_told_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "slow.wav"
    soundfile.write(path, np.zeros(6_000), 6_000)
    with pytest.raises(ManifestError, match=r"slow\.wav: rate must be"):
        read_audio(path)


def test_a_line_of_a_manifest_with_an_offset_is_that_part(tmp_path: Path) -> None:
    """It was scored against the whole recording."""
    soundfile.write(tmp_path / "a.wav", np.repeat([0.25, -0.5], 8_000), 8_000, subtype="PCM_16")
    row = {"audio_filepath": "a.wav", "text": "a", "offset": 1, "duration": 0.5}
    (tmp_path / "m.jsonl").write_text("\ufeff" + json.dumps(row) + "\r\n\r\n")
    (one,) = read_manifest(tmp_path / "m.jsonl")
    samples = one.samples()
    assert len(samples) == 8_000
    assert samples[100:-100].max() < -0.4
