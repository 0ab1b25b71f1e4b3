"""G.711 and 16-bit samples the other way round: what concealment and byte order need.

Does: samples -> mu-law and A-law codes (the nearest level), silence and fading in each encoding,
big endian to little.
Does not know: packets, legs. Decoding is asr.audio's.
"""

import numpy as np
from numpy.typing import NDArray

from asr.audio import decode
from edge.wire import Encoding

_LAWS: tuple[Encoding, ...] = ("mulaw", "alaw")
_SILENCE: dict[Encoding, bytes] = {"mulaw": b"\xff", "alaw": b"\xd5", "pcm_s16le": b"\0\0"}


def _nearest(encoding: Encoding) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Borders between neighbouring levels and the code of each level."""
    levels = decode(bytes(range(256)), encoding)[0] * 32_768
    order = np.argsort(levels, kind="stable")
    borders: NDArray[np.float32] = (levels[order][:-1] + levels[order][1:]) / 2
    return borders, order.astype(np.uint8)


_NEAREST = {encoding: _nearest(encoding) for encoding in _LAWS}


def encode(pcm: NDArray[np.int16], encoding: Encoding) -> bytes:
    """Return 16-bit samples in an encoding, each as its nearest level."""
    if encoding == "pcm_s16le":
        return pcm.astype("<i2").tobytes()
    borders, codes = _NEAREST[encoding]
    return codes[np.searchsorted(borders, pcm)].tobytes()


def silence(encoding: Encoding, samples: int) -> bytes:
    """Return silent audio."""
    return _SILENCE[encoding] * samples


def faded(data: bytes, encoding: Encoding, *, begin: float, end: float) -> bytes:
    """Return audio whose loudness goes from one factor to another."""
    samples = decode(data, encoding)[0] * 32_768
    loud = samples * np.linspace(begin, end, len(samples), dtype=np.float32)
    return encode(loud.astype(np.int16), encoding)


def swapped(data: bytes) -> bytes:
    """Return 16-bit samples in the other byte order. Raises ValueError for half a sample."""
    return np.frombuffer(data, "<i2").byteswap().tobytes()
