"""RTCP (RFC 3550) without I/O: who says that it is over.

Does: tell RTCP from RTP on one port (RFC 5761), read the BYE of a compound packet.
Does not know: reports, descriptions, sockets, SRTCP.
"""

import struct
from collections.abc import Set

from edge.adapters.events import FeedError

_HEAD = struct.Struct(">BBH")
_BYE = 203
_KINDS = range(192, 224)
PAYLOAD_TYPES = range(64, 96)
"""What RTCP looks like to who reads RTP: such payload types mean no audio."""


def is_control(datagram: bytes) -> bool:
    """Whether a datagram on a port of RTP is RTCP."""
    return len(datagram) > 1 and datagram[1] in _KINDS


def leaving(datagram: bytes) -> Set[int]:
    """Return the sources that say BYE; raises FeedError."""
    at, sources = 0, set[int]()
    while at < len(datagram):
        if len(datagram) - at < _HEAD.size:
            raise FeedError("a truncated RTCP header")
        first, kind, words = _HEAD.unpack_from(datagram, at)
        count, body = first & 31, at + _HEAD.size
        at = body + 4 * words
        if first >> 6 != 2 or kind not in _KINDS or at > len(datagram):
            raise FeedError("what is no RTCP")
        if kind == _BYE:
            if count > words:
                raise FeedError("a truncated BYE")
            sources.update(struct.unpack_from(f">{count}I", datagram, body))
    return sources
