"""Transcript events of one live channel, in the order they are published.

Does: name the values between the recogniser and the wire.
Does not know: engines, sessions, sockets. Times are integer ms on the media clock of the channel.
"""

from dataclasses import dataclass
from typing import Literal

FinalCause = Literal["endpoint", "finalize", "stop", "max", "gap"]
TurnTrigger = Literal["silence", "model", "finalize", "timeout"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its span and confidence (0..1)."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float


@dataclass(frozen=True, slots=True)
class TurnStart:
    """Speech began."""

    turn: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Partial:
    """The open segment so far: ``text`` starts with ``stable``, which only grows within an id."""

    id: int
    rev: int
    stable: str
    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Final:
    """An immutable segment, exactly one per id; ids count up from 0."""

    id: int
    text: str
    start_ms: int
    end_ms: int
    confidence: float
    cause: FinalCause
    words: tuple[Word, ...]
    language: str = "en"


@dataclass(frozen=True, slots=True)
class EagerEnd:
    """The turn seems over; ``text`` is what its final would be."""

    turn: int
    at_ms: int
    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class TurnResumed:
    """Speech went on after an eager end."""

    turn: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The turn is over; its finals came before."""

    turn: int
    at_ms: int
    text: str
    trigger: TurnTrigger


@dataclass(frozen=True, slots=True)
class Progress:
    """Audio is decoded up to this many samples of the channel's own rate."""

    done_samples: int


@dataclass(frozen=True, slots=True)
class Finalized:
    """A finalize request is answered: every word up to ``at_samples`` is in a final."""

    req: str
    at_samples: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The channel is flushed and closed; nothing follows. ``finals`` were published in all."""

    done_samples: int
    finals: int


Event = (
    TurnStart | Partial | Final | EagerEnd | TurnResumed | TurnEnd | Progress | Finalized | Stopped
)
