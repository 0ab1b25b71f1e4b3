"""A live session on its way to whoever goes on with it: state, words, the audio still needed.

Does: put it together from a leg and what the server gave up; bytes <-> frames of the link.
Does not know: sockets, stores, who may have it.
"""

from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec import Struct

from edge import wire
from edge.leg import Leg
from edge.recogniser import Past
from edge.wire import LAST, Frame, FrameError, Kind, Open, Result
from server.store.moving import Moved

PART_BYTES = 60_000
T = TypeVar("T", bound=Struct)
MAX_BYTES = 64 * 1024 * 1024
"""The largest models in 32 bits, and the words of a long call."""


class Handover(Struct, frozen=True, array_like=True):
    """Everything of a leg."""

    opening: Open
    """With the epoch of whoever takes it."""
    finals: tuple[Result, ...]
    covered: int
    """Samples whose words are final."""
    origin: int
    """Where the server's session began on the leg."""
    before: int
    """Finals before that session."""
    moved: Moved | None
    """The server's session; None: it begins anew behind ``covered``."""
    base: int
    """The oldest sample in ``audio``."""
    audio: tuple[tuple[int, bytes | None], ...]
    is_ended: bool = False

    @property
    def past(self) -> Past | None:
        """The session to go on with."""
        if self.moved is None:
            return None
        return Past(self.moved.token, self.origin, self.before)

    def pack(self) -> bytes:
        """Return its bytes."""
        return msgspec.msgpack.encode(self)


def read(data: bytes) -> Handover:
    """Return the handover in bytes. Raises FrameError."""
    return _decode(data, Handover)


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError("a STATE that cannot be read") from error


class Ahead(Struct, frozen=True, array_like=True):
    """The heavy part of a handover, sent while the words go on."""

    snapshot: tuple[int, int, bytes] | None
    """(sample, entries, blob) of the server's session; None: there is none."""

    def pack(self) -> bytes:
        """Return its bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def read(cls, data: bytes) -> "Ahead":
        """Return what is in bytes. Raises FrameError."""
        return _decode(data, cls)

    def taken_from(self, given: Handover) -> Handover:
        """Return a handover without what went ahead."""
        moved = given.moved
        if moved is None or moved.snapshot is None or moved.snapshot != self.snapshot:
            return given  # there is none, or a newer one was written meanwhile
        return _with_snapshot(given, moved, (*moved.snapshot[:2], b""))

    def put_into(self, given: Handover) -> Handover:
        """Return a handover with what went ahead. Raises FrameError."""
        moved = given.moved
        if moved is None or moved.snapshot is None or moved.snapshot[2]:
            return given
        if self.snapshot is None or self.snapshot[:2] != moved.snapshot[:2]:
            raise FrameError("a STATE without its snapshot")
        return _with_snapshot(given, moved, self.snapshot)


def _with_snapshot(given: Handover, moved: Moved, snapshot: tuple[int, int, bytes]) -> Handover:
    return msgspec.structs.replace(given, moved=msgspec.structs.replace(moved, snapshot=snapshot))


def of(leg: Leg, moved: Moved | None, past: Past | None, covered: int) -> Handover:
    """Return what whoever goes on with a leg needs; its own epoch is raised by one."""
    origin, before = (past.origin, past.finals) if past else (0, 0)
    needed = covered if moved is None else min(covered, origin + moved.at)
    opening = msgspec.structs.replace(leg.opening, epoch=leg.opening.epoch + 1)
    return Handover(
        opening,
        tuple(leg.transcript.finals),
        covered,
        origin,
        before,
        moved,
        max(needed, leg.ring.base),
        tuple(_audio(leg, max(needed, leg.ring.base))),
        leg.ring.is_ended,
    )


def _audio(leg: Leg, at: int) -> Iterator[tuple[int, bytes | None]]:
    while (span := leg.ring.read(at, leg.opening.rate)) is not None:
        yield span.samples, span.data
        at = span.end


def frames(leg: int, data: bytes) -> Iterator[Frame]:
    """Yield the frames that carry a handover."""
    for at in range(0, len(data), PART_BYTES):
        part = data[at : at + PART_BYTES]
        flags = LAST if at + len(part) == len(data) else 0
        yield Frame(Kind.STATE, leg, at, part, flags)


class Assembly:
    """Frames become the bytes they carried."""

    def __init__(self) -> None:
        self._data = bytearray()

    def take(self, frame: Frame) -> bytes | None:
        """Take the next frame; the whole when it was the last. Raises FrameError."""
        if frame.offset != len(self._data):
            raise FrameError("a STATE out of its order")
        if len(self._data) + len(frame.payload) > MAX_BYTES:
            raise FrameError("a STATE that is too large")
        self._data += frame.payload
        return bytes(self._data) if frame.flags & wire.LAST else None
