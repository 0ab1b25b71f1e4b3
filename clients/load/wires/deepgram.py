"""Deepgram's live wires, version 1 and version 2 (Flux).

Does: 16-bit audio, CloseStream; results and turns as events.
Does not know: sockets, models; the chunk is an argument because the server does not tell it. Nor
does it tell how far it has decoded: there is no chunk lag, only that of words.
"""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from clients.load.wires.base import Event, Failed, Over, Payload, Spoken, Wire, chunk_of, fields_of

CLOSE = json.dumps({"type": "CloseStream"})


class DeepgramWire(Wire):
    """``/v1/listen``."""

    path = "/v1/listen?encoding=linear16&sample_rate=16000&interim_results=true"

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self.chunk_ms = chunk_of(latency, "deepgram")
        self.is_open = True

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the samples as they are."""
        return (pcm,)

    def goodbye(self) -> Sequence[Payload]:
        """Return what has the rest said."""
        return (CLOSE,)

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read a result; the summary is the last message."""
        fields = fields_of(message)
        if fields.get("type") == "Metadata":
            return (Over(),)
        if fields.get("type") != "Results":
            return ()
        said = fields["channel"]["alternatives"][0]
        words = self.words_until(_end_ms(said))
        return (*words, Spoken(said["transcript"])) if fields["is_final"] else words


class FluxWire(DeepgramWire):
    """``/v2/listen``."""

    path = "/v2/listen?model=flux-general-en&encoding=linear16&sample_rate=16000"
    ends_with_close: ClassVar[bool] = True

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read what became of the turn."""
        fields = fields_of(message)
        if fields.get("type") == "Error":
            return (Failed("the server answered with an error"),)
        if fields.get("type") != "TurnInfo":
            return ()
        words = self.words_until(_end_ms(fields))
        is_over = fields["event"] == "EndOfTurn"
        return (*words, Spoken(fields["transcript"])) if is_over else words


def _end_ms(said: dict[str, Any]) -> float:
    words = said.get("words") or [{}]
    return 1000 * float(words[-1].get("end", 0.0))
