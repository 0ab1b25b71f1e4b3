"""Tones as words: a language a tiny model learns in seconds."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
soundfile = pytest.importorskip("soundfile")
CONFIGS = Path(__file__).parents[4] / "asr" / "training" / "configs"
TONES = {"low": 400.0, "mid": 1_000.0, "high": 2_500.0}
RATE, WORD_S, GAP_S = 16_000, 0.4, 0.16


def _clip(words: list[str]) -> tuple[Any, list[list[float]]]:
    parts, times, at = [np.zeros(int(GAP_S * RATE))], [], GAP_S
    for word in words:
        t = np.arange(int(WORD_S * RATE)) / RATE
        parts += [0.3 * np.sin(2 * math.pi * TONES[word] * t), np.zeros(int(GAP_S * RATE))]
        times.append([at, at + WORD_S])
        at += WORD_S + GAP_S
    return np.concatenate(parts), times


def _write(folder: Path, name: str, count: int, rng: random.Random) -> None:
    rows = []
    for i in range(count):
        words = [rng.choice(sorted(TONES)) for _ in range(rng.randint(2, 4))]
        samples, times = _clip(words)
        file = f"{name}-{i}.wav"
        soundfile.write(folder / file, samples, RATE, subtype="PCM_16")
        rows.append(
            {"audio_filepath": file, "text": " ".join(words), "words": times, "source": name}
        )
    soundfile.write(folder / f"{name}-nobody.wav", np.zeros(RATE), RATE, subtype="PCM_16")
    rows.append({"audio_filepath": f"{name}-nobody.wav", "text": "", "source": name})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    """The tiny config beside its tones."""
    folder = tmp_path / "tones"
    folder.mkdir()
    rng = random.Random(3)
    _write(folder, "manifest", 40, rng)
    _write(folder, "dev", 6, rng)
    return Path(shutil.copy(CONFIGS / "tiny.toml", tmp_path))
