"""Log-mel frames of one stream from packets of any size, bit-equal to the whole-file features.

Does: 16 kHz samples -> log-mel rows (NeMo FilterbankFeatures, normalize NA, no dither).
Does not know: encoders, slots, resampling, time.
Frame t is centred on sample 160 t and needs samples below 160 t + 200; at the end of audio
there are samples // 160 frames and the missing right side is zeros.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from asr.interface import Samples

HOP = 160
FFT = 512
PREEMPHASIS = np.float32(0.97)
LOG_GUARD = 2.0**-24
MIN_GEMM_COLUMNS = 32
"""Below about 32 columns a GEMM rounds differently; padding keeps packets of any size bit-equal."""


@dataclass(frozen=True)
class FrontEnd:
    """What all streams of a model share: window [400] and mel filterbank [bins, 257]."""

    window: Tensor
    filterbank: Tensor

    @property
    def bins(self) -> int:
        """Mel bins of a frame."""
        return self.filterbank.shape[0]

    @property
    def half_window(self) -> int:
        """Samples a frame needs after its centre."""
        return self.window.shape[0] // 2

    def to(self, device: torch.device) -> "FrontEnd":
        """Return the same on a device."""
        return FrontEnd(self.window.to(device), self.filterbank.to(device))

    @cached_property
    def padded_window(self) -> Tensor:
        """The window centred in the FFT length."""
        left = (FFT - self.window.shape[0]) // 2
        return F.pad(self.window, (left, FFT - self.window.shape[0] - left))

    def log_mel(self, windows: Tensor) -> Tensor:
        """Return rows [k, bins] of windows [k, FFT], of one stream or of many."""
        count = len(windows)
        if not count:
            return torch.zeros(0, self.bins)
        spectrum = torch.fft.rfft(windows * self.padded_window)
        # NeMo takes the root and squares again: the same rounding, or the bits differ.
        power = (spectrum.real.square() + spectrum.imag.square()).sqrt().square()
        power = F.pad(power, (0, 0, 0, max(0, MIN_GEMM_COLUMNS - count)))
        return torch.log((self.filterbank @ power.T)[:, :count] + LOG_GUARD).T.contiguous()


def windows_of(samples: Samples) -> Tensor:
    """Return the windows [count, FFT] of rows whose samples these are."""
    if not len(samples):
        return torch.zeros(0, FFT)
    return torch.from_numpy(samples).unfold(0, FFT, HOP)


class FeatureStream:
    """Incremental log-mel of one stream; holds the samples of rows not taken yet and one FFT more.

    ``hear`` and ``take`` let an engine make the rows of many streams at once; ``push`` and
    ``finish`` make those of this one.
    """

    def __init__(self, front_end: FrontEnd) -> None:
        self._front = front_end
        # Pre-emphasised samples from index `_base` on; a stream starts with half an FFT of zeros.
        self._packets = [np.zeros(FFT // 2, np.float32)]
        self._base = -(FFT // 2)
        self._last = np.float32(0)
        self._is_over = False
        self.samples = 0
        self.frames = 0
        """Rows taken."""

    @property
    def total(self) -> int:
        """Rows there are up to now, taken or not."""
        if self._is_over:
            return self.samples // HOP
        return max(self.frames, (self.samples - self._front.half_window) // HOP + 1)

    def lacks(self, rows: int) -> int:
        """Return how many samples are missing until there are so many rows."""
        return max(0, (rows - 1) * HOP + self._front.half_window - self.samples)

    def hear(self, samples: Samples) -> None:
        """Append samples."""
        if len(samples):
            before = np.empty_like(samples)
            before[0], before[1:] = self._last, samples[:-1]
            self._packets.append(samples - PREEMPHASIS * before)
            self._last = samples[-1]
            self.samples += len(samples)

    def end(self) -> None:
        """No more samples come: the right side of the last rows is zeros."""
        self._is_over = True

    def take(self, count: int) -> Samples:
        """Take the samples of the next ``count`` rows; at most ``total - frames``."""
        if count <= 0:
            return np.zeros(0, np.float32)
        tail = self._tail()
        start = self.frames * HOP - FFT // 2 - self._base
        need = start + (count - 1) * HOP + FFT
        taken = np.zeros(need - start, np.float32)
        taken[: len(tail) - start] = tail[start:need]
        self.frames += count
        cut = min(max(self.frames * HOP - FFT // 2 - self._base, 0), len(tail))
        self._packets, self._base = [tail[cut:]], self._base + cut
        return taken

    def windows(self, count: int) -> Tensor:
        """Take the next ``count`` rows as windows [count, FFT]."""
        return windows_of(self.take(count))

    def rows(self) -> Tensor:
        """Take all rows there are [k, bins]."""
        return self._front.log_mel(self.windows(self.total - self.frames))

    def push(self, samples: Samples) -> Tensor:
        """Append samples, take the new rows."""
        self.hear(samples)
        return self.rows()

    def finish(self) -> Tensor:
        """Take the last rows."""
        self.end()
        return self.rows()

    def fork(self) -> "FeatureStream":
        """Return an independent copy."""
        copy = FeatureStream.from_state(self._front, self.state())
        if self._is_over:
            copy.end()
        return copy

    def state(self) -> dict[str, Tensor]:
        """All that this stream is, as tensors; its rows are to be taken first if it is over."""
        return {
            "tail": torch.from_numpy(self._tail().copy()),
            "last": torch.tensor([float(self._last)]),
            "counts": torch.tensor([self._base, self.samples, self.frames]),
        }

    @classmethod
    def from_state(cls, front_end: FrontEnd, state: dict[str, Tensor]) -> "FeatureStream":
        """Rebuild a stream from ``state()``."""
        stream = cls(front_end)
        stream._packets = [state["tail"].numpy().copy()]
        stream._last = np.float32(state["last"].item())
        stream._base, stream.samples, stream.frames = state["counts"].tolist()
        return stream

    def _tail(self) -> Samples:
        if len(self._packets) > 1:
            self._packets = [np.concatenate(self._packets)]
        return self._packets[0]
