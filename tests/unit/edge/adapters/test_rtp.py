"""RTP: headers, wrapping counters, byte order, and what is counted instead of heard."""

import math
import struct

import pytest

from edge.adapters.events import FeedError
from edge.adapters.rtp import TAKE_OVER_S, Codec, RtpStream, codec_of, parse, unwrap

UNIT = 160


def rtp(number: int, payload: bytes = bytes(UNIT), **fields: int) -> bytes:
    """A datagram; its stamp follows from its number."""
    kind, source = fields.get("kind", 0), fields.get("source", 7)
    stamp = fields.get("stamp", number * UNIT)
    return struct.pack(">BBHII", 0x80, kind, number & 0xFFFF, stamp & 0xFFFFFFFF, source) + payload


def test_contributors_extension_and_padding_are_no_audio() -> None:
    head = struct.pack(">BBHII", 0x80 | 0x20 | 0x10 | 2, 0x80, 65_535, 160, 7)
    extension = struct.pack(">HHI", 0xBEDE, 1, 0)
    packet = parse(head + bytes(8) + extension + b"abc" + b"\0\0\x03")
    assert packet.payload == b"abc"
    assert (packet.payload_type, packet.is_marked, packet.sequence) == (0, True, 65_535)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        bytes(12),
        struct.pack(">BBHII", 0x90, 0, 0, 0, 0),
        struct.pack(">BBHII", 0x8F, 0, 0, 0, 0),
        struct.pack(">BBHII", 0xA0, 0, 0, 0, 0) + b"\xff",
        struct.pack(">BBHIIHH", 0x90, 0, 0, 0, 0, 0, 9),
    ],
)
def test_a_truncated_or_foreign_datagram_is_named(datagram: bytes) -> None:
    with pytest.raises(FeedError):
        parse(datagram)
    stream = RtpStream()
    assert stream.receive(datagram, now=0.0) == []
    assert stream.bad == 1


def test_counters_unwrap_both_ways() -> None:
    assert unwrap(None, 5, 16) == 5
    assert unwrap(65_535, 2, 16) == 65_538
    assert unwrap(65_538, 1, 16) == 65_537
    assert unwrap(2**32 - 1, 5, 32) == 2**32 + 5


def test_time_stamps_wrap_in_mid_call_without_a_hole() -> None:
    stream, heard = RtpStream(), 0
    for number in range(10):
        stamp = 2**32 - 3 * UNIT + number * UNIT
        pieces = stream.receive(rtp(number, stamp=stamp), now=number * 0.02)
        heard += sum(piece.samples for piece in pieces)
    assert heard == 10 * UNIT
    assert stream.window is not None and stream.window.counts.clock_jumps == 0


def test_another_source_goes_on_in_the_same_stream_from_its_first_packet_on() -> None:
    stream = RtpStream()
    stream.receive(rtp(0), now=0.0)
    for number in range(3):
        packet = rtp(900 + number, bytes([number]) * UNIT, source=8, stamp=5 + number * UNIT)
        assert stream.receive(packet, now=0.02 + number * 0.02) == []
    assert stream.handle_timer(now=TAKE_OVER_S - 0.01) == []
    pieces = stream.handle_timer(now=TAKE_OVER_S)
    assert (
        b"".join(piece.data or b"" for piece in pieces)
        == b"\0" * UNIT + b"\1" * UNIT + b"\2" * UNIT
    )
    assert (stream.source_changes, stream.other_source) == (1, 0)


def test_another_source_that_speaks_just_before_the_end_is_heard() -> None:
    stream = RtpStream()
    stream.receive(rtp(0), now=0.0)
    assert stream.receive(rtp(900, b"b" * UNIT, source=8, stamp=5), now=0.02) == []
    assert [piece.data for piece in stream.flush()] == [b"b" * UNIT]


def test_of_two_sources_at_once_the_first_is_heard_and_the_others_are_counted() -> None:
    stream, heard = RtpStream(), b""
    for number in range(100):
        for source, sound in ((7, b"a"), (8, b"b"), (9, b"c")):
            packet = rtp(number, sound * UNIT, source=source, stamp=number * UNIT + source)
            pieces = stream.receive(packet, now=number * 0.02)
            heard += b"".join(piece.data or b"" for piece in pieces)
    assert heard == b"a" * 100 * UNIT
    assert (stream.source_changes, stream.other_source) == (0, 2 * 99 + 1)


def test_a_call_is_over_when_its_source_left_and_late_packets_had_their_time() -> None:
    stream = RtpStream(window_s=0.06)
    stream.receive(rtp(0), now=0.0)
    stream.leave({8}, now=0.02)
    assert stream.over_at == math.inf
    stream.leave({7, 8}, now=0.02)
    assert stream.over_at == pytest.approx(0.08)
    (piece,) = stream.receive(rtp(1, b"l" * UNIT), now=0.04)
    assert piece.data == b"l" * UNIT


def test_a_call_whose_source_left_goes_on_with_another_at_once() -> None:
    stream = RtpStream()
    stream.receive(rtp(0), now=0.0)
    stream.leave({7}, now=0.02)
    pieces = stream.receive(rtp(900, b"b" * UNIT, source=8, stamp=5), now=0.03)
    assert [piece.data for piece in pieces] == [b"b" * UNIT]
    assert stream.over_at == math.inf


def test_l16_is_turned_to_little_endian() -> None:
    stream = RtpStream({96: codec_of("L16/16000")})
    (piece,) = stream.receive(rtp(0, b"\x01\x02\x03\x04", kind=96), now=0.0)
    assert (piece.samples, piece.data) == (2, b"\x02\x01\x04\x03")
    assert stream.receive(rtp(1, b"\x01", kind=96), now=0.0) == []
    assert stream.bad == 1


def test_events_noise_and_another_codec_are_counted_not_heard() -> None:
    stream = RtpStream()
    stream.receive(rtp(0), now=0.0)
    for kind in (101, 13, 8):
        assert stream.receive(rtp(1, kind=kind), now=0.0) == []
    assert stream.other_codec == 3
    assert stream.codec == Codec("mulaw", 8_000)


def test_a_sender_has_switched_when_nothing_but_another_codec_comes() -> None:
    stream = RtpStream()
    for number, kind in enumerate([0, 8, 8, 0, 8, 101, 8]):  # strays, and an event among them
        stream.receive(rtp(number, kind=kind), now=0.0)
        assert not stream.has_switched
    stream.receive(rtp(7, kind=8), now=0.0)
    assert stream.has_switched


def test_g722_has_two_samples_for_each_tick_of_its_clock() -> None:
    stream, heard = RtpStream(), 0
    for number in (0, 1, 3, 2):  # stamps count 8000 a second, audio 16000
        pieces = stream.receive(rtp(number, kind=9), now=number * 0.02)
        heard += sum(piece.samples for piece in pieces)
    assert stream.codec is not None and stream.codec.rate == 16_000
    assert heard == 4 * 2 * UNIT
    assert stream.window is not None and stream.window.counts.clock_jumps == 0


@pytest.mark.parametrize("name", ["g729", "L16/fast", ""])
def test_a_codec_that_we_do_not_know_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="known are"):
        codec_of(name)


def test_names_of_codecs_are_those_of_sdp() -> None:
    assert codec_of("PCMA") == Codec("alaw", 8_000)
    assert codec_of("L16/48000") == Codec("pcm_s16le", 48_000, is_big_endian=True)
    assert codec_of("opus/48000/2").encoding == "opus"
