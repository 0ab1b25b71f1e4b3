"""Speechmatics' realtime wire (``/v2``), server side.

Does: StartRecognition, audio, ForceEndOfUtterance, EndOfStream -> requests; partials and finals
-> transcripts of words and punctuation; every binary message is confirmed by number.
Does not know: sockets, clocks.
"""

from server.wire import messages as native
from server.wire.adapter import PATIENCE_MS, Adapter, Hello
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest, UnsupportedAudio
from server.wire.values import (
    audio_format,
    integer_in,
    number_in,
    object_in,
    phrases_in,
    read_json,
    seconds,
    spread,
    text_in,
    turns_after,
)
from server.wire.wav import WavHeader

FORMAT = "2.9"
ENCODINGS: dict[str, str] = {"pcm_s16le": "pcm_s16le", "pcm_f32le": "pcm_f32le", "mulaw": "mulaw"}
PUNCTUATION = ".,?!"
KINDS: dict[str, tuple[str, int]] = {
    "bad_request": ("invalid_message", 1003),
    "unsupported_audio": ("invalid_audio_type", 1003),
    "unsupported_language": ("invalid_model", 1003),
    "over_capacity": ("quota_exceeded", 4005),
    "too_far_ahead": ("buffer_error", 1008),
    "idle_timeout": ("timelimit_exceeded", 4006),
    "session_limit": ("timelimit_exceeded", 4006),
}
"""Type of error and close code; any other is internal_error, 1011."""


