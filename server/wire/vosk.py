"""The wire of the vosk server (any path, a port of its own), server side.

Does: config, audio, eof, reset -> requests; exactly one answer to every binary message, at once.
Does not know: sockets, clocks. One message too many loses a client its last result, one too few
leaves it waiting: an answer is what is known now, and finals that came together are one result.
"""

from typing import ClassVar

from server.wire import messages as native
from server.wire.adapter import PATIENCE_MS, Adapter, Hello
from server.wire.codec import JsonObject
from server.wire.values import audio_format, integer_in, object_in, phrases_in, read_json, seconds

DEFAULT_RATE = 8_000
GRAMMAR_NOISE = "[unk]"


class VoskServer(Adapter):
    """A client of the vosk server."""

    start_s: ClassVar[float | None] = PATIENCE_MS / 1_000
    idle_ms = PATIENCE_MS

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        self._rate = self._session_rate = DEFAULT_RATE
        self._has_words = True
        self._alternatives = 0
        self._phrases: list[native.Boost] = []
        self._finals: list[native.Final] = []
        self._partial = ""
        self._is_ending = False
        self._has_reset = False
        self._heard_ms = 0
        """Audio before the session under way: times count from the first, over every reset."""

    def on_text(self, text: str) -> None:
        """Take a control message; none is answered at once."""
        value = read_json(text)
        if "config" in value:
            self._configure(object_in(value["config"]))
        if value.get("reset"):
            self._has_reset = True
            self._flush()
        elif value.get("eof") and not self._is_ending:
            self._is_ending = True
            self._flush()

    def on_binary(self, data: bytes) -> None:
        """Take audio, say what is known."""
        if self._is_ending:
            return
        if self.format is None:
            self._session_rate = self._rate
            self.start(audio_format("pcm_s16le", self._rate), phrases=self._phrases)
        self.audio(data)
        self._answer()

    def on_partial(self, message: native.Partial) -> None:
        """Keep the open words for the next answer."""
        self._partial = message.text

    def on_final(self, message: native.Final) -> None:
        """Keep a result for the next answer."""
        self._partial = ""
        if message.text:
            self._finals.append(message)

    def on_done(self, message: native.Done) -> None:
        """Give the rest."""
        self._say_rest()
        self._heard_ms += message.samples * 1_000 // self._session_rate

    def on_error(self, error: native.Error) -> None:
        """Close: the wire has no words for it."""
        self.end(1011, error.message)

    # ---- inside

    def _configure(self, config: JsonObject) -> None:
        if "sample_rate" in config:
            self._rate = integer_in(config["sample_rate"], "sample_rate")
            audio_format("pcm_s16le", self._rate)
        if "words" in config:
            self._has_words = bool(config["words"])
        if "max_alternatives" in config:
            self._alternatives = integer_in(config["max_alternatives"], "max_alternatives")
        phrases = config.get("phrase_list")
        if isinstance(phrases, list):
            self._phrases = phrases_in([text for text in phrases if text != GRAMMAR_NOISE])

    def _flush(self) -> None:
        """Have the rest decoded, then say it."""
        if self.format is None:
            self._say_rest()
        self.stop()

    def _answer(self) -> None:
        if self._finals:
            self.send_json(self._result())
        else:
            self.send_json({"partial": self._partial})

    def _say_rest(self) -> None:
        self._partial = ""
        if self._is_ending:
            self.send_json(self._result())
            self.end()
        elif self._has_reset:
            self._has_reset = False
            self.send_json(self._result())

    def _result(self) -> JsonObject:
        finals, self._finals = self._finals, []
        text = " ".join(final.text for final in finals)
        words = [word for final in finals for word in final.words or ()]
        result: JsonObject = {}
        if self._has_words and words:
            result["result"] = [
                {
                    "conf": 1.0 if word.c is None else word.c,
                    "start": seconds(self._heard_ms + word.s),
                    "end": seconds(self._heard_ms + word.e),
                    "word": word.w,
                }
                for word in words
            ]
        result["text"] = text
        if self._alternatives > 0:
            return {"alternatives": [{"confidence": 1.0} | result]}
        return result
