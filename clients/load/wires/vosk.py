"""The wire of the vosk server.

Does: a config, 16-bit audio, eof; answers as events.
Does not know: sockets, models; the chunk is an argument because the server does not tell it. Every
message of audio has one answer, which says what is known and not how far the server has decoded.
"""

import json
from collections.abc import Sequence

from clients.load.plan import RATE_HZ
from clients.load.wires.base import Event, Over, Payload, Spoken, Wire, chunk_of, fields_of


class VoskWire(Wire):
    """``vosk-server``."""

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self.chunk_ms = chunk_of(latency, "vosk")
        self.is_open = True
        self._asked = 0
        """Messages without their answer."""
        self._is_ending = False

    def hello(self) -> Sequence[Payload]:
        """Return the format."""
        return (json.dumps({"config": {"sample_rate": RATE_HZ, "words": 1}}),)

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the samples as they are."""
        self._asked += 1
        return (pcm,)

    def goodbye(self) -> Sequence[Payload]:
        """Return what has the rest said."""
        self._asked += 1
        self._is_ending = True
        return (json.dumps({"eof": 1}),)

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read an answer; the one to eof is the last."""
        self._asked -= 1
        answer = fields_of(message)
        words = answer.get("result") or [{}]
        events: list[Event] = [*self.words_until(1000 * float(words[-1].get("end", 0.0)))]
        if answer.get("text"):
            events.append(Spoken(answer["text"]))
        return (*events, Over()) if self._is_ending and not self._asked else events
