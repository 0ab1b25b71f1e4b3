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

    @cached_property
    def padded_window(self) -> Tensor:
        """The window centred in the FFT length."""
        left = (FFT - self.window.shape[0]) // 2
        return F.pad(self.window, (left, FFT - self.window.shape[0] - left))


class FeatureStream:
    """Incremental log-mel of one stream; holds at most one FFT length of samples."""

    def __init__(self, front_end: FrontEnd) -> None:
        self._front = front_end
        # Pre-emphasised samples from index `_base` on; a stream starts with half an FFT of zeros.
        self._tail = np.zeros(FFT // 2, np.float32)
        self._base = -(FFT // 2)
        self._last = np.float32(0)
        self.samples = 0
        self.frames = 0

    def push(self, samples: Samples) -> Tensor:
        """Append samples, return the new complete frames [k, bins]."""
        if len(samples):
            before = np.empty_like(samples)
            before[0], before[1:] = self._last, samples[:-1]
            self._tail = np.concatenate([self._tail, samples - PREEMPHASIS * before])
            self._last = samples[-1]
            self.samples += len(samples)
        return self._until((self.samples - self._front.half_window) // HOP + 1)

    def finish(self) -> Tensor:
        """Return the last frames, whose right side is zeros."""
        return self._until(self.samples // HOP)

    def fork(self) -> "FeatureStream":
        """Return an independent copy."""
        return FeatureStream.from_state(self._front, self.state())

    def state(self) -> dict[str, Tensor]:
        """All that this stream is, as tensors."""
        return {
            "tail": torch.from_numpy(self._tail.copy()),
            "last": torch.tensor([float(self._last)]),
            "counts": torch.tensor([self._base, self.samples, self.frames]),
        }

    @classmethod
    def from_state(cls, front_end: FrontEnd, state: dict[str, Tensor]) -> "FeatureStream":
        """Rebuild a stream from ``state()``."""
        stream = cls(front_end)
        stream._tail = state["tail"].numpy().copy()
        stream._last = np.float32(state["last"].item())
        stream._base, stream.samples, stream.frames = state["counts"].tolist()
        return stream

    def _until(self, end: int) -> Tensor:
        count = end - self.frames
        if count <= 0:
            return torch.zeros(0, self._front.bins)
        start = self.frames * HOP - FFT // 2 - self._base
        need = start + (count - 1) * HOP + FFT
        missing = max(0, need - len(self._tail))
        padded = (
            np.concatenate([self._tail, np.zeros(missing, np.float32)]) if missing else self._tail
        )
        frames = torch.from_numpy(padded[start:need]).unfold(0, FFT, HOP)
        mel = self._log_mel(frames)
        self.frames = end
        cut = min(max(end * HOP - FFT // 2 - self._base, 0), len(self._tail))
        self._tail, self._base = self._tail[cut:], self._base + cut
        return mel

    def _log_mel(self, frames: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self._front.padded_window))
        # NeMo takes the root and squares again: the same rounding, or the bits differ.
        power = torch.sqrt(spectrum.pow(2).sum(-1)).pow(2)
        count = power.shape[0]
        power = F.pad(power, (0, 0, 0, max(0, MIN_GEMM_COLUMNS - count)))
        return torch.log((self._front.filterbank @ power.T)[:, :count] + LOG_GUARD).T.contiguous()
