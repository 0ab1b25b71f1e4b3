"""The wire of sherpa-onnx's streaming WebSocket servers (C++ and Python).

Does: float samples there, "Done" at the end; one JSON per decoded chunk back, "Done!" at the end.
Does not know: sockets, models; the chunk is an argument because the server does not tell it.

The n-th message says that n chunks are decoded. The first chunk needs a window of chunk + 90 ms
and one frame more; later ones a chunk each.
"""

import json
from collections.abc import Sequence

import numpy as np

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

FIRST_EXTRA_MS = 110
"""Of a window of chunk + 9 frames, a strict comparison, and the last frame's own length."""


class SherpaWire(Wire):
    """``sherpa-onnx-online-websocket-server``."""

    def __init__(self, latency: str) -> None:
        super().__init__(latency)
        self.chunk_ms = chunk_of(latency, "sherpa-onnx")
        self.is_open = True
        self._messages = 0
        self._segment = 0
        self._text = ""

    def audio(self, pcm: bytes) -> Sequence[Payload]:
        """Return 32-bit floats."""
        return ((np.frombuffer(pcm, "<i2").astype("<f4") / 32768).tobytes(),)

    def goodbye(self) -> Sequence[Payload]:
        """Return the word that ends the audio."""
        return ("Done",)

    def receive(self, message: Payload) -> Sequence[Event]:
        """Read a result."""
        if message == "Done!":
            return (*self._flushed(), Over())
        result = json.loads(message)
        if not isinstance(result, dict) or "text" not in result:
            return (Failed("a message that is no result"),)
        events: list[Event] = []
        segment = int(result.get("segment", 0))
        if segment != self._segment:
            events += self._flushed()
            self._segment = segment
        self._text = str(result["text"])
        events.append(self._progress())
        events += self.words_until(_end_ms(result))
        if result.get("is_final"):
            events += self._flushed()
            self._segment += 1
        return events

    def _progress(self) -> Progress:
        assert self.chunk_ms is not None
        done_ms = self.chunk_ms * (self._messages + 1) + FIRST_EXTRA_MS
        self._messages += 1
        return Progress(samples_of(done_ms), is_cumulative=False)

    def _flushed(self) -> Sequence[Event]:
        text, self._text = self._text, ""
        return (Spoken(text),) if text else ()


def _end_ms(result: dict[str, object]) -> float:
    """Return when the last token was heard; 0 from servers that do not say."""
    times = result.get("timestamps")
    if not isinstance(times, list) or not times:
        return 0.0
    start = result.get("start_time")
    return 1000 * (float(times[-1]) + (float(start) if isinstance(start, int | float) else 0.0))
