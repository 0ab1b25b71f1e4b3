"""Changes made to training audio and features.

Does: gain, speed, noise, telephone band, SpecAugment, all drawn from one random generator.
Does not know: clips, files, the network, when a run begins to augment.
"""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.training.config import AugmentConfig

RATE = 16_000
FRAMES_A_SECOND = 100
TELEPHONE_HZ = (300.0, 3_400.0)
QUIET = 1e-4


class Changes:
    """What is done to the clips of a run; draws from a generator the run owns."""

    def __init__(self, config: AugmentConfig, rng: random.Random, *, gain_only: bool) -> None:
        self._config, self._rng, self._gain_only = config, rng, gain_only

    def heard(self, samples: Tensor) -> tuple[Tensor, float]:
        """Change a waveform: always its level; speed, noise and band unless only the level.

        Returns how many times faster it plays, too.
        """
        config, rng = self._config, self._rng
        samples = samples * 10 ** (rng.uniform(-config.gain_db, config.gain_db) / 20)
        if self._gain_only:
            return samples, 1.0
        factor = rng.choice(config.speeds)
        samples = speed(samples, factor)
        if rng.random() < config.noise:
            samples = add_noise(samples, rng.uniform(*config.snr_db), rng)
        if rng.random() < config.telephone:
            samples = band_limit(samples, *TELEPHONE_HZ)
        return samples, factor

    def mask(self, mel: Tensor, frames: Tensor) -> None:
        """SpecAugment in place, unless only the level is changed."""
        if not self._gain_only:
            mask_features(mel, frames, self._config, self._rng)


def speed(samples: Tensor, factor: float) -> Tensor:
    """Play faster or slower (pitch moves too), by resampling the whole utterance."""
    if factor == 1.0:
        return samples
    size = int(len(samples) / factor) // 2 * 2
    spectrum = torch.fft.rfft(samples)
    bins = size // 2 + 1
    spectrum = F.pad(spectrum, (0, max(0, bins - len(spectrum))))[:bins]
    return torch.fft.irfft(spectrum, size) * (size / len(samples))


def add_noise(samples: Tensor, snr_db: float, rng: random.Random) -> Tensor:
    """Noise of a random slope between white and brown, at a level below the clip's own."""
    slope = rng.uniform(0.0, 1.0)
    spectrum = torch.fft.rfft(torch.randn(len(samples)))
    ramp = torch.arange(1, len(spectrum) + 1, dtype=torch.float32).pow(-slope)
    noise = torch.fft.irfft(spectrum * ramp, len(samples))
    loud = samples.pow(2).mean().sqrt().clamp_min(QUIET)
    return samples + noise * (loud / noise.pow(2).mean().sqrt() * 10 ** (-snr_db / 20))


def band_limit(samples: Tensor, low_hz: float, high_hz: float) -> Tensor:
    """Keep only a band."""
    spectrum = torch.fft.rfft(samples)
    hertz = torch.linspace(0.0, RATE / 2, len(spectrum))
    kept = spectrum * ((hertz >= low_hz) & (hertz <= high_hz))
    return torch.fft.irfft(kept, len(samples))


def mask_features(mel: Tensor, frames: Tensor, config: AugmentConfig, rng: random.Random) -> Tensor:
    """SpecAugment in place; zero is each band's mean."""
    for row, steps in zip(mel, frames.tolist(), strict=True):
        for _ in range(config.frequency_masks):
            width = rng.randint(0, config.frequency_width)
            row.narrow(1, rng.randint(0, row.shape[1] - width), width).zero_()
        for _ in range(round(config.time_masks_per_s * steps / FRAMES_A_SECOND)):
            width = rng.randint(0, min(config.time_width, steps // 10))
            row.narrow(0, rng.randint(0, steps - width), width).zero_()
    return mel
