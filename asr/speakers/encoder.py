"""A voice as a vector: the speaker encoder that the package Resemblyzer ships (GE2E, 2018).

Does: find the weights without importing the package, 16 kHz samples -> a unit vector of 256.
Does not know: who the speakers are, streams, words.

The network hears 1.6 s at a time: 40 mel bands of the power spectrum (no logarithm), 25 ms windows
every 10 ms, of audio at -30 dBFS or louder; three LSTM layers, a linear one, positive values only.
"""

from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from asr.checkpoint.frontend import mel_filterbank
from asr.interface import SAMPLE_RATE_HZ, EngineError, Samples

Voice = NDArray[np.float32]
"""A unit vector: the closer to 1 the product of two, the more alike the voices."""

PACKAGE, WEIGHTS = "resemblyzer", "resemblyzer/pretrained.pt"
MISSING = (
    "telling voices apart needs the weights in the package resemblyzer: "
    "pip install --no-deps resemblyzer==0.1.4"
)
WINDOW, HOP, BANDS, SIZE, LAYERS = 400, 160, 40, 256, 3
PART_FRAMES, STEP_FRAMES = 160, 80
LEAST_DB = -30.0
FRAME = SAMPLE_RATE_HZ // 50
"""Loudness is judged in 20 ms."""
UNDER_PEAK_DB = 35.0
"""Frames quieter than the loud ones by more than this hold no voice."""
SPREAD = 3
"""Frames around a voiced one that are kept: consonants are quiet."""


class VoiceEncoder(nn.Module):
    """The network: [parts, frames, bands] -> unit vectors [parts, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, SIZE, LAYERS, batch_first=True)
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, mels: Tensor) -> Tensor:
        """Return the voice of each part."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)

    def embed(self, samples: Samples) -> Voice:
        """Return the voice in 16 kHz samples: the mean over their parts of 1.6 s."""
        with torch.inference_mode():
            mean = self(parts(mel(louder(samples)))).mean(dim=0)
            voice: Voice = F.normalize(mean, dim=0).numpy()
        return voice


def load_voice_encoder() -> VoiceEncoder:
    """Load the weights. Raises EngineError where the package is not installed."""
    path = weights_path()
    if path is None:
        raise EngineError(MISSING)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    encoder = VoiceEncoder()
    encoder.load_state_dict({k: v for k, v in state.items() if k.startswith(("lstm", "linear"))})
    return encoder.eval()


def weights_path() -> Path | None:
    """Find the weights; the package itself is not imported (it would load librosa)."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.as_posix() == WEIGHTS)
    return next((path for path in found if path.is_file()), None)


def voiced(samples: Samples) -> Samples:
    """Return what sounds like a voice: the loud frames and what is around them."""
    count = len(samples) // FRAME
    if not count:
        return samples[:0]
    frames = samples[: count * FRAME].reshape(count, FRAME)
    power_db = 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-12)
    is_loud = power_db > np.percentile(power_db, 95) - UNDER_PEAK_DB
    is_kept = np.convolve(is_loud, np.ones(2 * SPREAD + 1), mode="same") > 0.5
    kept: Samples = frames[is_kept].reshape(-1)
    return kept


def louder(samples: Samples) -> Samples:
    """Raise quiet audio to the level that the network knows."""
    power = float(np.sum(np.square(samples, dtype=np.float64))) / max(1, len(samples))
    gain_db = LEAST_DB - 10 * np.log10(power + 1e-12)
    return samples if gain_db <= 0 else samples * np.float32(10 ** (gain_db / 20))


def mel(samples: Samples) -> Tensor:
    """Return the power in 40 bands of every 10 ms [frames, bands]; the first is centred on 0."""
    audio = F.pad(torch.from_numpy(np.ascontiguousarray(samples)), (WINDOW // 2, WINDOW // 2))
    if len(audio) < WINDOW:
        return torch.zeros(1, BANDS)
    window, filters = _bank()
    spectrum = torch.fft.rfft(audio.unfold(0, WINDOW, HOP) * window)
    return (spectrum.real.square() + spectrum.imag.square()) @ filters


def parts(frames: Tensor) -> Tensor:
    """Cut into parts that overlap by half; the last ends with the audio, silence fills one."""
    if len(frames) <= PART_FRAMES:
        return F.pad(frames, (0, 0, 0, PART_FRAMES - len(frames)))[None]
    last = len(frames) - PART_FRAMES
    begins = [*range(0, last, STEP_FRAMES), last]
    return torch.stack([frames[begin : begin + PART_FRAMES] for begin in begins])


@lru_cache(maxsize=1)
def _bank() -> tuple[Tensor, Tensor]:
    """Return the window and the filters [bins, bands]."""
    return torch.hann_window(WINDOW), mel_filterbank(BANDS, WINDOW)[0].T.contiguous()
