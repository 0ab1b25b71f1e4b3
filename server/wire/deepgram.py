"""Deepgram's live wire, version 1 (``/v1/listen``), server side.

Does: query -> start; audio, Finalize, KeepAlive, CloseStream, Configure -> requests; events ->
Results, SpeechStarted, UtteranceEnd, Metadata.
Does not know: sockets, clocks; audio in containers other than WAV (see ``recording``).
Their clients pass a ``type`` they do not know to the user as nothing: no other types are sent.
"""

from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import ClassVar

from server.wire import messages as native
from server.wire.adapter import Adapter, Hello, Refused
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest, RemoteProtocolError, UnsupportedAudio
from server.wire.values import (
    audio_format,
    integer_in,
    phrase,
    phrases_in,
    read_json,
    seconds,
    spread,
    turns_after,
)
from server.wire.wav import WavHeader

ENCODINGS: dict[str, str] = {
    "linear16": "pcm_s16le",
    "linear32": "pcm_f32le",
    "mulaw": "mulaw",
    "alaw": "alaw",
}
CONFIGURE = "configure"
"""The request that a Configure becomes; that of a KeepAlive has no name."""
MODEL_UUID = "00000000-0000-0000-0000-000000000000"
CLOSE_CODES: dict[str, tuple[int, str]] = {
    "bad_request": (1008, "DATA-0000"),
    "unsupported_audio": (1008, "DATA-0000"),
    "unsupported_language": (1008, "DATA-0000"),
    "idle_timeout": (1011, "NET-0001"),
}
"""Codes and the words that stand before the reason; any other error is 1011 NET-0000."""


def refusal(hello: Hello, message: str) -> Refused:
    """Return the refusal of a query in Deepgram's form."""
    return Refused(
        400,
        {
            "err_code": "Bad Request",
            "err_msg": message,
            "request_id": hello.name,
        },
    )


def format_of(hello: Hello) -> native.AudioFormat | None:
    """Return the audio that a query announces; None: a container says it itself."""
    name = hello.get("encoding")
    if not name:
        return None
    if name not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        raise UnsupportedAudio(f"encoding is not supported here, only {known} and WAV")
    rate = integer_in(hello.get("sample_rate") or 16_000, "sample_rate")
    channels = integer_in(hello.get("channels") or 1, "channels")
    return audio_format(ENCODINGS[name], rate, channels)


def keyterms_of(hello: Hello) -> list[native.Boost]:
    """Return the phrases of ``keyterm`` and ``keywords`` (``word:boost``)."""
    found = phrases_in(hello.query.get("keyterm", ()))
    for entry in hello.query.get("keywords", ()):
        word, _, weight = entry.partition(":")
        try:
            boost = phrase(word, float(weight) if weight else 2.0)
        except ValueError:
            boost = phrase(word)
        if boost is not None:
            found.append(boost)
    return found


def readable_of(hello: Hello) -> native.Readable | None:
    """Return what is added to the text: ``smart_format``, ``punctuate``, ``numerals``."""
    is_all = hello.is_set("smart_format") or hello.is_set("readable")
    has_marks = is_all or hello.is_set("punctuate")
    has_numbers = is_all or hello.is_set("numerals")
    if not has_marks and not has_numbers:
        return None
    return native.Readable(capitals=has_marks, punctuation=has_marks, numbers=has_numbers)


def endpointing_of(hello: Hello) -> native.Endpointing:
    """Return when a segment ends; raises BadRequest."""
    wish = hello.get("endpointing").lower()
    if wish in ("", "true", "false"):
        return native.Endpointing()
    return turns_after(hello.number("endpointing", 0))


