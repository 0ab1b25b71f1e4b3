"""Bytes of the known sample formats become 16 kHz samples.

Does: decode and check pcm_s16le, pcm_f32le, mu-law, A-law; split channels; streaming resampling
whose output does not depend on how the input is cut.
Does not know: streams, engines, sockets, containers such as WAV.
"""

from fractions import Fraction
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from asr.interface import SAMPLE_RATE_HZ, Samples
from asr.state import State, samples_of, text_of

Encoding = Literal["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)
MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 48_000

_SAMPLE_BYTES = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
_PASS = 0.9
"""Flat up to this part of the lower Nyquist frequency, 70 dB down above that frequency."""
_STOP_DB = 70.0
_FEW_PHASES = 4
"""8 kHz has two, 24 and 48 kHz two and one: a phase at a time is quickest."""
_MAX_PHASES = 512
"""Filter phases kept; between two of them interpolation errs by less than -100 dB."""


class AudioError(ValueError):
    """The bytes are not audio of the announced format."""


def _mulaw_table() -> Samples:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
    return (np.where(code & 0x80, -magnitude, magnitude) / 32768).astype(np.float32)


def _alaw_table() -> Samples:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, (code & 0x0F) << 4
    magnitude = np.where(
        exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0)
    )
    return (np.where(code & 0x80, magnitude, -magnitude) / 32768).astype(np.float32)


_TABLES = {"mulaw": _mulaw_table(), "alaw": _alaw_table()}


def frame_bytes(encoding: str, channels: int) -> int:
    """Bytes of one sample of all channels. Raises AudioError for an unknown format."""
    if encoding not in _SAMPLE_BYTES:
        raise AudioError(f"encoding must be one of {', '.join(ENCODINGS)}")
    if channels < 1:
        raise AudioError("at least one channel")
    return _SAMPLE_BYTES[encoding] * channels


def decode(data: bytes | bytearray | memoryview, encoding: str, *, channels: int = 1) -> Samples:
    """Turn interleaved bytes into samples of shape (channels, n), within -1..1."""
    size = frame_bytes(encoding, channels)
    if len(data) % size:
        raise AudioError(f"{len(data)} bytes are not whole samples of {size} bytes")
    if encoding == "pcm_s16le":
        flat = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
    elif encoding == "pcm_f32le":
        flat = np.frombuffer(data, "<f4").astype(np.float32)
        if not np.isfinite(flat).all():
            raise AudioError("samples are not finite")
        flat = flat.clip(-1, 1)
    else:
        flat = _TABLES[encoding][np.frombuffer(data, np.uint8)]
    return np.ascontiguousarray(flat.reshape(-1, channels).T)


def to_16k(position: int, rate: int) -> int:
    """Find the 16 kHz sample at or before a sample position of another rate."""
    return position * SAMPLE_RATE_HZ // rate


def from_16k(position: int, rate: int) -> int:
    """Find the sample of another rate at or before a 16 kHz sample position."""
    return position * rate // SAMPLE_RATE_HZ


@lru_cache(maxsize=8)
def _filter_bank(rate: int) -> NDArray[np.float32]:
    """Taps by phase (phases + 1, 2 * half); phase p delays by p / phases of a source sample."""
    step = Fraction(rate, SAMPLE_RATE_HZ)
    phases = min(step.denominator, _MAX_PHASES)
    lower = min(rate, SAMPLE_RATE_HZ) / rate  # the lower Nyquist, 1.0 = the source's
    cutoff, width = lower * (1 + _PASS) / 2, lower * (1 - _PASS)
    half = int(np.ceil((_STOP_DB - 8) / (2.285 * np.pi * width) / 2)) + 1
    offset = np.arange(phases + 1)[:, None] / phases
    time = np.arange(1 - half, half + 1)[None, :] - offset
    beta = 0.1102 * (_STOP_DB - 8.7)
    shape = np.sqrt(np.maximum(0.0, 1 - (time / half) ** 2))
    taps = np.sinc(cutoff * time) * np.i0(beta * shape) * (np.abs(time) <= half)
    taps /= taps.sum(axis=1, keepdims=True)  # every phase passes a constant unchanged
    bank: NDArray[np.float32] = taps.astype(np.float32)
    bank.setflags(write=False)
    return bank


