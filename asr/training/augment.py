"""Changes made to training audio and features.

Does: gain, speed, rooms, noise, telephone band, vocal tract length, SpecAugment, all drawn from one
random generator.
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
ROOM_S = (0.1, 0.6)
"""Until an echo has died away by 60 dB."""
DIRECT_DB = (0.0, 12.0)
"""Direct sound over all of its echo."""


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
        if rng.random() < config.rooms:
            samples = in_a_room(samples, rng)
        if rng.random() < config.noise:
            samples = add_noise(samples, rng.uniform(*config.snr_db), rng)
        if rng.random() < config.telephone:
            samples = band_limit(samples, *TELEPHONE_HZ)
        return samples, factor

    def mask(self, mel: Tensor, frames: Tensor) -> None:
        """Other speakers and SpecAugment in place, unless only the level is changed."""
        if self._gain_only:
            return
        if self._config.warp:
            warp_bands(mel, self._config.warp, self._rng)
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


def in_a_room(samples: Tensor, rng: random.Random) -> Tensor:
    """Direct sound, then noise that dies away: a room of a random echo, nothing moved in time."""
    dies_s, direct_db = rng.uniform(*ROOM_S), rng.uniform(*DIRECT_DB)
    steps = int(RATE * dies_s)
    answer = torch.randn(steps) * torch.logspace(0.0, -3.0, steps)
    answer *= 10 ** (-direct_db / 20) / answer.norm()
    answer[0] = 1.0
    size = len(samples) + steps
    heard = torch.fft.irfft(torch.fft.rfft(samples, size) * torch.fft.rfft(answer, size), size)
    return heard[: len(samples)]


def band_limit(samples: Tensor, low_hz: float, high_hz: float) -> Tensor:
    """Keep only a band."""
    spectrum = torch.fft.rfft(samples)
    hertz = torch.linspace(0.0, RATE / 2, len(spectrum))
    kept = spectrum * ((hertz >= low_hz) & (hertz <= high_hz))
    return torch.fft.irfft(kept, len(samples))


def warp_bands(mel: Tensor, most: float, rng: random.Random) -> None:
    """Stretch each clip's bands by a factor of 1 / (1 + most) to 1 + most: another vocal tract.

    In place. Bands beyond the last repeat it (Jaitly and Hinton, "Vocal tract length
    perturbation", 2013, on mel bands).
    """
    bands = mel.shape[2]
    for row in mel:
        factor = (1 + most) ** rng.uniform(-1.0, 1.0)
        place = (torch.arange(bands) * factor).clamp(max=bands - 1)
        below = place.long().clamp(max=bands - 2)
        row.copy_(torch.lerp(row[:, below], row[:, below + 1], place - below))


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
