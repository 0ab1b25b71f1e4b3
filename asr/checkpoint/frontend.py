"""Window and mel filterbank of the features, for checkpoints that do not store them.

Does: compute what NeMo stores as ``preprocessor.featurizer.window`` and ``.fb``, bit for bit.
Does not know: audio, checkpoints.
Source: the Slaney scale of librosa.filters.mel, which NeMo calls.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAMPLE_RATE_HZ = 16_000
FFT = 512
WINDOW_SAMPLES = 400
_HZ_PER_MEL = 200.0 / 3
_LOG_FROM_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0


def hann_window() -> Tensor:
    """Symmetric Hann window of 25 ms."""
    return torch.hann_window(WINDOW_SAMPLES, periodic=False)


def mel_filterbank(bins: int, fft: int = FFT) -> Tensor:
    """Area-normalised triangles from 0 Hz to 8 kHz, [1, bins, fft / 2 + 1]."""
    frequencies = np.fft.rfftfreq(fft, 1.0 / SAMPLE_RATE_HZ)
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(SAMPLE_RATE_HZ / 2), bins + 2))
    widths = np.diff(edges)
    ramps = np.subtract.outer(edges, frequencies)
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    weights = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    weights *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(weights)[None]


def _hz_to_mel(hz: float) -> float:
    return float(_LOG_FROM_HZ / _HZ_PER_MEL + np.log(hz / _LOG_FROM_HZ) / _LOG_STEP)


def _mel_to_hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    knee = _LOG_FROM_HZ / _HZ_PER_MEL
    hz = _HZ_PER_MEL * mels
    logarithmic = mels >= knee
    hz[logarithmic] = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mels[logarithmic] - knee))
    return hz
