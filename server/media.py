"""Whole sound files, as people post them, become audio of the native wire.

Does: read what libsndfile reads (wav, flac, ogg, mp3, ...) from memory, and what browsers and
telephones record (webm, mp4) where ffmpeg is installed; bound what comes out.
Does not know: sockets, wires, engines. Nothing is written to disk.
"""

import io
import os
import shutil
import subprocess
from typing import Literal

import numpy as np
import soundfile

from server.wire.errors import MessageTooBig, UnsupportedAudio
from server.wire.rest import Recording
from server.wire.values import audio_format

MAX_DECODED_BYTES = 512 * 1024 * 1024
"""Two and a half hours of 48 kHz mono: a small file may decode to very much."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8_000, 48_000
_BLOCK_FRAMES = 1 << 18
_FFMPEG_RATE_HZ = 16_000
_FFMPEG_S = 120

Channels = Literal["mix", "keep"]


def decode(data: bytes, channels: Channels) -> Recording:
    """Return 16-bit audio at the file's own rate; raises UnsupportedAudio, MessageTooBig.

    Blocks for as long as decoding takes: call it in a thread.
    """
    if demuxer := _demuxer_of(data):
        return _by_ffmpeg(data, demuxer)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return _read(file, channels)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UnsupportedAudio("the file is no sound file that this server reads") from error


def raw(data: bytes, encoding: str, rate: int, channels: int) -> Recording:
    """Return bytes that are audio already; raises UnsupportedAudio."""
    audio = audio_format(encoding, rate, channels)
    return Recording(audio, data[: len(data) // audio.frame_bytes * audio.frame_bytes])


def _read(file: soundfile.SoundFile, channels: Channels) -> Recording:
    rate, keep = _wire_rate(file.samplerate)
    count = file.channels if channels == "keep" and file.channels <= 2 else 1
    pieces, total = list[bytes](), 0
    while len(samples := file.read(_BLOCK_FRAMES // keep * keep, dtype="float32", always_2d=True)):
        if count < samples.shape[1]:
            samples = samples.mean(axis=1, keepdims=True)
        pieces.append(_to_s16(_averaged(samples, keep)))
        total += len(pieces[-1])
        if total > MAX_DECODED_BYTES:
            raise MessageTooBig("the recording is too long")
    if not total:
        raise UnsupportedAudio("the file holds no audio")
    return Recording(audio_format("pcm_s16le", rate, count), b"".join(pieces))


def _demuxer_of(data: bytes) -> str:
    """Name ffmpeg's demuxer of a container that libsndfile does not know; else nothing."""
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    return "mov" if data[4:8] == b"ftyp" else ""


def _by_ffmpeg(data: bytes, demuxer: str) -> Recording:
    program = shutil.which("ffmpeg")
    if program is None:
        raise UnsupportedAudio("webm and mp4 need ffmpeg, which this server does not have")
    # The demuxer is named and only this file may be opened: a playlist could name others.
    limits = ["-protocol_whitelist", "file", "-f", demuxer]
    seconds = MAX_DECODED_BYTES // (2 * _FFMPEG_RATE_HZ)
    shape = ["-vn", "-ac", "1", "-ar", str(_FFMPEG_RATE_HZ), "-t", str(seconds)]
    with open(os.memfd_create("upload"), "wb+") as file:  # noqa: PTH123 - a descriptor, no path
        file.write(data)
        file.flush()
        number = file.fileno()
        source = ["-i", f"/proc/self/fd/{number}"]
        command = [program, "-v", "error", "-nostdin", *limits, *source, *shape]
        try:
            done = subprocess.run(
                [*command, "-f", "s16le", "pipe:1"],
                pass_fds=(number,),
                capture_output=True,
                timeout=_FFMPEG_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise UnsupportedAudio("the file is no sound file that this server reads") from error
    if not done.stdout:
        raise UnsupportedAudio("the file holds no audio")
    return Recording(audio_format("pcm_s16le", _FFMPEG_RATE_HZ, 1), done.stdout)


def _wire_rate(own: int) -> tuple[int, int]:
    """Return the rate we hand on, and of how many samples one is made."""
    for keep in range(max(1, -(-own // HIGHEST_RATE_HZ)), 9):
        if own % keep == 0 and own // keep >= LOWEST_RATE_HZ:
            return own // keep, keep
    raise UnsupportedAudio(f"{own} samples a second cannot be recognised")


def _averaged(samples: np.ndarray, keep: int) -> np.ndarray:
    if keep == 1:
        return samples
    whole = samples[: len(samples) // keep * keep]
    return whole.reshape(-1, keep, samples.shape[1]).mean(axis=1)


def _to_s16(samples: np.ndarray) -> bytes:
    bounded = np.clip(np.nan_to_num(samples, nan=0.0), -1.0, 1.0)
    return bytes(np.minimum(np.rint(bounded * 32768.0), 32767).astype("<i2").tobytes())
