"""What a gateway and an engine process say to each other, and its frames on a stream socket.

Does: commands and reports as typed values; value <-> bytes (msgpack, length-prefixed, no pickle).
Does not know: sockets, threads, engines, sessions' wires.
Both ends are ours and of one version; a frame that cannot be read means a broken peer.
"""

from typing import Literal

import msgspec

from asr.events import (
    EagerEnd,
    Event,
    Final,
    Finalized,
    Partial,
    Progress,
    Stopped,
    TurnEnd,
    TurnResumed,
    TurnStart,
)

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Two channels of the largest models in 32 bits."""
_HEAD_BYTES = 4

Encoding = Literal["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]
PartialsMode = Literal["all", "stable", "none"]
Phrases = tuple[tuple[str, float], ...]
"""(phrase, weight), as boosted."""
FailureCode = Literal[
    "bad_request", "unsupported_audio", "over_capacity", "quarantined", "internal"
]
Doing = Literal["waiting", "warming", "working"]
"""What an engine's thread does."""

KINDS: tuple[type[Event], ...] = (
    TurnStart,
    Partial,
    Final,
    EagerEnd,
    TurnResumed,
    TurnEnd,
    Progress,
    Finalized,
    Stopped,
)
"""Position = number on the link."""
_NUMBER_OF = {kind: number for number, kind in enumerate(KINDS)}


class LinkError(Exception):
    """The peer sent what no peer of this version sends."""


class Value(msgspec.Struct, frozen=True, array_like=True):
    """Base of everything on the link."""


class Turns(Value, frozen=True, tag=True):
    """When a turn ends; None keeps the engine's default."""

    mode: Literal["auto", "manual"] = "auto"
    silence_ms: int = 700
    eager_ms: int | None = None
    max_turn_ms: int = 30_000
    hesitation_ms: int = 400


# ---- commands


class State(Value, frozen=True):
    """What is kept of one channel: a snapshot of all, a later record of its decoder."""

    snapshot: bytes | None = None
    record: bytes | None = None
    is_closed: bool = False


class Open(Value, frozen=True, tag=True):
    """A session begins, or goes on: one recogniser channel per audio channel."""

    session: int
    encoding: Encoding
    rate: int
    channels: int
    look_ahead: int
    language: str | None
    turns: Turns
    partials: PartialsMode
    words: bool
    boost: Phrases = ()
    states: tuple[State, ...] = ()
    """What each channel was; none: it begins."""
    at: int = 0
    """Samples that the snapshots have heard."""
    replay_until: int = 0
    """Audio up to here comes again, faster than it was said."""


class Audio(Value, frozen=True, tag=True):
    """Raw interleaved samples; ``sent`` is when they reached us (monotonic seconds), or PATIENT."""

    session: int
    data: bytes
    sent: float


class Gap(Value, frozen=True, tag=True):
    """Samples of each channel that were lost: time passes."""

    session: int
    samples: int


class Configure(Value, frozen=True, tag=True):
    """Other rules from the audio after it on."""

    session: int
    turns: Turns | None
    partials: PartialsMode | None
    boost: Phrases | None = None


class Finalize(Value, frozen=True, tag=True):
    """All words up to here become finals."""

    session: int
    req: str
    answered: tuple[int, ...] = ()
    """Audio channels that have answered it already."""


class Checkpoint(Value, frozen=True, tag=True):
    """Report all that the session is, soon."""

    session: int


class Stop(Value, frozen=True, tag=True):
    """No more audio: flush."""

    session: int


class Drop(Value, frozen=True, tag=True):
    """Forget the session at once."""

    session: int


class Quit(Value, frozen=True, tag=True):
    """End the worker."""


Command = Open | Audio | Gap | Configure | Finalize | Checkpoint | Stop | Drop | Quit


# ---- reports


class Model(Value, frozen=True, tag=True):
    """What the engine runs."""

    name: str
    fingerprint: str
    look_aheads: tuple[int, ...]
    streams: int
    """Audio channels at once; the engine keeps some more slots for forks."""
    precision: str
    decoder: str
    bytes_per_stream: int
    languages: tuple[str, ...]
    alphabet: str = ""
    """Characters that boosted phrases may have; empty: the engine cannot boost."""


class Device(Value, frozen=True):
    """What the engine runs on, and what an hour of audio costs there."""

    name: str = "cpu"
    cost: float = 0.0
    """In any unit, as long as all workers have the same."""


