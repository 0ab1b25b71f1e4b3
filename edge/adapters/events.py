"""What every feed comes down to.

Does: name the values between a parser and the node.
Does not know: protocols, sockets, legs.
"""

from dataclasses import dataclass

from edge.wire import Encoding


class FeedError(Exception):
    """The peer broke its own protocol; the text is one sentence without speech."""


@dataclass(frozen=True, slots=True)
class Started:
    """A feed begins: ``tracks`` are its speakers, each becomes a leg."""

    name: str
    encoding: Encoding
    rate: int
    tracks: tuple[str, ...] = ("inbound",)


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples of a track; ``at`` is their offset where the protocol says one."""

    data: bytes
    track: str = "inbound"
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """Time that passed without audio, on every track."""

    samples: int


@dataclass(frozen=True, slots=True)
class Digit:
    """A key was pressed."""

    digit: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing follows."""

    reason: str = ""


Event = Started | Audio | Missing | Digit | Ended
