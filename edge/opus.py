"""Opus packets become 16-bit samples, through the system's libopus.

Does: decode one packet at a time, keep the decoder's state, say in one sentence when the library
is missing.
Does not know: RTP, legs. Nothing is installed for it: libopus comes with the system (libopus0).
"""

import ctypes
import ctypes.util
from functools import lru_cache

_OK = 0


class OpusError(Exception):
    """The library is missing, or the packet is not Opus."""


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("opus")
    if name is None:
        raise OpusError("Opus needs the library libopus of the system: apt-get install libopus0")
    library = ctypes.CDLL(name)
    library.opus_decoder_create.restype = ctypes.c_void_p
    library.opus_decoder_create.argtypes = [
        ctypes.c_int32,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_int),
    ]
    library.opus_decode.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int,
    ]
    library.opus_decoder_destroy.argtypes = [ctypes.c_void_p]
    library.opus_packet_get_nb_samples.argtypes = [ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32]
    return library


def is_available() -> bool:
    """Whether this machine can decode Opus."""
    try:
        return bool(_library())
    except (OpusError, OSError):
        return False


def packet_samples(packet: bytes, rate: int) -> int:
    """Count the samples of a packet at a rate. Raises OpusError."""
    count = int(_library().opus_packet_get_nb_samples(packet, len(packet), rate)) if packet else 0
    if count <= 0:
        raise OpusError("not an Opus packet")
    return count


class OpusDecoder:
    """One mono stream at 8, 12, 16, 24 or 48 kHz."""

    def __init__(self, rate: int) -> None:
        error = ctypes.c_int()
        self.rate = rate
        self._library = _library()
        self._state = self._library.opus_decoder_create(rate, 1, ctypes.byref(error))
        if error.value != _OK:
            raise OpusError(f"libopus refuses {rate} Hz")

    def decode(self, packet: bytes, samples: int) -> bytes:
        """Return exactly ``samples`` of 16-bit audio; a broken packet is concealed."""
        pcm = ctypes.create_string_buffer(2 * samples)
        got = self._library.opus_decode(self._state, packet, len(packet), pcm, samples, 0)
        return pcm.raw if got == samples else self.conceal(samples)

    def conceal(self, samples: int) -> bytes:
        """Return what the decoder makes of a packet that is missing."""
        pcm = ctypes.create_string_buffer(2 * samples)
        self._library.opus_decode(self._state, None, 0, pcm, samples, 0)
        return pcm.raw

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state:
            self._library.opus_decoder_destroy(state)
