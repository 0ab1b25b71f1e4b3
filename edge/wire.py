"""The uplink between an edge node and a core: many legs over one connection, without I/O.

Does: frames <-> bytes, however the bytes are cut; JSON bodies of control frames as typed values.
Does not know: sockets, TLS, clocks, which frame is legal when (edge.leg and edge.core do).

A frame is 20 bytes, big endian, and a payload: version u8, kind u8, flags u16, leg u32, offset u64,
length u32. Offsets count samples of the leg since it began.

| kind | way | offset | payload |
|-|-|-|-|
| HELLO | up, first | - | Hello |
| WELCOME | down, first | - | Welcome |
| OPEN | up | oldest sample the node still has | Open |
| NEED | down | send from here | Credit |
| AUDIO | up | of its first sample | samples as they came (flags: how many, of a packet; AHEAD) |
| SILENCE | up | of its first sample | u64: so many samples were lost or never sent (flag AHEAD) |
| ACK | down | received up to here | Credit |
| RESULT | down; up under `edge` | number of the final, from 0 | Result |
| RESULT_ACK | against RESULT | finals before this number are safe | - |
| STATE | up; between nodes | of its first byte | part of a Handover; flag 1: the last one |
| STATE | up under `edge`; down | the same; bytes in all | part of what goes ahead; -: it is here |
| MOVE | up; down; between nodes | - | Where: who has this session? |
| CLOSE | both | up: total samples; down: finals in all | Close |
| PING | both | any; flag 1: the answer, with the same offset | up, now and then: Beat |
"""

import struct
from enum import IntEnum
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

VERSION = 1
HEAD = struct.Struct(">BBHIQI")
MAX_PAYLOAD_BYTES = 65_536
CREDIT = struct.Struct(">QQQ")
COUNT = struct.Struct(">Q")
ANSWER = 1
"""Flag of a PING or CLOSE that answers one; after the answer to its CLOSE a leg is forgotten."""
LAST = 1
"""Flag of the last STATE."""
PARTIAL = 1
"""Flag of a RESULT that has no number: the next one replaces it, nobody acknowledges it."""
AHEAD = 0x8000
"""Flag of AUDIO and SILENCE that go ahead of a backlog, without a hole among themselves."""
MAX_AHEAD_S = 60
"""So much of a leg may go ahead."""

Encoding = Literal["mulaw", "alaw", "pcm_s16le", "opus", "g722"]
Policy = Literal["core", "core+local", "edge"]
CloseReason = Literal[
    "done", "fenced", "refused", "failed", "expired", "too_far_ahead", "bad_frame", "unauthorized"
]
SAMPLE_BYTES: dict[Encoding, int] = {
    "mulaw": 1,
    "alaw": 1,
    "pcm_s16le": 2,
    "opus": 0,
    "g722": 0,
}
"""0: packets, which are never cut."""


class Kind(IntEnum):
    """What a frame is."""

    OPEN = 1
    AUDIO = 2
    SILENCE = 3
    ACK = 4
    RESULT = 5
    RESULT_ACK = 6
    NEED = 7
    CLOSE = 8
    PING = 9
    STATE = 10
    MOVE = 11
    HELLO = 12
    WELCOME = 13


class FrameError(Exception):
    """The peer sent what is no frame or no body: the connection cannot go on."""