class DeepgramServer(Adapter):
    """A client of ``/v1/listen``."""

    subprotocols: ClassVar[tuple[str, ...]] = ("token", "bearer")

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        self.readable = readable_of(hello)
        self.has_channels = hello.is_set("multichannel")
        self._has_interim = hello.is_set("interim_results")
        self._has_vad_events = hello.is_set("vad_events")
        try:
            self._announced = format_of(hello)
            self._endpointing = endpointing_of(hello)
            self._utterance_end_ms = hello.number("utterance_end_ms", 0)
        except RemoteProtocolError as error:
            raise refusal(hello, error.message) from error
        self._has_ends = hello.get("endpointing").lower() != "false"
        """Whether a pause ends an utterance; without, it only makes the words before it final."""
        self._header = WavHeader()
        self._channels = 1
        self._last_word_ms: dict[int, int] = {}
        """Channel -> end of the last finished word that no UtteranceEnd has told of."""
        self._speaking = set[int]()
        """Channels with words that are not finished: no utterance ends there."""
        self._configures = deque[list[str] | None]()
        """Asked for and not answered: the new keyterms, where there are any."""
        self._is_closing = False

    def on_open(self) -> None:
        """Ask for a session as soon as the format is known."""
        if self._announced is not None:
            self._begin(self._announced)

    def on_binary(self, data: bytes) -> None:
        """Take audio; empty is the old way to close."""
        if self._is_closing:
            return
        if not data:
            self._close()
        elif self.format is not None:
            self.audio(data)
        else:
            found = self._header.push(data)
            if found is not None:
                self._begin(found.audio)
                self.audio(found.first)

    def on_text(self, text: str) -> None:
        """Take a control message."""
        value = read_json(text)
        if self._is_closing:
            return
        match value.get("type"):
            case "KeepAlive":
                self.configure()
            case "Finalize":
                self.finalize("finalize")
            case "CloseStream":
                self._close()
            case "Configure":
                self._configure(value)
            case _:
                raise BadRequest("unknown type")

    def on_partial(self, message: native.Partial) -> None:
        """Show the open segment to those who asked."""
        if self._has_interim:
            self._end_utterance(message.channel, message.start_ms)
            self._speaking.add(message.channel)
            words = spread(message.text, message.start_ms, message.end_ms)
            alternative = self._alternative(message.text, 0.0, words)
            self.send_json(self._results(message, alternative))

    def on_final(self, message: native.Final) -> None:
        """Give a finished segment; the utterance is over with it unless it was cut."""
        words = message.words or ()
        self._speaking.discard(message.channel)
        if words:
            self._end_utterance(message.channel, message.start_ms)
            self._last_word_ms[message.channel] = words[-1].e
        ends = ("endpoint", "stop", "finalize") if self._has_ends else ("stop", "finalize")
        confidence = (message.confidence or 0.0) if message.text else 0.0
        alternative = self._alternative(message.text, confidence, words)
        self.send_json(
            self._results(message, alternative)
            | {
                "is_final": True,
                "speech_final": message.cause in ends,
                "from_finalize": message.cause == "finalize",
            }
        )

    def on_turn(self, message: native.Turn) -> None:
        """Tell of the first sound of speech."""
        if message.event == "start" and self._has_vad_events:
            channel, at = [message.channel, self._channels], seconds(message.at_ms)
            self.send_json({"type": "SpeechStarted", "channel": channel, "timestamp": at})

    def on_progress(self, message: native.Ack) -> None:
        """Tell of silence behind the last word."""
        assert self._announced is not None
        done_ms = message.done * 1_000 // self._announced.rate
        for channel in sorted(self._last_word_ms.keys() - self._speaking):
            self._end_utterance(channel, done_ms)

    def on_answer(self, message: native.Ready | native.Finalized | native.Configured) -> None:
        """Confirm a Configure, with the keyterms if it had any."""
        is_ours = isinstance(message, native.Configured) and message.req == CONFIGURE
        if is_ours and self._configures:
            terms = self._configures.popleft()
            answer: JsonObject = {"type": "ConfigureSuccess", "request_id": self.hello.name}
            self.send_json(answer if terms is None else answer | {"keyterms": terms})

    def on_mistake(self, error: native.Error) -> None:
        """Say that a Configure was refused."""
        if error.req == CONFIGURE and self._configures:
            self._configures.popleft()
            self.send_json(
                {
                    "type": "ConfigureFailure",
                    "request_id": self.hello.name,
                    "code": "CONFIGURE_INTERNAL_ERROR",
                    "description": error.message,
                }
            )

    def on_done(self, message: native.Done) -> None:
        """Sum up and close."""
        rate = self._announced.rate if self._announced else 1
        self._say_metadata(message.samples / rate)

    def on_error(self, error: native.Error) -> None:
        """Close with the reason: there is no error message on this wire."""
        code, word = CLOSE_CODES.get(error.code, (1011, "NET-0000"))
        self.end(code, f"{word}: {error.message}")

    # ---- inside

    def _begin(self, audio: native.AudioFormat) -> None:
        self._announced, self._channels = audio, audio.channels if self.has_channels else 1
        self.start(
            audio,
            endpointing=self._endpointing,
            partials="all" if self._has_interim else "none",
            language=self.hello.get("language"),
            phrases=keyterms_of(self.hello),
            latency=self.hello.get("latency"),
        )

    def _configure(self, value: JsonObject) -> None:
        """Replace the keyterms; without any they stay as they are."""
        wish = value.get("keyterms")
        phrases = None if wish is None else phrases_in(wish)
        if self.format is not None:
            terms = None if phrases is None else [boost.phrase for boost in phrases]
            self._configures.append(terms)
            self.configure(phrases=phrases, req=CONFIGURE)

    def _end_utterance(self, channel: int, until_ms: int) -> None:
        """Tell that nothing was said behind the last word until then, if that is long enough."""
        end_ms = self._last_word_ms.get(channel)
        if not self._utterance_end_ms or end_ms is None:
            return
        if until_ms - end_ms >= self._utterance_end_ms:
            del self._last_word_ms[channel]
            self.send_json(
                {
                    "type": "UtteranceEnd",
                    "channel": [channel, self._channels],
                    "last_word_end": seconds(end_ms),
                }
            )

    def _close(self) -> None:
        self._is_closing = True
        if self.format is None:
            self._say_metadata(0.0)
        self.stop()

    def _say_metadata(self, duration_s: float) -> None:
        self.send_json(metadata_of(self.hello, duration_s, self._channels) | {"type": "Metadata"})
        self.end()

    def _alternative(
        self, text: str, confidence: float, words: Iterable[native.WordSpan]
    ) -> JsonObject:
        return {
            "transcript": text,
            "confidence": confidence,
            "words": [word_of(word, confidence) for word in words],
        }

    def _results(
        self, message: native.Partial | native.Final, alternative: JsonObject
    ) -> JsonObject:
        return {
            "type": "Results",
            "channel_index": [message.channel, self._channels],
            "start": seconds(message.start_ms),
            "duration": seconds(message.end_ms - message.start_ms),
            "is_final": False,
            "speech_final": False,
            "from_finalize": False,
            "channel": {"alternatives": [alternative]},
            "metadata": {
                "request_id": self.hello.name,
                "model_uuid": MODEL_UUID,
                "model_info": model_info(self.hello),
            },
        }


def word_of(word: native.WordSpan, confidence: float) -> JsonObject:
    """Return a word as both versions write it."""
    return {
        "word": word.w.lower().strip(".,?!"),
        "punctuated_word": word.w,
        "start": seconds(word.s),
        "end": seconds(word.e),
        "confidence": confidence if word.c is None else word.c,
    }


def model_info(hello: Hello) -> JsonObject:
    """Return what is told of the model."""
    return {"name": hello.model, "version": "1", "arch": "fastconformer"}


def metadata_of(hello: Hello, duration_s: float, channels: int) -> JsonObject:
    """Return the summary of a stream or a file."""
    return {
        "request_id": hello.name,
        "transaction_key": "deprecated",
        "sha256": "",
        "created": iso_time(hello.born_s),
        "duration": duration_s,
        "channels": channels,
        "models": [MODEL_UUID],
        "model_info": {MODEL_UUID: model_info(hello)},
    }


def iso_time(since_1970_s: int) -> str:
    """Return a UTC time as ISO 8601."""
    return datetime.fromtimestamp(since_1970_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
