"""The realtime wire of NVIDIA's NeMo-Speech.cpp.

Does: session update, 16-bit audio, commit; deltas and completed transcripts as events.
Does not know: sockets, models; the chunk is an argument because the server does not tell it.

Deltas come only for chunks in which words were heard, with ``audio_processed`` in seconds where the
server gives it; chunk lag is then that of the chunks that spoke.
"""

import json
from collections.abc import Sequence

from clients.load.wires.base import (
    Event,
    Failed,
    Over,
    Payload,
    Progress,
    Spoken,
    Wire,
    chunk_of,
    samples_of,
)

TRANSCRIPTION = "conversation.item.input_audio_transcription."


class NemoSpeechWire(Wire):
    """``nemo-speech serve``."""

    path = "/v1/realtime"

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self.chunk_ms = chunk_of(latency, "nemo-speech")
        self._is_greeted = False

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the samples as they are."""
        return (pcm,)

    def goodbye(self) -> Sequence[Payload]:
        """Return the commit: the last transcript follows."""
        return (json.dumps({"type": "input_audio_buffer.commit"}),)

    def answer(self) -> Sequence[Payload]:
        """Ask for word times once the server has greeted."""
        if self.is_open or not self._is_greeted:
            return ()
        self.is_open = True
        session = {"sample_rate": 16_000, "word_timestamps": True}
        return (json.dumps({"type": "session.update", "session": session}),)

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read a server event."""
        event = json.loads(message)
        match event.get("type") if isinstance(event, dict) else None:
            case "session.created":
                self._is_greeted = True
            case kind if kind == TRANSCRIPTION + "delta":
                return self._progress(event)
            case kind if kind == TRANSCRIPTION + "completed":
                text = Spoken(str(event.get("transcript", "")))
                return (*self._progress(event), *self._words(event), text)
            case "input_audio_buffer.committed":
                return (Over(),)
            case "error":
                return (Failed("the server answered with an error event"),)
        return ()

    def _progress(self, event: dict[str, object]) -> Sequence[Event]:
        done_s = event.get("audio_processed")
        if not isinstance(done_s, int | float):
            return ()
        return (Progress(samples_of(1000 * done_s), is_cumulative=False),)

    def _words(self, event: dict[str, object]) -> Sequence[Event]:
        words = event.get("words")
        last = words[-1] if isinstance(words, list) and words else {}
        end_ms = 1000 * float(last.get("end", 0.0)) if isinstance(last, dict) else 0.0
        return self.words_until(end_ms)
