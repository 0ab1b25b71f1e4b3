"""AssemblyAI's streaming wire, version 3.

Does: 16-bit audio, Terminate; turns as events.
Does not know: sockets, models; the chunk is an argument because the server does not tell it. Nor
does it tell how far it has decoded: there is no chunk lag, only that of words.
"""

import json
from collections.abc import Sequence

from clients.load.wires.base import Event, Failed, Over, Payload, Spoken, Wire, chunk_of, fields_of


class AssemblyWire(Wire):
    """``/v3/ws``."""

    path = "/v3/ws?sample_rate=16000&encoding=pcm_s16le"

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self.chunk_ms = chunk_of(latency, "assemblyai")

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the samples as they are."""
        return (pcm,)

    def goodbye(self) -> Sequence[Payload]:
        """Return what has the rest said."""
        return (json.dumps({"type": "Terminate"}),)

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read how a turn goes on; its transcript stands when it is over."""
        fields = fields_of(message)
        match fields.get("type"):
            case "Begin":
                self.is_open = True
            case "Turn":
                words = fields.get("words") or [{}]
                events = self.words_until(float(words[-1].get("end", 0.0)))
                return (*events, Spoken(fields["transcript"])) if fields["end_of_turn"] else events
            case "Termination":
                return (Over(),)
            case "Error":
                return (Failed("the server answered with an error"),)
        return ()
