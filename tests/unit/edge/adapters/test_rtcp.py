"""RTCP: who says BYE, told apart from RTP and from rubbish."""

import struct

import pytest

from edge.adapters.events import FeedError
from edge.adapters.rtcp import is_control, leaving

REPORT = struct.pack(">BBHI", 0x80, 201, 1, 7)
DESCRIPTION = struct.pack(">BBHI", 0x81, 202, 2, 7) + b"\x01\x02me"
REASON = b"\x06hanged\0"


def bye(*sources: int, reason: bytes = b"") -> bytes:
    words = len(sources) + len(reason) // 4
    head = struct.pack(">BBH", 0x80 | len(sources), 203, words)
    return head + struct.pack(f">{len(sources)}I", *sources) + reason


@pytest.mark.parametrize(
    ("datagram", "sources"),
    [
        (REPORT + DESCRIPTION, set()),
        (REPORT + DESCRIPTION + bye(7, reason=REASON), {7}),
        (bye(7, 2**32 - 1), {7, 2**32 - 1}),
        (bye(), set()),
    ],
    ids=["a report", "a whole one", "of two", "of nobody"],
)
def test_who_leaves_is_named(datagram: bytes, sources: set[int]) -> None:
    assert is_control(datagram)
    assert leaving(datagram) == sources


@pytest.mark.parametrize(
    "datagram",
    [
        b"\x80",
        REPORT[:6],
        REPORT + b"\x81",
        b"\x40" + REPORT[1:],
        REPORT + struct.pack(">BBHI", 0x80, 0, 1, 7),
        struct.pack(">BBHI", 0x82, 203, 1, 7),
    ],
)
def test_what_is_truncated_or_no_rtcp_is_named(datagram: bytes) -> None:
    with pytest.raises(FeedError):
        leaving(datagram)


@pytest.mark.parametrize("second", [0, 8, 0x80, 127, 0x80 | 96, 0x80 | 127])
def test_rtp_is_no_rtcp(second: int) -> None:
    assert not is_control(bytes([0x80, second]) + bytes(10))
