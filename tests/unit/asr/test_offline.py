"""Whole files: what recorders write is read."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.offline import ManifestError, read_audio


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
