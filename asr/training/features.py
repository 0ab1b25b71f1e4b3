"""Log-mel features of training, batched, as NeMo computes them (normalize NA, no dither).

Does: mel filters, padded waveforms to padded log-mel.
Does not know: files, augmentation, the network.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HOP, WINDOW, FFT = 160, 400, 512
GUARD = 2.0**-24
PREEMPHASIS = 0.97
_LINEAR_HZ, _LOG_STEP, _KNEE = 200.0 / 3, math.log(6.4) / 27, 15.0


def mel_filters(bands: int = 80, top_hz: float = 8_000.0) -> Tensor:
    """Slaney's triangles, area-normalized: [bands, FFT / 2 + 1]."""

    def hertz(mel: np.ndarray) -> np.ndarray:
        high = 1_000.0 * np.exp(_LOG_STEP * (mel - _KNEE))
        return np.where(mel < _KNEE, mel * _LINEAR_HZ, high)

    top = _KNEE + math.log(top_hz / 1_000.0) / _LOG_STEP
    edges = hertz(np.linspace(0.0, top, bands + 2))
    bins = np.linspace(0.0, top_hz, FFT // 2 + 1)
    width = np.diff(edges)
    rising = (bins - edges[:-2, None]) / width[:-1, None]
    falling = (edges[2:, None] - bins) / width[1:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * area[:, None]
    return torch.tensor(triangles, dtype=torch.float32)


def window() -> Tensor:
    """Make the symmetric Hann window NeMo uses."""
    return torch.hann_window(WINDOW, periodic=False)


def log_mel(samples: Tensor, lengths: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    """[B, N] with lengths -> [B, N // 160, bands] and frames; beyond a clip's end is zero."""
    emphasized = torch.cat([samples[:, :1], samples[:, 1:] - PREEMPHASIS * samples[:, :-1]], 1)
    inside = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]
    side = (FFT - WINDOW) // 2
    shaped = F.pad(window().to(samples.device), (side, side))
    steps = samples.shape[1] // HOP
    cut = F.pad(emphasized * inside, (FFT // 2, FFT)).unfold(1, FFT, HOP)[:, :steps]
    power = torch.view_as_real(torch.fft.rfft(cut * shaped)).pow(2).sum(-1)
    frames = lengths // HOP
    keep = torch.arange(steps, device=samples.device) < frames[:, None]
    return torch.log(power @ filters.T + GUARD) * keep.unsqueeze(-1), frames


def centre(filters: Tensor, means: Tensor) -> Tensor:
    """Scale each filter so that its log output has mean zero: nothing changes at run time."""
    return filters * torch.exp(-means)[:, None]