class SpeechmaticsServer(Adapter):
    """A client of ``/v2``."""

    idle_ms = PATIENCE_MS
    has_channels = False

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        self._has_started = self._is_ending = False
        self._has_partials = self._has_utterances = False
        self._wish = native.Endpointing()
        self._language = "en"
        self._phrases: list[native.Boost] = []
        self._header = WavHeader()
        self._received = 0
        self._rate = 1
        self._forced = 0
        """Ends of utterance that were asked for and not told."""

    def on_text(self, text: str) -> None:
        """Take a message."""
        value = read_json(text)
        kind = value.get("message")
        if kind == "StartRecognition" and not self._has_started:
            self._begin(value)
            return
        if not self._has_started:
            raise BadRequest("StartRecognition comes first, and once")
        match kind:
            case "EndOfStream":
                self._end_stream()
            case "ForceEndOfUtterance" if self.format is not None:
                self._forced += 1
                self.finalize()
            case "ForceEndOfUtterance":
                self._end_utterance(0.0)  # nothing was heard
            case "SetRecognitionConfig":
                config = object_in(value.get("transcription_config"))
                self._has_partials = bool(config.get("enable_partials", self._has_partials))
                self.configure(partials=self._partials)
            case _:
                raise BadRequest("unknown message")

    def on_binary(self, data: bytes) -> None:
        """Take audio, confirm it."""
        if not self._has_started:
            raise BadRequest("audio before StartRecognition")
        if self._is_ending:
            return
        self._received += 1
        if self.format is not None:
            self.audio(data)
        elif found := self._header.push(data):
            self._open(found.audio)
            self.audio(found.first)
        self.send_json({"message": "AudioAdded", "seq_no": self._received})

    def on_partial(self, message: native.Partial) -> None:
        """Show the open segment."""
        if self._has_partials:
            words = spread(message.text, message.start_ms, message.end_ms)
            self._transcript("AddPartialTranscript", message, words)

    def on_final(self, message: native.Final) -> None:
        """Give a finished segment."""
        if message.text:
            self._transcript("AddTranscript", message, list(message.words or ()))

    def on_turn(self, message: native.Turn) -> None:
        """Tell of the end of an utterance to those who asked; a forced one has its own answer."""
        is_forced = message.trigger == "finalize" and self._forced > 0
        if message.event == "end" and self._has_utterances and not is_forced:
            self._end_utterance(seconds(message.at_ms))

    def on_answer(self, message: native.Ready | native.Finalized | native.Configured) -> None:
        """Answer a ForceEndOfUtterance: clients wait for it, whether anything was said or not."""
        if isinstance(message, native.Finalized):
            self._forced -= 1
            self._end_utterance(message.at / self._rate)

    def on_mistake(self, error: native.Error) -> None:
        """Forget a ForceEndOfUtterance that was one too many: nothing else is asked for here."""
        self._forced -= 1

    def on_done(self, message: native.Done) -> None:
        """Say that all is said."""
        self._say_end()

    def on_error(self, error: native.Error) -> None:
        """Say it and close."""
        kind, code = KINDS.get(error.code, ("internal_error", 1011))
        self.send_json({"message": "Error", "type": kind, "reason": error.message, "code": code})
        self.end(code, error.message)

    # ---- inside

    @property
    def _partials(self) -> native.PartialsMode:
        return "all" if self._has_partials else "none"

    def _begin(self, value: JsonObject) -> None:
        config = object_in(value.get("transcription_config"))
        self._has_partials = bool(config.get("enable_partials"))
        self._language = text_in(config.get("language"), "en")
        vocabulary = config.get("additional_vocab")
        if isinstance(vocabulary, list):
            self._phrases = phrases_in([object_in(v).get("content", v) for v in vocabulary])
        talk = object_in(config.get("conversation_config"))
        trigger = number_in(talk.get("end_of_utterance_silence_trigger") or 0, "trigger")
        if trigger > 0:
            self._has_utterances = True
            self._wish = turns_after(trigger * 1_000)
        audio = object_in(value.get("audio_format"))
        if audio.get("type") == "raw":
            self._open(_audio_of(audio))
        elif audio.get("type") not in (None, "file"):
            raise UnsupportedAudio("audio_format.type must be raw or file")
        self._has_started = True
        self.send_json(
            {
                "message": "RecognitionStarted",
                "id": self.hello.name,
                "language_pack_info": {
                    "adapted": False,
                    "itn": False,
                    "language_description": self._language,
                    "word_delimiter": " ",
                    "writing_direction": "left-to-right",
                },
            }
        )

    def _end_utterance(self, at_s: float) -> None:
        span = {"start_time": at_s, "end_time": at_s}
        self.send_json({"message": "EndOfUtterance", "format": FORMAT, "metadata": span})

    def _open(self, audio: native.AudioFormat) -> None:
        self._rate = audio.rate
        self.start(
            audio,
            endpointing=self._wish,
            partials=self._partials,
            language=self._language,
            phrases=self._phrases,
            latency=self.hello.get("latency"),
        )

    def _end_stream(self) -> None:
        if self._is_ending:
            return
        self._is_ending = True
        if self.format is None:
            self._say_end()
        self.stop()

    def _say_end(self) -> None:
        self.send_json({"message": "EndOfTranscript"})
        self.end()

    def _transcript(
        self, kind: str, message: native.Partial | native.Final, words: list[native.WordSpan]
    ) -> None:
        self.send_json(
            {
                "message": kind,
                "format": FORMAT,
                "metadata": {
                    "transcript": f"{message.text} ",
                    "start_time": seconds(message.start_ms),
                    "end_time": seconds(message.end_ms),
                },
                "results": [result for word in words for result in self._results(word)],
            }
        )

    def _results(self, word: native.WordSpan) -> list[JsonObject]:
        """Return a word and the punctuation behind it, each by itself."""
        bare = word.w.rstrip(PUNCTUATION)
        results = list[JsonObject]()
        if bare:
            results.append(self._result("word", bare, word.s, word))
        for mark in word.w[len(bare) :]:
            punctuation = self._result("punctuation", mark, word.e, word)
            results.append(punctuation | {"attaches_to": "previous", "is_eos": mark != ","})
        return results

    def _result(self, kind: str, text: str, start_ms: int, word: native.WordSpan) -> JsonObject:
        confidence = 1.0 if word.c is None else word.c
        alternative = {"content": text, "confidence": confidence, "language": self._language}
        return {
            "type": kind,
            "start_time": seconds(start_ms),
            "end_time": seconds(word.e),
            "alternatives": [alternative],
        }


def _audio_of(value: JsonObject) -> native.AudioFormat:
    name = text_in(value.get("encoding"))
    if name not in ENCODINGS:
        raise UnsupportedAudio("audio_format.encoding must be pcm_s16le, pcm_f32le or mulaw")
    return audio_format(ENCODINGS[name], integer_in(value.get("sample_rate"), "sample_rate"))