class Frame(NamedTuple):
    """One message of one leg; leg 0 is the connection itself."""

    kind: Kind
    leg: int = 0
    offset: int = 0
    payload: bytes = b""
    flags: int = 0

    def pack(self) -> bytes:
        """Return its bytes."""
        if len(self.payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload of {len(self.payload)} bytes")
        head = HEAD.pack(VERSION, self.kind, self.flags, self.leg, self.offset, len(self.payload))
        return head + self.payload


class FrameReader:
    """Bytes -> frames, however the bytes were cut. Kinds that we do not know are skipped."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take what came; return the frames that are complete. Raises FrameError."""
        self._buffer += data
        frames, start = list[Frame](), 0
        while len(self._buffer) - start >= HEAD.size:
            version, kind, flags, leg, offset, size = HEAD.unpack_from(self._buffer, start)
            if version != VERSION:
                raise FrameError(f"frame version {version}")
            if size > MAX_PAYLOAD_BYTES:
                raise FrameError(f"a payload of {size} bytes")
            end = start + HEAD.size + size
            if len(self._buffer) < end:
                break
            if kind in _KINDS:
                payload = bytes(self._buffer[start + HEAD.size : end])
                frames.append(Frame(Kind(kind), leg, offset, payload, flags))
            start = end
        del self._buffer[:start]
        return frames


_KINDS = frozenset(Kind)


class Body(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """JSON of a control frame; fields we do not know are skipped: a newer peer may have more."""

    def pack(self) -> bytes:
        """Return its bytes."""
        return msgspec.json.encode(self)


class Hello(Body, frozen=True, kw_only=True):
    """Who dials."""

    node: str
    epoch: int
    """Grows with every connection of the node: an older one is fenced."""
    zone: str = ""
    token: str = ""
    """Join token; a core that asks for one refuses a node without it."""
    policies: tuple[Policy, ...] = ("core",)
    slots: int = 0
    """Legs it takes."""
    legs: int = 0
    codecs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """What it recognises with, where it does."""
    url: str = ""
    """Where users find it."""
    peer: str = ""
    """HOST:PORT where other nodes ask it for sessions that move to them."""


class Beat(Body, frozen=True, kw_only=True):
    """How a node is doing."""

    legs: int
    load: float = 0.0
    """Share of what it can take, 0..1."""
    rtt_ms: float | None = None
    """Of its way to the core."""
    backlog_s: float = 0.0
    """Audio of all legs that the core does not have yet."""
    spilled_bytes: int = 0


class Welcome(Body, frozen=True, kw_only=True):
    """The core takes the node."""

    core: str
    window_ms: int
    """Audio of a leg that may be on its way to words."""
    linger_ms: int
    """A leg whose node is silent is kept this long."""


class Open(Body, frozen=True, kw_only=True):
    """A leg begins, or goes on after a cut."""

    session: str
    secret: str
    """Proves that who goes on with a session is who began it."""
    encoding: Encoding
    rate: int
    epoch: int = 1
    """Of the leg: a handover raises it, and the node with the lower one is fenced."""
    finals: int = 0
    """Finals the node has: the next one has this number."""
    covered: int = 0
    """Samples whose words the node has."""
    policy: Policy = "core"
    latency: Literal["low", "balanced", "accurate"] | None = None
    language: str | None = None
    name: str = ""
    has_state: bool = False
    """STATE follows: the core is to go on from it."""


class Where(Body, frozen=True, kw_only=True):
    """Which node has a session; asked with its secret, answered with the node's address."""

    session: str
    secret: str = ""
    peer: str = ""
    """Empty: nobody, or nobody whom a node can ask."""
    node: str = ""
    """The name in its certificate."""


class Word(Struct, frozen=True, omit_defaults=True):
    """A word on the time line of its leg."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float = 1.0


class Result(Body, frozen=True, kw_only=True):
    """A final, or with flag PARTIAL the open text."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] = ()
    cause: str = ""


class Close(Body, frozen=True, kw_only=True):
    """A leg is over."""

    reason: CloseReason = "done"
    text: str = ""


class Credit(NamedTuple):
    """What the core says with NEED and ACK."""

    safe: int
    """Nobody will ask for samples before this one again."""
    limit: int
    """Samples before this one may be sent."""
    newest: int = 0
    """The offset behind the newest sample received, where some went ahead."""

    def pack(self) -> bytes:
        """Return its bytes."""
        return CREDIT.pack(self.safe, self.limit, self.newest)


B = TypeVar("B", bound=Body)


def body_of(frame: Frame, kind: type[B]) -> B:
    """Return the typed body of a frame; raises FrameError."""
    try:
        return msgspec.json.decode(frame.payload, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        # The reason alone: an encoding error would quote the text it failed on.
        raise FrameError(f"a {frame.kind.name} that cannot be read") from error


def credit_of(frame: Frame) -> Credit:
    """Return what a NEED or ACK carries; raises FrameError."""
    try:
        return Credit(*CREDIT.unpack(frame.payload))
    except struct.error as error:
        raise FrameError(f"a {frame.kind.name} of {len(frame.payload)} bytes") from error


def count_of(frame: Frame) -> int:
    """Return the samples of a SILENCE; raises FrameError."""
    try:
        count: tuple[Any, ...] = COUNT.unpack(frame.payload)
    except struct.error as error:
        raise FrameError(f"a SILENCE of {len(frame.payload)} bytes") from error
    return int(count[0])
