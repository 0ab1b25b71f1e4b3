"""Voices one after another -> numbered speakers, at once and for good.

Does: compare a voice with the speakers known, tell a new one, keep what each sounds like.
Does not know: audio, networks, words, names.

A label that was given never changes, as finals never do: whom it took for two stays two.
"""

import numpy as np
from numpy.typing import NDArray

from asr.speakers.encoder import Voice

THRESHOLD = 0.65
"""A voice less like every known speaker than this is a new one (`tests.bench.speakers`)."""
LEAST_S = 0.6
"""A voice heard for less says nothing: the speaker is who spoke before."""
NEW_S = 1.2
"""A voice heard for less is somebody known, if anybody is."""


class Speakers:
    """The speakers of one channel in the order in which they were first heard: 0, 1, 2, ..."""

    def __init__(self, *, threshold: float = THRESHOLD, most: int | None = None) -> None:
        if most is not None and most < 1:
            raise ValueError("at least one speaker")
        self._threshold, self._most = threshold, most
        self._sums = list[NDArray[np.float64]]()
        """Of each speaker: voices, each by its seconds."""
        self._last: int | None = None

    def __len__(self) -> int:
        return len(self._sums)

    def label(self, voice: Voice, seconds: float) -> int | None:
        """Return whose voice it is; None: too short to say, and nobody spoke before."""
        if seconds < LEAST_S:
            return self._last
        heard = seconds * voice.astype(np.float64)
        nearest, likeness = self._nearest(heard / np.linalg.norm(heard))
        is_new = not self._sums or (likeness < self._threshold and seconds >= NEW_S)
        if is_new and len(self._sums) != self._most:
            self._last = len(self._sums)
            self._sums.append(heard)
        else:
            self._last = nearest
            self._sums[nearest] += heard
        return self._last

    def _nearest(self, voice: NDArray[np.float64]) -> tuple[int, float]:
        alike = [float(voice @ known) / float(np.linalg.norm(known)) for known in self._sums]
        nearest = max(range(len(alike)), key=alike.__getitem__, default=0)
        return nearest, alike[nearest] if alike else 0.0
