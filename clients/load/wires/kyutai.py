"""Kyutai's streaming wire (moshi-server, MessagePack).

Does: float samples at 24 kHz, a marker and the silence that pushes it out; words as events.
Does not know: sockets, models; the chunk is an argument because the server does not tell it. Its
steps say how far it has decoded.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from clients.load.plan import RATE_HZ
from clients.load.wires.base import Event, Failed, Over, Payload, Progress, Spoken, Wire, chunk_of
from clients.load.wires.resampled import RATE_24_HZ, To24

STEP = 1_920 * RATE_HZ // RATE_24_HZ
"""Samples of ours in a step of 80 ms."""
PUSHED_S = 4
"""Silence behind the marker: more than their models lag."""


class KyutaiWire(Wire):
    """``moshi-server``."""

    path = "/api/asr-streaming"

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self.chunk_ms = chunk_of(latency, "kyutai")
        self._to_24 = To24()

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the samples at 24 kHz."""
        return (_packed("Audio", pcm=self._to_24.push(pcm).tolist()),)

    def goodbye(self) -> Sequence[Payload]:
        """Return a marker: it comes back when all before it is said."""
        quiet = _packed("Audio", pcm=[0.0] * RATE_24_HZ)
        return (_packed("Marker", id=1), *[quiet] * PUSHED_S)

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read a message."""
        if isinstance(message, str):
            raise ValueError("a message must be MessagePack")
        fields: dict[str, Any] = msgspec.msgpack.decode(message)
        match fields.get("type"):
            case "Ready":
                self.is_open = True
            case "Step":
                return (Progress((fields["step_idx"] + 1) * STEP),)
            case "Word":
                return (Spoken(fields["text"]),)
            case "EndWord":
                return self.words_until(1000 * float(fields["stop_time"]))
            case "Marker":
                return (Over(),)
            case "Error":
                return (Failed("the server answered with an error"),)
        return ()


def _packed(kind: str, **fields: object) -> bytes:
    return msgspec.msgpack.encode({"type": kind} | fields)