class Ready(Value, frozen=True, tag=True):
    """The engine is warm for its default look-ahead and takes sessions."""

    model: Model
    device: Device = Device()


class Opened(Value, frozen=True, tag=True):
    """The session has its slots."""

    session: int


class Happened(Value, frozen=True, tag=True):
    """One event of one channel."""

    session: int
    channel: int
    kind: int
    body: msgspec.Raw


class Record(Value, frozen=True):
    """What it takes to go on behind the finals of this step."""

    session: int
    channel: int
    blob: bytes


class Saved(Value, frozen=True, tag=True):
    """The answer to a checkpoint; no snapshots: this engine takes none.

    A channel that has stopped has an empty one.
    """

    session: int
    at: int
    """Samples that the snapshots have heard."""
    snapshots: tuple[bytes, ...]


class Step(Value, frozen=True, tag=True):
    """Events of one step and what it cost; ``seconds`` 0 when no batch ran.

    They count from the step before or the end of a wait: what comes with streams beside the model
    (their audio, their events) keeps the others waiting too.
    """

    events: tuple[Happened, ...]
    look_ahead: int
    batch: int
    seconds: float
    slots_in_use: int
    sessions: int
    records: tuple[Record, ...] = ()
    frames: int = 0
    """Encoder frames of each stream."""


class Failed(Value, frozen=True, tag=True):
    """The session cannot go on; its slots are free. ``message`` holds no spoken text."""

    session: int
    code: FailureCode
    message: str


class Unfit(Value, frozen=True, tag=True):
    """The engine cannot be made at all (a wrong model); a restart would not help."""

    reason: str


class Pulse(Value, frozen=True, tag=True):
    """The process lives; its engine has done this for so many beats."""

    doing: Doing
    beats: int


Report = Ready | Opened | Step | Saved | Failed | Unfit | Pulse

_encoder = msgspec.msgpack.Encoder()
_commands = msgspec.msgpack.Decoder(Command)
_reports = msgspec.msgpack.Decoder(Report)
_bodies = tuple(msgspec.msgpack.Decoder(kind) for kind in KINDS)


def happened(session: int, channel: int, event: Event) -> Happened:
    """Wrap an event for the link."""
    body = msgspec.Raw(_encoder.encode(event))
    return Happened(session, channel, _NUMBER_OF[type(event)], body)


def event_of(happened: Happened) -> Event:
    """Return the event in its wrapping."""
    try:
        event: Event = _bodies[happened.kind].decode(happened.body)
    except (IndexError, msgspec.MsgspecError) as error:
        raise LinkError("an event that cannot be read") from error
    return event


def frame(value: Command | Report) -> bytearray:
    """Return a value as one length-prefixed frame."""
    whole = bytearray(_HEAD_BYTES)
    _encoder.encode_into(value, whole, _HEAD_BYTES)
    size = len(whole) - _HEAD_BYTES
    if size > MAX_FRAME_BYTES:
        raise LinkError(f"a frame of {size} bytes")
    whole[:_HEAD_BYTES] = size.to_bytes(_HEAD_BYTES, "big")
    return whole


class _Deframer:
    """Cuts a byte stream into frame bodies, however the stream was cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def bodies(self, data: bytes | bytearray) -> list[bytes]:
        self._buffer += data
        bodies, start = list[bytes](), 0
        while len(self._buffer) - start >= _HEAD_BYTES:
            size = int.from_bytes(self._buffer[start : start + _HEAD_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                raise LinkError(f"a frame of {size} bytes")
            end = start + _HEAD_BYTES + size
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[start + _HEAD_BYTES : end]))
            start = end
        del self._buffer[:start]
        return bodies


class CommandReader(_Deframer):
    """Bytes from the gateway -> commands."""

    def feed(self, data: bytes | bytearray) -> list[Command]:
        """Take what came; return the commands that are complete."""
        try:
            return [_commands.decode(body) for body in self.bodies(data)]
        except msgspec.MsgspecError as error:
            raise LinkError("a command that cannot be read") from error


class ReportReader(_Deframer):
    """Bytes from an engine process -> reports."""

    def feed(self, data: bytes | bytearray) -> list[Report]:
        """Take what came; return the reports that are complete."""
        try:
            return [_reports.decode(body) for body in self.bodies(data)]
        except msgspec.MsgspecError as error:
            raise LinkError("a report that cannot be read") from error
