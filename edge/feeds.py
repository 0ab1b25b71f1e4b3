"""Feeds become legs: every track of a call is one.

Does: open legs for what an adapter announces, put audio where the feed's clock says (through the
voice gate, if the node has one), end them.
Does not know: protocols, sockets.
"""

import logging
from dataclasses import dataclass, field

from edge.adapters.events import Audio, Digit, Ended, Event, Missing, Started
from edge.gate import Gate, is_gateable
from edge.media import Piece
from edge.node import Caller, Node, NodeLeg

logger = logging.getLogger(__name__)

DRIFT_S = 0.2
"""A feed's clock may be ahead of its audio by this much before time is missing."""
MAX_MISSING_S = 600.0
"""A clock that is further ahead has jumped: audio goes on where it is."""


@dataclass(slots=True, eq=False)
class Feed:
    """One call's legs, by track."""

    node: Node
    legs: dict[str, NodeLeg] = field(default_factory=dict)
    digits: int = 0
    clock_jumps: int = 0
    is_over: bool = False
    _rate: int = 0
    _gates: dict[str, Gate] = field(default_factory=dict)
    """Where the node has voice gates, by track."""

    def take(self, events: list[Event]) -> None:
        """Act on what an adapter said. Raises TooManyLegs."""
        for event in events:
            match event:
                case Started():
                    self._start(event)
                case Audio():
                    self._audio(event)
                case Missing(samples=samples):
                    for track in self.legs:
                        self._append(track, samples, None)
                case Digit():
                    self.digits += 1
                case Ended():
                    self.end()

    def pieces(self, track: str, pieces: list[Piece]) -> None:
        """Append audio that is in its order already."""
        for piece in pieces:
            self._append(track, piece.samples, piece.data)

    def end(self) -> None:
        """End every leg. Idempotent."""
        self.is_over = True
        for track, leg in self.legs.items():
            if track in self._gates:
                for piece in self._gates.pop(track).flush():
                    leg.append(piece.samples, piece.data)
            leg.end()

    def _append(self, track: str, samples: int, data: bytes | None) -> None:
        gate, leg = self._gates.get(track), self.legs[track]
        pieces = [Piece(samples, data)] if gate is None else gate.receive(samples, data)
        for piece in pieces:
            leg.append(piece.samples, piece.data)

    def _start(self, started: Started) -> None:
        self._rate = started.rate
        for track in started.tracks:
            name = started.name if len(started.tracks) == 1 else f"{started.name}/{track}"
            caller = Caller(encoding=started.encoding, rate=started.rate, name=name)
            self.legs[track] = self.node.open(caller)
            if self.node.config.voice_gate and is_gateable(started.encoding, started.rate):
                self._gates[track] = Gate(started.encoding, started.rate)

    def _audio(self, audio: Audio) -> None:
        leg, gate = self.legs[audio.track].leg, self._gates.get(audio.track)
        size = 2 if leg.opening.encoding == "pcm_s16le" else 1
        if audio.at is not None:
            ahead = audio.at - leg.ring.head - (gate.held if gate else 0)
            if ahead > MAX_MISSING_S * self._rate:
                self.clock_jumps += 1
            elif ahead > DRIFT_S * self._rate:
                self._append(audio.track, ahead, None)
        self._append(audio.track, len(audio.data) // size, audio.data)
