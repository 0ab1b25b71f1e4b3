"""OpenAI's realtime transcription wire, and NVIDIA's, which resembles it.

Does: session updates, base64 audio, the end; deltas and completed transcripts as events.
Does not know: sockets, models; the chunk is an argument because the server does not tell it. Nor
do these wires tell how far the server has decoded: there is no chunk lag.
"""

import base64
import json
from collections.abc import Sequence

from clients.load.wires.base import Event, Failed, Over, Payload, Spoken, Wire, chunk_of, fields_of
from clients.load.wires.resampled import RATE_24_HZ, To24

COMPLETED = "conversation.item.input_audio_transcription.completed"


class OpenAIWire(Wire):
    """``/v1/realtime``, GA: one item, which the client commits at the end."""

    path = "/v1/realtime?intent=transcription"

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self.chunk_ms = chunk_of(latency, "openai")
        self._to_24 = To24()
        self._is_greeted = False

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the samples at 24 kHz: OpenAI takes no other rate."""
        samples = (32767 * self._to_24.push(pcm)).astype("<i2").tobytes()
        return (_event("input_audio_buffer.append", audio=base64.b64encode(samples).decode()),)

    def goodbye(self) -> Sequence[Payload]:
        """Return the commit: the transcript follows."""
        return (_event("input_audio_buffer.commit"),)

    def answer(self) -> Sequence[Payload]:
        """Ask for no turns of the server's once it has greeted."""
        if self.is_open or not self._is_greeted:
            return ()
        self.is_open = True
        audio = {"format": {"type": "audio/pcm", "rate": RATE_24_HZ}, "turn_detection": None}
        return (
            _event("session.update", session={"type": "transcription", "audio": {"input": audio}}),
        )

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read a server event."""
        event = fields_of(message)
        match event.get("type"):
            case "session.created":
                self._is_greeted = True
            case kind if kind == COMPLETED:
                return (Spoken(event["transcript"]), Over())
            case "error":
                return (Failed("the server answered with an error event"),)
        return ()


class NvidiaWire(Wire):
    """``/v1/realtime`` of NVIDIA's speech services that ask for no token of a session."""

    path = "/v1/realtime?intent=transcription"
    subprotocols = ("realtime", "realtime-token.none")

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self.chunk_ms = chunk_of(latency, "nvidia")
        self._is_greeted = False

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return the samples, and the commit behind every packet that their clients send."""
        audio = base64.b64encode(pcm).decode()
        append = _event("input_audio_buffer.append", audio=audio)
        return (append, _event("input_audio_buffer.commit"))

    def goodbye(self) -> Sequence[Payload]:
        """Return the word that ends the audio."""
        return (_event("input_audio_buffer.done"),)

    def answer(self) -> Sequence[Payload]:
        """Ask for 16-bit samples and word times once the server has greeted."""
        if self.is_open or not self._is_greeted:
            return ()
        self.is_open = True
        session = {
            "input_audio_format": "pcm16",
            "input_audio_params": {"sample_rate_hz": 16_000, "num_channels": 1},
            "recognition_config": {"enable_word_time_offsets": True},
        }
        return (_event("transcription_session.update", session=session),)

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read a server event; the last result repeats all that was said."""
        event = fields_of(message)
        match event.get("type"):
            case "conversation.created":
                self._is_greeted = True
            case kind if kind == COMPLETED:
                if event.get("is_last_result"):
                    return (Over(),)
                words = (event.get("words_info") or {}).get("words") or [{}]
                ends = self.words_until(float(words[-1].get("end_time", 0.0)))
                return (*ends, Spoken(event["transcript"]))
            case "error":
                return (Failed("the server answered with an error event"),)
        return ()


def _event(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind} | fields)
