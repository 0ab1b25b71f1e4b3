"""16 kHz as the 24 kHz that some wires ask for.

Does: 16-bit samples -> floats, packet by packet, without a seam.
Does not know: wires. Straight lines between samples will do: the servers filter what is above.
"""

import numpy as np
from numpy.typing import NDArray

RATE_24_HZ = 24_000


class To24:
    """One stream."""

    def __init__(self) -> None:
        self._last = 0.0
        self._heard = self._made = 0

    def push(self, pcm: bytes) -> NDArray[np.float32]:
        """Return what the samples add, between -1 and 1."""
        samples = np.frombuffer(pcm, "<i2") / 32768
        known = np.concatenate([[self._last], samples])
        first = self._heard - 1  # the place of known[0]
        self._heard += len(samples)
        if len(samples):
            self._last = float(samples[-1])
        until = (self._heard - 1) * 3 // 2 + 1 if self._heard else 0
        places = np.arange(self._made, until) * 2 / 3 - first
        self._made = until
        return np.interp(places, np.arange(len(known)), known).astype(np.float32)
