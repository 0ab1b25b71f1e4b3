"""States of a teacher's encoder, heard once and kept: targets for every frame of the student.

Does: Whisper's encoder over the clips of a prepared run (``python -m asr.training.teacher RUN
WHISPER``; needs faster-whisper), and the targets of a batch.
Does not know: the student, losses, where Whisper's files come from.

Whisper speaks at 50 Hz; pairs are averaged, each dimension is standardised and kept in eight bits:
46 MB an audio hour. Transcripts say which words there are; these say, every 40 ms, how they sound.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.training.config import BadConfig

FILE, INDEX, PCM = "teacher.i8", "index.jsonl", "pcm.i16"
SIZE = 512
HOP = 640
"""Samples a kept state stands for: 40 ms, half an encoder frame."""
A_FRAME = 2
LEVELS = 30.0
"""Steps a standard deviation."""
LATE = A_FRAME
"""The student answers one frame later: without look-ahead it has heard no more by then."""
RATE, PAD, LONGEST_S, GROUP_S, FOR_SCALE = 16_000, 8_000, 30, 30, 60
_logger = logging.getLogger("rivulet.training")


def rows_of(length: int) -> int:
    """How many states are kept of a clip of so many samples."""
    return -(-length // HOP)


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip as the student hears it: where its states begin, how many, how much it is sped up."""

    first: int
    rows: int
    speed: float


class Teacher:
    """The kept states of a run."""

    def __init__(self, run: Path) -> None:
        if not (run / FILE).exists():
            raise BadConfig(
                f"{run} has no states of a teacher: python -m asr.training.teacher {run} WHISPER"
            )
        self._rows = np.memmap(run / FILE, np.int8, "r").reshape(-1, SIZE)

    def targets(self, clips: Sequence[Heard], steps: int) -> tuple[Tensor, Tensor]:
        """[B, steps, 2 * 512] standardised states, and which of [B, steps] count.

        None count of a clip that came to the run after the teacher had listened.
        """
        values = torch.zeros(len(clips), steps * A_FRAME, SIZE)
        counts = torch.zeros(len(clips), steps * A_FRAME, dtype=torch.bool)
        for i, clip in enumerate(clips):
            if clip.first + clip.rows > len(self._rows):
                continue
            size = min(int(clip.rows / clip.speed), steps * A_FRAME - LATE)
            at = np.minimum((np.arange(size) * clip.speed).astype(np.int64), clip.rows - 1)
            kept = self._rows[clip.first : clip.first + clip.rows][at]
            values[i, LATE : LATE + size] = torch.from_numpy(kept.astype(np.float32) / LEVELS)
            counts[i, LATE : LATE + size] = True
        inside = counts.view(len(clips), steps, A_FRAME).all(-1)
        return values.view(len(clips), steps, A_FRAME * SIZE), inside


def listen(run: Path, whisper: Path) -> None:
    """Write the states of every training clip of a prepared run."""
    import ctranslate2  # type: ignore[import-not-found, unused-ignore]

    clips = [json.loads(line) for line in (run / INDEX).read_text().splitlines()]
    ends = np.cumsum([rows_of(c["length"]) for c in clips])
    ears = _Ears(ctranslate2.models.Whisper(str(whisper), compute_type="int8"), run, clips)
    wanted = [i for i, c in enumerate(clips) if c["split"] != "dev"]
    mean, deviation = ears.scale(wanted)
    out = np.memmap(run / FILE, np.int8, "w+", shape=(int(ends[-1]), SIZE))
    for done, group in enumerate(ears.groups(wanted)):
        scaled = (ears.states(group) - mean) / deviation * LEVELS
        for i, states in zip(group, np.clip(np.round(scaled), -127, 127), strict=True):
            rows = min(rows_of(clips[i]["length"]), len(states))
            first = int(ends[i]) - rows_of(clips[i]["length"])
            out[first : first + rows] = states[:rows]
        if done % 50 == 0:
            _logger.info("%d groups heard", done)
    out.flush()


class _Ears:
    """Whisper's encoder over clips of a run."""

    def __init__(self, model: Any, run: Path, clips: list[dict[str, Any]]) -> None:
        from faster_whisper.feature_extractor import (  # type: ignore[import-not-found, unused-ignore]
            FeatureExtractor,
        )

        self._model, self._clips, self._features = model, clips, FeatureExtractor()
        self._pcm = np.memmap(run / PCM, np.int16, "r")

    def groups(self, wanted: list[int]) -> Iterator[list[int]]:
        """Clips of like length, about half a minute together."""
        group: list[int] = []
        for i in sorted(wanted, key=lambda i: int(self._clips[i]["length"])):
            group.append(i)
            if self._clips[i]["length"] * len(group) > GROUP_S * RATE:
                yield group
                group = []
        if group:
            yield group

    def scale(self, wanted: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of each dimension."""
        some = np.random.default_rng(0).choice(wanted, min(FOR_SCALE, len(wanted)), replace=False)
        cut = [self.states([i])[0][: rows_of(self._clips[i]["length"])] for i in some]
        every = np.concatenate(cut)
        return every.mean(0), every.std(0)

    def states(self, group: list[int]) -> np.ndarray:
        """[clips, rows, 512]: clips padded to the longest and a moment of silence."""
        from ctranslate2 import StorageView  # type: ignore[import-not-found, unused-ignore]

        longest = max(int(self._clips[i]["length"]) for i in group)
        size = min(LONGEST_S * RATE, (longest + PAD) // HOP * HOP)
        mels = []
        for i in group:
            start, length = self._clips[i]["start"], min(self._clips[i]["length"], size)
            padded = np.zeros(size, np.float32)
            padded[:length] = self._pcm[start : start + length] / 32_768.0
            mels.append(self._features(padded, padding=0)[:, : size // 160])
        view = StorageView.from_array(np.ascontiguousarray(np.stack(mels), np.float32))
        states = np.array(self._model.encode(view, to_cpu=True))
        rows = states.shape[1] // 2
        mean: np.ndarray = states[:, : rows * 2].reshape(len(group), rows, 2, SIZE).mean(2)
        return mean


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a prepared run")
    parser.add_argument("whisper", type=Path, help="folder of a CTranslate2 Whisper base")
    arguments = parser.parse_args()
    listen(arguments.run, arguments.whisper)
