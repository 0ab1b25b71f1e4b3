"""RTP (RFC 3550) without I/O: datagrams become audio in its order.

Does: parse headers, unwrap sequence numbers and time stamps, G.711 and L16 as they came (L16 turned
to little endian), packets of Opus and G.722 whole, reorder and conceal; a new SSRC goes on in the
same leg once the old one is silent, and is not heard beside it.
Does not know: sockets, SDP, RTCP, SRTP.
"""

import math
import struct
from collections.abc import Set
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
RATES_HZ = range(8_000, 48_001)
SWITCH_PACKETS = 3
"""So many packets of another codec in a row are no strays: the call was negotiated anew."""
TAKE_OVER_S = 0.2
"""Another SSRC goes on with the call when the one before it was silent for so long."""
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
    if int(rate or 8_000) not in RATES_HZ:
        raise ValueError(f"{name}: RATE is {RATES_HZ[0]} to {RATES_HZ[-1]}")
    return Codec(encodings[kind], int(rate or 8_000), is_big_endian=kind == "l16")


class _Heard(NamedTuple):
    packet: Packet
    samples: int
    data: bytes
    arrived: float


@dataclass(slots=True)
class RtpStream:
    """Datagrams of one address."""

    codecs: dict[int, Codec] = field(default_factory=lambda: dict(STATIC))
    window_s: float = 0.06
    codec: Codec | None = None
    """Known from the first packet on."""
    bad: int = 0
    other_codec: int = 0
    """Packets of another codec than the first one: telephone events, comfort noise, strays."""
    strays: list[bytes] = field(default_factory=list)
    """Datagrams of another known codec since ours was heard: after so many the sender has switched,
    and another stream begins with them."""
    other_source: int = 0
    """Packets of another source that spoke beside ours: both together would double the time."""
    source_changes: int = 0
    over_at: float = math.inf
    """When the call is over: its source said so, and its last packets had their time to come."""
    window: ReorderWindow | None = None
    _source: int | None = None
    _source_heard: float = 0.0
    """When its last packet came."""
    _waiting: list[_Heard] = field(default_factory=list)
    """What another source said since."""
    _stamp: int | None = None

    def receive(self, datagram: bytes, *, now: float) -> list[Piece]:
        """Take a datagram; one that is no audio of ours is counted, never fatal."""
        try:
            packet = parse(datagram)
            codec = self.codecs.get(packet.payload_type)
            if codec is None or (self.codec is not None and codec != self.codec):
                self.other_codec += 1
                if codec is not None:
                    self.strays.append(datagram)
                return []
            samples, data = _audio(packet, codec)
            self.strays.clear()
        except (FeedError, OpusError, g722.G722Error, ValueError):
            self.bad += 1
            return []
        if self.window is None:
            self.codec = codec
            self.window = ReorderWindow(codec.encoding, codec.rate, self.window_s)
        heard = _Heard(packet, samples, data, now)
        if self._source in (None, packet.source):
            self.other_source += len(self._waiting)
            self._waiting.clear()
            self._source, self._source_heard = packet.source, now
            return self._place(heard)
        if (self._waiting or [heard])[0].packet.source == packet.source:
            self._waiting.append(heard)
        else:
            self.other_source += 1
        return self._taken_over(now)

    @property
    def has_switched(self) -> bool:
        """Whether the sender speaks another codec now, for good."""
        return len(self.strays) >= SWITCH_PACKETS

    def leave(self, sources: Set[int], *, now: float) -> None:
        """Note who said BYE; another source may still go on with the call."""
        if self._source in sources:
            self.over_at = now + self.window_s

    def handle_timer(self, *, now: float) -> list[Piece]:
        """Give up on packets, and on a source, that did not come."""
        if self.window is None:
            return []
        return self._taken_over(now) + self.window.handle_timer(now=now)

    def flush(self) -> list[Piece]:
        """Give everything that is held."""
        if self.window is None:
            return []
        return self._taken_over(math.inf) + self.window.flush()

    def _taken_over(self, now: float) -> list[Piece]:
        """Go on with the source that waits, from its first packet on, if ours is silent."""
        assert self.window is not None
        waiting = self._waiting
        is_silent = now - self._source_heard >= TAKE_OVER_S or self.over_at < math.inf
        if not waiting or not is_silent:
            return []
        (packet, _, _, arrived), self._waiting = waiting[0], []
        self.source_changes, self.over_at = self.source_changes + 1, math.inf
        self._source, self._source_heard, self._stamp = packet.source, waiting[-1].arrived, None
        pieces = self.window.restart(self._stamp_of(packet), now=arrived)
        return pieces + [piece for heard in waiting for piece in self._place(heard)]

    def _place(self, heard: _Heard) -> list[Piece]:
        assert self.window is not None
        packet, samples, data, arrived = heard
        return self.window.receive(self._stamp_of(packet), samples, data, now=arrived)

    def _stamp_of(self, packet: Packet) -> int:
        """Return the time stamp of a packet of our source, unwrapped, in samples."""
        assert self.codec is not None
        self._stamp = unwrap(self._stamp, packet.stamp, 32)
        if self.codec.clock_hz is None:
            return self._stamp
        return self._stamp * self.codec.rate // self.codec.clock_hz


def _audio(packet: Packet, codec: Codec) -> tuple[int, bytes]:
    if not packet.payload:
        raise FeedError("an RTP packet without audio")
    if codec.encoding == "opus":
        return packet_samples(packet.payload, codec.rate), packet.payload
    if codec.encoding == "g722":
        return g722.packet_samples(packet.payload), packet.payload
    data = swapped(packet.payload) if codec.is_big_endian else packet.payload
    return len(data) // SAMPLE_BYTES[codec.encoding], data
