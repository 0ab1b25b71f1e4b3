"""Speechmatics' realtime wire.

Does: StartRecognition, 16-bit audio, EndOfStream; transcripts as events.
Does not know: sockets, models; the chunk is an argument because the server does not tell it. It
confirms what it has received, not what it has decoded: there is no chunk lag, only that of words.
"""

import json
from collections.abc import Sequence

from clients.load.plan import RATE_HZ
from clients.load.wires.base import Event, Failed, Over, Payload, Spoken, Wire, chunk_of, fields_of


class SpeechmaticsWire(Wire):
    """``/v2``."""

    path = "/v2"

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self.chunk_ms = chunk_of(latency, "speechmatics")
        self._sent = 0

    def hello(self) -> Sequence[Payload]:
        """Return the format and the wish for partial results."""
        audio = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": RATE_HZ}
        config = {"language": "en", "enable_partials": True}
        return (_message("StartRecognition", audio_format=audio, transcription_config=config),)

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the samples as they are."""
        self._sent += 1
        return (pcm,)

    def goodbye(self) -> Sequence[Payload]:
        """Return what has the rest said."""
        return (_message("EndOfStream", last_seq_no=self._sent),)

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read a message."""
        fields = fields_of(message)
        match fields.get("message"):
            case "RecognitionStarted":
                self.is_open = True
            case "AddPartialTranscript" | "AddTranscript" as kind:
                said = fields["metadata"]
                events = self.words_until(1000 * float(said["end_time"]))
                return events if "Partial" in kind else (*events, Spoken(said["transcript"]))
            case "EndOfTranscript":
                return (Over(),)
            case "Error":
                return (Failed("the server answered with an error"),)
        return ()


def _message(kind: str, **fields: object) -> str:
    return json.dumps({"message": kind} | fields)
