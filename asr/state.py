"""Plain values and opaque bytes as one checked blob, and back: no pickle, no torch.

Does: JSON with arrays, a checksum, a version; refuse what is damaged.
Does not know: what the values mean.
"""

import base64
import json
import zlib
from typing import Any

import numpy as np

from asr.interface import BadSnapshot, Samples

_WHOLE, _HEAD_ONLY = b"RVC1", b"RVC2"
_HEAD_BYTES = len(_WHOLE) + 8

State = dict[str, Any]
"""What JSON can hold."""


def pack(state: State, blob: bytes, *, checks_itself: bool = False) -> bytes:
    """Return magic, crc32 of the rest, length of the values, values, blob.

    A blob that ``checks_itself`` is large and is not read twice: the checksum ends before it.
    """
    values = json.dumps(state, separators=(",", ":")).encode()
    head = len(values).to_bytes(4, "little") + values
    magic, crc = _HEAD_ONLY, zlib.crc32(head)
    if not checks_itself:
        magic, crc = _WHOLE, zlib.crc32(blob, crc)
    return b"".join([magic, crc.to_bytes(4, "little"), head, blob])  # one copy: it is large


def unpack(packed: bytes) -> tuple[State, bytes]:
    """Return what ``pack`` was given. Raises BadSnapshot."""
    magic, crc, body = packed[:4], int.from_bytes(packed[4:8], "little"), packed[8:]
    end = 4 + int.from_bytes(body[:4], "little")
    known = {_WHOLE: len(body), _HEAD_ONLY: end}
    is_cut = len(packed) < _HEAD_BYTES or end > len(body)
    if is_cut or magic not in known or zlib.crc32(body[: known[magic]]) != crc:
        raise BadSnapshot("not the state of a channel, or damaged")
    return json.loads(body[4:end]), body[end:]


def text_of(samples: Samples) -> str:
    """Return samples as text, bit for bit."""
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


def samples_of(text: str) -> Samples:
    """Return the samples in ``text_of``'s text."""
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
