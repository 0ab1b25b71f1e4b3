"""The head of a WAV file that arrives in pieces.

Does: bytes -> the announced format and the first audio; anything else is refused by name.
Does not know: what follows the audio (streamed WAV never says its length truly), files, sockets.
"""

import struct
from typing import NamedTuple

from server.wire import messages as native
from server.wire.errors import UnsupportedAudio
from server.wire.values import audio_format

MAX_HEADER_BYTES = 65_536
_ENCODINGS = {(1, 16): "pcm_s16le", (3, 32): "pcm_f32le", (7, 8): "mulaw", (6, 8): "alaw"}
_EXTENSIBLE = 0xFFFE


class Opened(NamedTuple):
    """What the header says, and the audio that came with it."""

    audio: native.AudioFormat
    first: bytes


class WavHeader:
    """Collects bytes until the audio begins."""

    def __init__(self) -> None:
        self._seen = b""

    def push(self, data: bytes) -> Opened | None:
        """Return the format when the header is whole; raises UnsupportedAudio."""
        self._seen += data
        seen = self._seen
        if not b"RIFF".startswith(seen[:4]) or not b"WAVE".startswith(seen[8:12]):
            raise UnsupportedAudio("audio without 'encoding' must be WAV here")
        at, audio = 12, None
        while len(seen) >= at + 8:
            name, size = seen[at : at + 4], int.from_bytes(seen[at + 4 : at + 8], "little")
            if name == b"data":
                if audio is None:
                    raise UnsupportedAudio("this WAV has no 'fmt ' before its audio")
                return Opened(audio, seen[at + 8 :])
            if name == b"fmt " and len(seen) >= at + 8 + min(size, 26):
                audio = _format(seen[at + 8 : at + 8 + size])
            at += 8 + size + size % 2
            if at > MAX_HEADER_BYTES:
                raise UnsupportedAudio("this WAV has too much before its audio")
        if len(seen) > MAX_HEADER_BYTES:
            raise UnsupportedAudio("this WAV has too much before its audio")
        return None


def _format(body: bytes) -> native.AudioFormat:
    if len(body) < 16:
        raise UnsupportedAudio("this WAV has a short 'fmt '")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if kind == _EXTENSIBLE and len(body) >= 26:
        kind = int.from_bytes(body[24:26], "little")
    if (kind, bits) not in _ENCODINGS:
        raise UnsupportedAudio("this WAV is neither 16-bit, float, mu-law nor A-law")
    return audio_format(_ENCODINGS[kind, bits], rate, channels)
