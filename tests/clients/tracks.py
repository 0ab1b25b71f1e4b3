"""What four people say in a meeting: synthetic voices, and real ones where the shared speech is.

Does: clips -> one WAV a participant, with pauses drawn from a seed and some overlap.
Does not know: servers, pages.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
REAL = ROOT.parent / "shared" / "speech" / "eval" / "eval_librispeech_clean"
RATE_HZ = 16_000
PAUSE_S = (1.5, 4.0)
"""Between two clips of one person: the others speak in it, sometimes at once."""
LAST_QUIET_S = 1.0


@dataclass(frozen=True, slots=True)
class Track:
    """One participant's recording."""

    name: str
    path: Path
    is_real: bool


def tracks(folder: Path, seconds: float) -> list[Track]:
    """Write the recordings of four people; two are real where there are recordings."""
    clips = _synthetic()
    real = _real()
    chosen = [*list(clips.items())[: 4 - len(real)], *real.items()]
    found = []
    for number, (name, audio) in enumerate(chosen):
        path = folder / f"{name}.wav"
        track = compose(audio, seconds, begin_s=0.5 + 2.5 * number, seed=number)
        soundfile.write(path, track, RATE_HZ, subtype="PCM_16")
        found.append(Track(name, path, name in real))
    return found


def compose(
    clips: Sequence[np.ndarray], seconds: float, *, begin_s: float, seed: int
) -> np.ndarray:
    """Say the clips one after another, and again, while there is time for a whole one."""
    dice, parts, number = random.Random(seed), [_quiet(begin_s)], 0
    while (length := sum(map(len, parts))) < seconds * RATE_HZ:
        clip = clips[number % len(clips)]
        if number and length + len(clip) > seconds * RATE_HZ:
            break  # nobody is cut off
        parts += [clip, _quiet(dice.uniform(*PAUSE_S))]
        number += 1
    return np.concatenate([*parts, _quiet(LAST_QUIET_S)])


def _synthetic() -> dict[str, list[np.ndarray]]:
    """Return clips of the samples by voice, named as people."""
    rows = [json.loads(line) for line in (SAMPLES / "manifest.jsonl").read_text().splitlines()]
    voices = dict[str, list[np.ndarray]]()
    for row in rows:
        audio, rate = soundfile.read(SAMPLES / row["audio_filepath"], dtype="float32")
        if row["condition"] == "clean" and rate == RATE_HZ and audio.ndim == 1:
            voices.setdefault(row["speaker"], []).append(audio)
    order = sorted(voices, key=lambda voice: (len(voices[voice]) == 1, voice))
    return dict(zip(("Ann", "Ben", "Eve", "Finn"), (voices[v] for v in order), strict=False))


def _real() -> dict[str, list[np.ndarray]]:
    """Return recordings of two people of the evaluation set; none where it is not."""
    manifest = REAL / "manifest.jsonl"
    if not manifest.exists():
        return {}
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    speakers = sorted({row["speaker"] for row in rows})
    people = {}
    for name, speaker in zip(("Cleo", "Dan"), speakers[::20], strict=False):
        paths = [REAL / row["audio_filepath"] for row in rows if row["speaker"] == speaker]
        people[name] = [soundfile.read(path, dtype="float32")[0] for path in paths]
    return people


def _quiet(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE_HZ), dtype=np.float32)
