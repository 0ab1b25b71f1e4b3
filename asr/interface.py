"""What an engine is to everyone else: streams in slots, samples in, tokens out.

Does: name the values that cross the border of an engine and the protocol it keeps.
Does not know: how an engine computes, turns, words, sessions, sockets, wall-clock time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asr.tokenizer import Tokenizer

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 1_280
"""Samples of one encoder frame (80 ms): mel hop 160, subsampling 8."""
FRAME_MS = 80
HALF_WINDOW_SAMPLES = 200
"""What a frame hears behind where its last mel row is centred."""
PATIENT = math.inf
"""As a time of arrival: what came may wait for everything else."""

Samples = NDArray[np.float32]


def heard_samples(frames: int) -> int:
    """Count the samples that so many frames of a stream have heard."""
    return max(0, FRAME_SAMPLES * (frames - 1) + HALF_WINDOW_SAMPLES)


class EngineError(Exception):
    """Base of what an engine refuses."""


class NoFreeSlot(EngineError):
    """Every slot holds a stream; drop one or open an engine with more slots."""


class UnknownStream(EngineError):
    """The stream was dropped, or never opened here."""


class UnsupportedLookAhead(EngineError):
    """The model was not trained for this look-ahead."""


class BadSnapshot(EngineError):
    """A snapshot is damaged, or belongs to another model or version."""


class BadBiasing(EngineError):
    """A phrase or a weight that this engine cannot favour; the message names which."""


MAX_PHRASES = 1_000
MAX_PHRASE_CHARS = 64
MAX_WEIGHT = 10.0


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words to favour; ``weight`` 0..10, nats for each piece of the model's vocabulary."""

    text: str
    weight: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Biasing:
    """What the decoder of one stream favours. Raises BadBiasing beyond the limits."""

    phrases: tuple[Phrase, ...] = ()
    lm_weight: float | None = None
    """Share of the engine's language model, if it has one; None: the engine's own."""

    def __post_init__(self) -> None:
        if len(self.phrases) > MAX_PHRASES:
            raise BadBiasing(f"{len(self.phrases)} phrases, the limit is {MAX_PHRASES}")
        for number, phrase in enumerate(self.phrases):
            if not 0 < len(phrase.text) <= MAX_PHRASE_CHARS:
                raise BadBiasing(f"phrase {number} must have 1 to {MAX_PHRASE_CHARS} characters")
            if not 0 <= phrase.weight <= MAX_WEIGHT:
                raise BadBiasing(f"the weight of phrase {number} must be 0 to {MAX_WEIGHT:g}")
        if self.lm_weight is not None and not 0 <= self.lm_weight <= MAX_WEIGHT:
            raise BadBiasing(f"lm_weight must be 0 to {MAX_WEIGHT:g}")


NO_BIASING = Biasing()


@dataclass(frozen=True, slots=True)
class Token:
    """One emitted token: id, encoder frame of emission (80 ms), confidence 0..1."""

    id: int
    frame: int
    confidence: float
    decided: int = -1
    """Frame in which a search made sure of it; given as -1: in its own."""

    def __post_init__(self) -> None:
        if self.decided < 0:
            object.__setattr__(self, "decided", self.frame)


@dataclass(frozen=True, slots=True)
class Emission:
    """What one step did for one stream.

    ``frames`` is the total of encoder frames decoded since the stream began.
    ``finished`` is true once, when a finished stream has no frame left.
    ``open`` is what a search takes for likely behind ``tokens``; the next emission may differ.
    """

    stream: int
    frames: int
    tokens: tuple[Token, ...]
    finished: bool = False
    open: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a front end must know of the model an engine runs."""

    model: str
    fingerprint: str
    look_aheads: tuple[int, ...]
    """Supported look-aheads in encoder frames, the model's default first."""
    slots: int
    precision: str
    decoder: str
    bytes_per_stream: int
    languages: tuple[str, ...] = ("en",)
    turn_tokens: frozenset[int] = frozenset()
    """Ids of <EOU>/<EOB>: turn signals, never text."""
    late_ms: int = 0
    """How much later tokens come than they were spoken, as far as that was measured."""
    alphabet: str = ""
    """Characters that boosted phrases may have; empty: the engine cannot boost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """Cost of the last step, for metrics and admission."""

    look_ahead: int
    batch: int
    frames: int
    seconds: float


class StreamingEngine(Protocol):
    """Advances many streams by one chunk at a time. Single-threaded; only ``step`` takes long."""

    @property
    def info(self) -> EngineInfo:
        """What a front end must know of this engine."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary of the model."""
        ...

    @property
    def slots_in_use(self) -> int:
        """Streams and forks alive."""
        ...

    @property
    def last_step(self) -> StepStats | None:
        """Cost of the last batch, None before the first."""
        ...

    def prepare(self, biasing: Biasing) -> Iterator[None]:
        """Make ready to favour this, a little with each step of the iterator.

        ``open`` and ``bias`` take no time then; else many phrases take a second. Raises BadBiasing.
        """
        ...

    def open(
        self, look_ahead: int, *, language: str | None = None, biasing: Biasing = NO_BIASING
    ) -> int:
        """Take a slot. Raises NoFreeSlot, UnsupportedLookAhead, BadBiasing."""
        ...

    def bias(self, stream: int, biasing: Biasing) -> None:
        """Favour this, in place of what was, from the next step on. Raises BadBiasing."""
        ...

    def feed(self, stream: int, samples: Samples, *, now: float = 0.0) -> None:
        """Append 16 kHz mono samples (-1..1); ``now`` is the arrival time for deadlines.

        PATIENT: they wait for whoever is in time, until the stream hears something that is not.
        """
        ...

    def lacks(self, stream: int) -> int:
        """Return how many samples it takes until one chunk more could run; fewer change nothing.

        0 where an engine cannot tell.
        """
        ...

    def finish(self, stream: int) -> None:
        """No more audio: the remaining frames are flushed by the next steps."""
        ...

    def drop(self, stream: int) -> None:
        """Free the slot at once, whatever the stream was doing. Idempotent."""
        ...

    def fork(self, stream: int) -> int:
        """Copy a stream into another slot. Raises NoFreeSlot.

        A copy that is finished before the stream moves on speaks for it: the stream waits until the
        copy is flushed, and takes nothing otherwise that both have heard.
        """
        ...

    def snapshot(self, stream: int) -> bytes:
        """All that the stream is, as bytes (no pickle)."""
        ...

    def restore(self, blob: bytes) -> int:
        """Open a stream from a snapshot. Raises BadSnapshot, NoFreeSlot."""
        ...

    def record(self, stream: int) -> bytes:
        """Return the decoder of a stream and its frame: small. EngineError where that cannot be."""
        ...

    def install(self, stream: int, record: bytes) -> None:
        """Encode up to the frame of a record and say nothing; go on from its decoder there.

        Raises BadSnapshot.
        """
        ...

    def is_ready(self) -> bool:
        """Whether ``step`` would do something now."""
        ...

    def step(self) -> list[Emission]:
        """Run one batch (one look-ahead); nothing ready -> []."""
        ...

    def warm(self, look_ahead: int) -> None:
        """Build kernels of every batch bucket of this look-ahead through the streaming path."""
        ...
