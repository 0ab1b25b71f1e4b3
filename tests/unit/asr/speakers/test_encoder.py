"""The voice encoder: its front end, and voices of real people where both are at hand."""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.interface import EngineError, Samples
from asr.offline import read_audio
from asr.speakers import encoder
from asr.speakers.encoder import (
    FRAME,
    LEAST_DB,
    PART_FRAMES,
    load_voice_encoder,
    louder,
    mel,
    parts,
    voiced,
    weights_path,
)

DEV = Path(__file__).resolve().parents[5] / "shared" / "speech" / "dev"
needs_weights = pytest.mark.skipif(
    weights_path() is None, reason="pip install --no-deps resemblyzer==0.1.4"
)


def noise(seconds: float, level: float = 0.1) -> Samples:
    generator = np.random.default_rng(0)
    return (level * generator.standard_normal(round(16_000 * seconds))).astype(np.float32)


def test_the_bands_are_librosas() -> None:
    librosa: Any = pytest.importorskip("librosa", reason="librosa comes with NeMo")
    audio = noise(1.0)
    theirs = librosa.feature.melspectrogram(
        y=audio, sr=16_000, n_fft=400, hop_length=160, n_mels=40
    )
    np.testing.assert_allclose(mel(audio).numpy(), theirs.T, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frames", [0, 1, 159, 160, 161, 240, 241, 1000])
def test_parts_cover_all_frames(frames: int) -> None:
    numbered = torch.arange(1.0, frames + 1)[:, None].expand(frames, 2)
    cut = parts(numbered)
    assert cut.shape[1:] == (PART_FRAMES, 2)
    assert set(cut[..., 0].flatten().tolist()) - {0.0} == set(range(1, frames + 1))


def test_quiet_audio_is_raised_and_loud_audio_is_left() -> None:
    def level_db(audio: Samples) -> float:
        return float(10 * np.log10(np.mean(np.square(audio, dtype=np.float64))))

    assert level_db(louder(noise(1.0, 0.001))) == pytest.approx(LEAST_DB, abs=0.1)
    assert np.array_equal(louder(noise(1.0, 0.5)), noise(1.0, 0.5))
    assert len(louder(noise(0.0))) == 0


def test_silence_is_no_voice() -> None:
    audio = np.concatenate([noise(1.0), noise(2.0, 1e-5), noise(1.0)])
    assert len(voiced(audio)) == pytest.approx(32_000, abs=8 * FRAME)
    assert len(voiced(noise(0.0))) == len(voiced(noise(0.01))) == 0


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "PACKAGE", "no-such-package-of-voices")
    with pytest.raises(EngineError, match=r"pip install --no-deps resemblyzer==0\.1\.4"):
        load_voice_encoder()


@needs_weights
def test_a_voice_is_a_unit_vector_of_any_length_of_audio() -> None:
    embed = load_voice_encoder().embed
    for seconds in (0.0, 0.005, 0.5, 1.6, 5.0):
        voice = embed(noise(seconds))
        assert voice.shape == (256,)
        assert np.linalg.norm(voice) == pytest.approx(1.0, abs=1e-4)
    assert np.array_equal(embed(noise(3.0)), embed(noise(3.0)))


@needs_weights
def test_the_package_itself_is_not_imported() -> None:
    assert metadata.version(encoder.PACKAGE)
    load_voice_encoder()
    assert "resemblyzer" not in sys.modules


@needs_weights
@pytest.mark.skipif(not DEV.exists(), reason="no shared speech beside this checkout")
def test_the_same_person_is_more_alike_than_another() -> None:
    embed = load_voice_encoder().embed
    rows = [json.loads(line) for line in (DEV / "manifest.jsonl").read_text().splitlines()]
    halves = {}
    for name in ("ls-4859", "ls-307", "ls-7800"):
        path = next(row["audio_filepath"] for row in rows if row["speaker"] == name)
        audio = read_audio(DEV / path)
        middle = len(audio) // 2
        halves[name] = embed(voiced(audio[:middle])), embed(voiced(audio[middle:]))
    for name, (first, second) in halves.items():
        others = [voice for other, pair in halves.items() if other != name for voice in pair]
        assert first @ second > max(float(first @ voice) for voice in others) + 0.1
