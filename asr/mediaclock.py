"""Encoder frames of a live stream to the media time of its channel, over skipped gaps.

Does: count what was fed and what was skipped; time of a frame; samples that frames have heard.
Does not know: engines, words, wall-clock time.
"""

from collections import deque

from asr.audio import from_16k, to_16k
from asr.interface import FRAME_MS, FRAME_SAMPLES, heard_samples
from asr.state import State


class MediaClock:
    """The clock of one channel. Feeding runs ahead of reading, which passes frame by frame."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.fed_samples = 0
        """All that the channel was given, gaps included."""
        self._skipped = 0
        self._passed = 0
        """Samples skipped before the frame that reading has reached."""
        self._reached = -1
        self._skips: deque[tuple[int, int]] = deque()
        """(first frame behind the gap, samples skipped until then), not yet passed."""

    def skip(self, samples: int) -> None:
        """Let samples pass without being fed to the engine."""
        frame = to_16k(self.fed_samples - self._skipped, self.rate) // FRAME_SAMPLES + 1
        self._skipped += samples
        self.fed_samples += samples
        if frame > self._reached:  # else a replay: reading has passed this gap in another life
            self._skips.append((frame, self._skipped))

    def pass_frame(self, frame: int) -> bool:
        """Reach this frame in reading. True: a long gap ends here."""
        has_gap = False
        self._reached = frame
        while self._skips and self._skips[0][0] <= frame:
            self._passed = self._skips.popleft()[1]
            has_gap = True
        return has_gap

    def ms(self, frame: int) -> int:
        """Media time at which this frame begins; it is not before the one reading has reached."""
        skipped = self._passed
        for first, total in self._skips:
            if first <= frame:
                skipped = total
        return frame * FRAME_MS + skipped * 1000 // self.rate

    def done_samples(self, frames: int) -> int:
        """Count the samples of the channel that so many frames have heard."""
        heard = from_16k(heard_samples(frames), self.rate)
        return min(self.fed_samples, heard + self._passed)

    def samples_ms(self, samples: int) -> int:
        """Media time of a sample position."""
        return samples * 1000 // self.rate

    def hearing(self) -> State:
        """Return what was fed."""
        return {"fed": self.fed_samples, "skipped": self._skipped, "skips": list(self._skips)}

    def reading(self) -> State:
        """Return how far reading has come."""
        return {"passed": self._passed, "reached": self._reached}

    def restore(self, hearing: State | None, reading: State) -> None:
        """Take up both; reading may be ahead of what was fed so far (None: nothing)."""
        self._passed, self._reached = reading["passed"], reading["reached"]
        if hearing is not None:
            self.fed_samples, self._skipped = hearing["fed"], hearing["skipped"]
            skips = [(first, total) for first, total in hearing["skips"] if first > self._reached]
            self._skips = deque(skips)
