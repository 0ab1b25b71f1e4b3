"""Opus as a softphone sends it: packets of the system's own encoder."""

import ctypes
import ctypes.util

import numpy as np
from numpy.typing import NDArray

RATE_HZ, UNIT = 16_000, 320
"""20 ms a packet."""
_VOICE, _SET_BITRATE, _MAX_BYTES = 2_048, 4_002, 1_500


def packets(pcm: NDArray[np.int16], *, bits_per_s: int | None = None) -> list[bytes]:
    """Encode 16 kHz samples; ``bits_per_s`` None: as many as the encoder finds right."""
    library = ctypes.CDLL(ctypes.util.find_library("opus"))
    library.opus_encoder_create.restype = ctypes.c_void_p
    error = ctypes.c_int()
    state = ctypes.c_void_p(library.opus_encoder_create(RATE_HZ, 1, _VOICE, ctypes.byref(error)))
    assert error.value == 0
    if bits_per_s is not None:
        assert library.opus_encoder_ctl(state, _SET_BITRATE, ctypes.c_int(bits_per_s)) == 0
    made, room = list[bytes](), ctypes.create_string_buffer(_MAX_BYTES)
    for at in range(0, len(pcm) - UNIT + 1, UNIT):
        unit = np.ascontiguousarray(pcm[at : at + UNIT], np.int16)
        where = unit.ctypes.data_as(ctypes.c_void_p)
        size = library.opus_encode(state, where, UNIT, room, _MAX_BYTES)
        assert size > 0
        made.append(room.raw[:size])
    library.opus_encoder_destroy(state)
    return made
