"""What the load laboratory asks of a wire: one conversation, without a socket or a clock.

Does: the interface, the events.
Does not know: any server's language.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from clients.load.plan import RATE_HZ

Payload = str | bytes
UNBOUNDED = 1 << 40


@dataclass(frozen=True, slots=True)
class Progress:
    """Audio up to this sample is decoded."""

    samples: int
    is_cumulative: bool = True
    """True: it stands for every chunk since the last one. False: for the newest chunk alone."""


@dataclass(frozen=True, slots=True)
class Words:
    """Words that end at this time were seen for the first time."""

    end_ms: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """A piece of the transcript that will not change."""

    text: str


@dataclass(frozen=True, slots=True)
class Over:
    """All is said."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The server refused or broke its own rules; one short reason without spoken text."""

    reason: str


Event = Progress | Words | Spoken | Over | Failed


class Wire(ABC):
    """One conversation: 16 kHz mono audio there, events back."""

    path: ClassVar[str] = "/"
    """Where the server listens when the URL does not say."""
    subprotocols: ClassVar[tuple[str, ...]] = ()
    ends_with_close: ClassVar[bool] = False
    """Whether a close with 1000 says that all is said."""

    def __init__(self, latency: str) -> None:
        """``latency``: a class of ours, or ms of audio a chunk. Raises ValueError."""
        self.latency = latency
        self.chunk_ms: int | None = None
        """Audio of a chunk, as soon as it is known."""
        self.is_open = False
        """Whether audio may be sent."""
        self._words_ms = 0.0

    @property
    def room_bytes(self) -> int:
        """How much 16-bit audio may be sent now."""
        return UNBOUNDED

    def hello(self) -> Sequence[Payload]:
        """Return what to send at once."""
        return ()

    @abstractmethod
    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the messages for a packet of 16-bit samples."""

    @abstractmethod
    def goodbye(self) -> Sequence[Payload]:
        """Return what says that no more audio comes."""

    @abstractmethod
    def receive(self, message: Payload) -> Sequence[Event]:
        """Read a message of the server. Raises ValueError for what cannot be read."""

    def answer(self) -> Sequence[Payload]:
        """Return what is to be sent after the message that was just read."""
        return ()

    def words_until(self, end_ms: float) -> Sequence[Event]:
        """Return the news of words up to here, where it is news."""
        if end_ms <= self._words_ms:
            return ()
        self._words_ms = end_ms
        return (Words(end_ms),)


def chunk_of(latency: str, wire: str) -> int:
    """Return the chunk of a server that cannot be asked for it."""
    if not latency.isdecimal() or not int(latency):
        raise ValueError(f"the wire {wire} needs the chunk of the server's model: --latency MS")
    return int(latency)


def fields_of(message: Payload) -> dict[str, Any]:
    """Return the JSON object in a message. Raises ValueError."""
    fields = json.loads(message)
    if not isinstance(fields, dict):
        raise ValueError("a message must be an object")
    return fields


def samples_of(ms: float) -> int:
    """Return the samples of a length of time."""
    return round(ms * RATE_HZ / 1000)
