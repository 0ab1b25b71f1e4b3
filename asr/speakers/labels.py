"""Voices one after another -> numbered speakers, at once and for good.

Does: compare a voice with the speakers known, tell a new one, keep what each sounds like.
Does not know: audio, networks, words, names.

A label that was given never changes, as finals never do: whom it took for two stays two.
"""

import numpy as np
from numpy.typing import NDArray

from asr.speakers.encoder import Voice

THRESHOLD = 0.7
"""A voice less like every known speaker than this is a new one (`tests.bench.speakers`)."""
SHORT_S, LESS = 2.0, 0.1
"""A voice heard for less is less like itself: the threshold falls by so much a second."""
LEAST_S = 0.4
"""A voice heard for less says nothing."""
NEW_S = 0.8
"""A voice heard for less is somebody known, if anybody is."""


class Speakers:
    """The speakers of one channel in the order in which they were first heard: 0, 1, 2, ..."""

    def __init__(self, *, threshold: float = THRESHOLD, most: int | None = None) -> None:
        if most is not None and most < 1:
            raise ValueError("at least one speaker")
        self._threshold, self._most = threshold, most
        self._sums = list[NDArray[np.float64]]()
        """Of each speaker: voices, each by its seconds."""

    def __len__(self) -> int:
        return len(self._sums)

    def label(self, voice: Voice, seconds: float) -> int | None:
        """Return whose voice it is; None: heard for too short to say."""
        if seconds < LEAST_S:
            return None
        heard = seconds * voice.astype(np.float64)
        nearest, likeness = self._nearest(heard / np.linalg.norm(heard))
        enough = self._threshold - LESS * max(0.0, SHORT_S - seconds)
        is_new = not self._sums or (likeness < enough and seconds >= NEW_S)
        if is_new and len(self._sums) != self._most:
            self._sums.append(heard)
            return len(self._sums) - 1
        self._sums[nearest] += heard
        return nearest

    def _nearest(self, voice: NDArray[np.float64]) -> tuple[int, float]:
        alike = [float(voice @ known) / float(np.linalg.norm(known)) for known in self._sums]
        nearest = max(range(len(alike)), key=alike.__getitem__, default=0)
        return nearest, alike[nearest] if alike else 0.0
