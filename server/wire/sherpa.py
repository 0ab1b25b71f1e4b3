"""The wire of sherpa-onnx's streaming server (a port of its own), server side.

Does: 32-bit float audio at 16 kHz and ``Done`` -> requests; partials and finals -> its results.
Does not know: sockets, clocks.
"""

from typing import ClassVar

from server.wire import messages as native
from server.wire.adapter import PATIENCE_MS, Adapter, Hello
from server.wire.errors import BadRequest
from server.wire.values import audio_format, seconds, spread

RATE = 16_000


class SherpaServer(Adapter):
    """A client of the streaming server."""

    start_s: ClassVar[float | None] = PATIENCE_MS / 1_000
    idle_ms = PATIENCE_MS

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        self._is_ending = False
        self._segment = 0

    def on_text(self, text: str) -> None:
        """Take the end."""
        if text.strip() != "Done":
            raise BadRequest("the only text here is Done")
        if self._is_ending:
            return
        self._is_ending = True
        if self.format is None:
            self._say_end()
        self.stop()

    def on_binary(self, data: bytes) -> None:
        """Take audio."""
        if self._is_ending:
            return
        if self.format is None:
            self.start(audio_format("pcm_f32le", RATE))
        self.audio(data)

    def on_partial(self, message: native.Partial) -> None:
        """Say the open segment."""
        words = spread(message.text, message.start_ms, message.end_ms)
        self._say(message.text, words, message.start_ms)

    def on_final(self, message: native.Final) -> None:
        """Say a finished segment."""
        if message.text:
            words, is_eof = list(message.words or ()), message.cause == "stop"
            self._say(message.text, words, message.start_ms, is_final=True, is_eof=is_eof)
            self._segment += 1

    def on_done(self, message: native.Done) -> None:
        """Say the end."""
        self._say_end()

    def on_error(self, error: native.Error) -> None:
        """Close: the wire has no words for it."""
        self.end(1011, error.message)

    # ---- inside

    def _say_end(self) -> None:
        self.send("Done!")
        self.end()

    def _say(
        self,
        text: str,
        words: list[native.WordSpan],
        start_ms: int,
        *,
        is_final: bool = False,
        is_eof: bool = False,
    ) -> None:
        # Times of tokens count from the start of their segment, as there.
        self.send_json(
            {
                "text": text,
                "tokens": [f" {word.w}" for word in words],
                "timestamps": [seconds(word.s - start_ms) for word in words],
                "ys_probs": [],
                "lm_probs": [],
                "context_scores": [],
                "segment": self._segment,
                "words": [],
                "start_time": seconds(start_ms),
                "is_final": is_final,
                "is_eof": is_eof,
            }
        )
