"""Sound files as packets for the wire.

Does: read wav, flac, ogg (Vorbis, Opus) and mp3 as s16 packets of one or two channels.
Does not know: servers, the wire's messages, microphones.
"""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from clients.errors import CommandError

PACKET_MS = 80
"""One encoder frame: shorter packets add messages, longer ones add lag."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8_000, 48_000


class BadAudioFile(CommandError):
    """A file that cannot be streamed; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class AudioFile:
    """A sound file that was opened once to learn its form."""

    path: Path
    rate: int
    """Samples a second on the wire."""
    channels: int
    """Channels on the wire: those of the file, or one for more than two."""
    frames: int
    """Samples of one channel, at the file's own rate."""
    own_rate: int

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return self.frames / self.own_rate

    def packets(self, packet_ms: int = PACKET_MS) -> Iterator[bytes]:
        """Interleaved little-endian s16, ``packet_ms`` each; the last may be shorter.

        Raises BadAudioFile where a broken file cannot be read on.
        """
        keep = self.own_rate // self.rate
        block = max(1, self.own_rate * packet_ms // 1000) // keep * keep
        try:
            with soundfile.SoundFile(os.fsencode(self.path)) as file:  # any name that is a file's
                while len(samples := file.read(block, dtype="float32", always_2d=True)):
                    if self.channels < samples.shape[1]:
                        samples = samples.mean(axis=1, keepdims=True)
                    yield to_s16(_averaged(samples, keep))
        except soundfile.LibsndfileError as error:
            raise BadAudioFile(f"{self.path}: cannot be read on: {error.error_string}") from error


def _averaged(samples: np.ndarray, keep: int) -> np.ndarray:
    """Means of ``keep`` neighbours: rates above 48 kHz come down by a whole factor."""
    if keep == 1:
        return samples
    whole = samples[: len(samples) // keep * keep]
    return whole.reshape(-1, keep, samples.shape[1]).mean(axis=1)


def to_s16(samples: np.ndarray) -> bytes:
    """Floats in -1..1 as little-endian 16-bit integers; louder ones are clipped, NaN is silence."""
    bounded = np.clip(np.nan_to_num(samples, nan=0.0), -1.0, 1.0)
    return bytes(np.minimum(np.rint(bounded * 32768.0), 32767).astype("<i2").tobytes())


def open_audio(path: Path) -> AudioFile:
    """Look at a file. Raises BadAudioFile."""
    if path.is_dir():
        raise BadAudioFile(f"{path}: a folder, not a sound file")
    if not path.exists():
        raise BadAudioFile(f"{path}: there is no such file")
    if not path.is_file():
        raise BadAudioFile(f"{path}: a pipe or a device: put the sound into a file first")
    if not os.access(path, os.R_OK):
        raise BadAudioFile(f"{path}: it may not be read")
    try:
        info = soundfile.info(os.fsencode(path))
    except soundfile.LibsndfileError as error:
        raise BadAudioFile(
            f"{path}: not a sound file that can be read here; where it is one, or a video: "
            f"ffmpeg -i {shlex.quote(str(path))} sound.wav"
        ) from error
    if info.frames <= 0:
        raise BadAudioFile(f"{path}: holds no audio")
    rate = _wire_rate(info.samplerate)
    if rate is None:
        raise BadAudioFile(f"{path}: {info.samplerate} samples a second cannot be streamed")
    channels = info.channels if info.channels <= 2 else 1
    return AudioFile(path, rate, channels, info.frames, info.samplerate)


def _wire_rate(own: int) -> int | None:
    """Return the file's own rate where the wire takes it, else a whole fraction of it."""
    lowest = max(1, -(-own // HIGHEST_RATE_HZ))
    whole = (own // k for k in range(lowest, 9) if own % k == 0)
    return next((rate for rate in whole if rate >= LOWEST_RATE_HZ), None)
