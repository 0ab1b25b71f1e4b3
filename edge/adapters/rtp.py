"""RTP (RFC 3550) without I/O: datagrams become audio in its order.

Does: parse headers, unwrap sequence numbers and time stamps, G.711 and L16 as they came (L16 turned
to little endian), packets of Opus and G.722 whole, reorder and conceal; a new SSRC goes on in the
same leg.
Does not know: sockets, SDP, RTCP, SRTP.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from edge import g722
from edge.adapters.events import FeedError
from edge.g711 import swapped
from edge.media import Piece, ReorderWindow
from edge.opus import OpusError, packet_samples
from edge.wire import SAMPLE_BYTES, Encoding

_HEAD = struct.Struct(">BBHII")
_EXTENSION = struct.Struct(">HH")
OPUS_CLOCK_HZ = 48_000
OPUS_RATE_HZ = 16_000
"""Opus is decoded at this rate; its RTP clock always says 48000."""
SWITCH_PACKETS = 3
"""So many packets of another codec in a row are no strays: the call was negotiated anew."""
G722_CLOCK_HZ = 8_000
"""An error of RFC 1890 that was kept: the audio has 16000 samples a second."""


class Packet(NamedTuple):
    """One parsed datagram."""

    payload_type: int
    is_marked: bool
    sequence: int
    stamp: int
    source: int
    payload: bytes


def parse(datagram: bytes) -> Packet:
    """Return the packet in a datagram; raises FeedError."""
    if len(datagram) < _HEAD.size:
        raise FeedError("a datagram too short for RTP")
    first, second, sequence, stamp, source = _HEAD.unpack_from(datagram)
    if first >> 6 != 2:
        raise FeedError(f"RTP version {first >> 6}")
    begin = _HEAD.size + 4 * (first & 15)
    if first & 16:
        if len(datagram) < begin + _EXTENSION.size:
            raise FeedError("a truncated RTP extension")
        begin += _EXTENSION.size + 4 * _EXTENSION.unpack_from(datagram, begin)[1]
    end = len(datagram)
    if first & 32:
        end -= datagram[-1]
    if begin > end:
        raise FeedError("a truncated RTP packet")
    return Packet(second & 127, bool(second >> 7), sequence, stamp, source, datagram[begin:end])


def unwrap(previous: int | None, value: int, bits: int) -> int:
    """Extend a wrapping counter to the value nearest to the previous one."""
    if previous is None:
        return value
    span = 1 << bits
    return previous + (value - previous + span // 2) % span - span // 2


@dataclass(frozen=True, slots=True)
class Codec:
    """What a payload type means."""

    encoding: Encoding
    rate: int
    is_big_endian: bool = False
    clock_hz: int | None = None
    """Of its RTP time stamps, where that is not the rate."""


STATIC: dict[int, Codec] = {
    0: Codec("mulaw", 8_000),
    8: Codec("alaw", 8_000),
    9: Codec("g722", g722.RATE_HZ, clock_hz=G722_CLOCK_HZ),
    11: Codec("pcm_s16le", 44_100, is_big_endian=True),
}


def codec_of(name: str) -> Codec:
    """Return the codec of a name as SDP writes it, ``L16/16000``. Raises ValueError."""
    kind, _, rate = name.lower().partition("/")
    if kind == "opus":
        return Codec("opus", OPUS_RATE_HZ, clock_hz=OPUS_CLOCK_HZ)
    if kind == "g722":
        return STATIC[9]
    encodings: dict[str, Encoding] = {"pcmu": "mulaw", "pcma": "alaw", "l16": "pcm_s16le"}
    if kind not in encodings or not (rate or "8000").isdecimal():
        raise ValueError(f"{name}: known are PCMU, PCMA, G722, L16/RATE and opus")
    return Codec(encodings[kind], int(rate or 8_000), is_big_endian=kind == "l16")


@dataclass(slots=True)
class RtpStream:
    """Datagrams of one sender."""

    codecs: dict[int, Codec] = field(default_factory=lambda: dict(STATIC))
    window_s: float = 0.06
    codec: Codec | None = None
    """Known from the first packet on."""
    bad: int = 0
    other_codec: int = 0
    """Packets of another codec than the first one: telephone events, comfort noise, strays."""
    has_switched: bool = False
    """The sender speaks another codec now, for good: another stream begins."""
    source_changes: int = 0
    window: ReorderWindow | None = None
    _source: int | None = None
    _stamp: int | None = None
    _strays: int = 0

    def receive(self, datagram: bytes, *, now: float) -> list[Piece]:
        """Take a datagram; one that is no audio of ours is counted, never fatal."""
        try:
            packet = parse(datagram)
            codec = self.codecs.get(packet.payload_type)
            if codec is None or (self.codec is not None and codec != self.codec):
                self._other(codec)
                return []
            samples, data = _audio(packet, codec)
            self._strays = 0
        except (FeedError, OpusError, g722.G722Error, ValueError):
            self.bad += 1
            return []
        if self.window is None:
            self.codec = codec
            self.window = ReorderWindow(codec.encoding, codec.rate, self.window_s)
        return self._place(packet, samples, data, now)

    def _other(self, codec: Codec | None) -> None:
        self.other_codec += 1
        if codec is not None:
            self._strays += 1
            self.has_switched = self._strays >= SWITCH_PACKETS

    def next_deadline(self) -> float:
        """When ``handle_timer`` has something to do."""
        return float("inf") if self.window is None else self.window.next_deadline()

    def handle_timer(self, *, now: float) -> list[Piece]:
        """Give up on packets that did not come."""
        return [] if self.window is None else self.window.handle_timer(now=now)

    def flush(self) -> list[Piece]:
        """Give everything that is held."""
        return [] if self.window is None else self.window.flush()

    def _place(self, packet: Packet, samples: int, data: bytes, now: float) -> list[Piece]:
        assert self.window is not None and self.codec is not None
        pieces = list[Piece]()
        is_new = self._source is not None and packet.source != self._source
        self._stamp = unwrap(None if is_new else self._stamp, packet.stamp, 32)
        stamp = self._stamp
        if self.codec.clock_hz is not None:
            stamp = stamp * self.codec.rate // self.codec.clock_hz
        if is_new:
            self.source_changes += 1
            pieces = self.window.restart(stamp, now=now)
        self._source = packet.source
        return pieces + self.window.receive(stamp, samples, data, now=now)


def _audio(packet: Packet, codec: Codec) -> tuple[int, bytes]:
    if not packet.payload:
        raise FeedError("an RTP packet without audio")
    if codec.encoding == "opus":
        return packet_samples(packet.payload, codec.rate), packet.payload
    if codec.encoding == "g722":
        return g722.packet_samples(packet.payload), packet.payload
    data = swapped(packet.payload) if codec.is_big_endian else packet.payload
    return len(data) // SAMPLE_BYTES[codec.encoding], data