class Resampler:
    """Turns a stream of one rate into 16 kHz, aligned in time: sample 0 stays at time 0.

    Output n needs source samples up to half a filter (3 to 6 ms) later; ``flush`` brings the last.
    """

    def __init__(self, rate: int) -> None:
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise AudioError(f"rate must be {MIN_RATE_HZ}..{MAX_RATE_HZ} Hz")
        self.rate = rate
        self._is_identity = rate == SAMPLE_RATE_HZ
        if self._is_identity:
            return
        step = Fraction(rate, SAMPLE_RATE_HZ)
        self._up, self._down = step.denominator, step.numerator
        self._bank = _filter_bank(rate)
        self._half = self._bank.shape[1] // 2
        self._kept: Samples = np.zeros(self._half - 1, np.float32)
        self._kept_at = 1 - self._half
        """Source position of the first kept sample."""
        self._seen = 0
        self._made = 0

    def push(self, samples: Samples) -> Samples:
        """Take source samples, return the 16 kHz samples that they complete."""
        if self._is_identity:
            return samples
        self._seen += len(samples)
        # output n sits at source position n*down/up and needs `half` samples after its floor
        ready = -(-(self._seen - self._half) * self._up // self._down)
        return self._make(np.concatenate([self._kept, samples]), max(ready, self._made))

    @property
    def behind(self) -> int:
        """How many source samples behind a position it needs at most."""
        return 0 if self._is_identity else self._half + 1

    def lacks(self, samples: int) -> int:
        """Return how many source samples complete so many more."""
        if self._is_identity or not samples:
            return samples
        last = (self._made + samples - 1) * self._down // self._up
        return last + self._half + 1 - self._seen

    def flush(self) -> Samples:
        """Return the samples still owed at the end of the stream."""
        if self._is_identity:
            return np.zeros(0, np.float32)
        total = -(-self._seen * self._up // self._down)
        tail = np.zeros(self._half + 1, np.float32)
        return self._make(np.concatenate([self._kept, tail]), total)

    def copy(self) -> "Resampler":
        """Return a copy that goes its own way."""
        other = Resampler(self.rate)
        if not self._is_identity:
            other._kept, other._kept_at = self._kept, self._kept_at
            other._seen, other._made = self._seen, self._made
        return other

    def state(self) -> State:
        """All that it is."""
        if self._is_identity:
            return {}
        kept = text_of(self._kept)
        return {"kept": kept, "at": self._kept_at, "seen": self._seen, "made": self._made}

    def restore(self, state: State) -> None:
        """Take up what ``state`` gave."""
        if not self._is_identity:
            self._kept, self._kept_at = samples_of(state["kept"]), state["at"]
            self._seen, self._made = state["seen"], state["made"]

    def _make(self, source: Samples, until: int) -> Samples:
        out = np.zeros(until - self._made, np.float32)
        if len(out):
            windows = np.lib.stride_tricks.sliding_window_view(source, 2 * self._half)
            first = 1 - self._half - self._kept_at
            if self._up <= _FEW_PHASES:
                self._make_by_phase(windows, first, out)
            else:
                place = np.arange(self._made, until, dtype=np.int64) * self._down
                taps = self._taps(place % self._up)
                np.einsum("ij,ij->i", windows[place // self._up + first], taps, out=out)
        self._made = until
        keep_from = until * self._down // self._up + 1 - self._half
        self._kept = source[max(0, keep_from - self._kept_at) :].copy()
        self._kept_at = max(keep_from, self._kept_at)
        return out

    def _make_by_phase(self, windows: Samples, first: int, out: Samples) -> None:
        """Make each phase's samples at once: they lie evenly in the source and share their taps."""
        for begin in range(min(self._up, len(out))):
            floor, phase = divmod((self._made + begin) * self._down, self._up)
            made = out[begin :: self._up]
            # no matrix product: its rounding would depend on the number of rows
            taken = windows[floor + first :: self._down][: len(made)]
            np.einsum("ij,j->i", taken, self._bank[phase], out=made)

    def _taps(self, rest: NDArray[np.int64]) -> Samples:
        if self._up <= _MAX_PHASES:
            return self._bank[rest]
        position = rest * (_MAX_PHASES / self._up)
        low = position.astype(np.int64)
        part = (position - low).astype(np.float32)[:, None]
        taps: Samples = self._bank[low] * (1 - part) + self._bank[low + 1] * part
        return taps
