"""NVIDIA's realtime transcription wire (``/v1/realtime?intent=transcription``), server side.

Does: transcription_session.update, input_audio_buffer.* -> requests; stable growth and finals ->
deltas and completed items, the last of them with the whole transcript.
Does not know: sockets, clocks, who made the token that the client shows. It resembles OpenAI's, and
differs where it matters: another greeting, a commit behind every packet that ends nothing, an end.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from server.wire import messages as native
from server.wire.adapter import PATIENCE_MS, Adapter, Growth, Hello
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest, UnsupportedAudio
from server.wire.openai_realtime import MAX_EVENT_BYTES
from server.wire.values import (
    audio_format,
    base64_in,
    integer_in,
    number_in,
    object_in,
    phrase,
    read_json,
    silence,
    text_in,
    turns_after,
)
from server.wire.wav import WavHeader

SESSIONS_PATH = "/v1/realtime/transcription_sessions"
TOKEN_PREFIX = "realtime-token."
"""Of the subprotocol with the token that a session's POST gave out: it tells the wire, too."""
DEFAULT_RATE = 16_000
_FORMATS = ("none", "pcm16")
"""With ``none`` the bytes of a file come as they are: WAV, or bare samples."""
_MISTAKES = ("bad_request", "unsupported_audio", "unsupported_language")


def is_offered(hello: Hello) -> bool:
    """Whether a client of ``/v1/realtime`` speaks this wire."""
    offered = hello.headers.get("sec-websocket-protocol", "").split(",")
    return any(name.strip().startswith(TOKEN_PREFIX) for name in offered)


def new_session(hello: Hello, token: str, expires_s: int) -> JsonObject:
    """Return the answer to a POST for a session: all settings, and what opens the socket."""
    secret = {"value": token, "expires_at": expires_s}
    return Settings(model=hello.model).to_json(hello) | {"client_secret": secret}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One session's settings."""

    model: str
    form: str = "pcm16"
    rate: int = DEFAULT_RATE
    channels: int = 1
    language: str = ""
    has_words: bool = False
    has_marks: bool = False
    phrases: tuple[native.Boost, ...] = ()
    silence_ms: int | None = None

    def updated(self, wish: JsonObject) -> "Settings":
        """Return these with what a client wishes; raises RemoteProtocolError."""
        form = text_in(wish.get("input_audio_format"), self.form)
        if form not in _FORMATS:
            raise UnsupportedAudio("input_audio_format must be none or pcm16")
        params = object_in(wish.get("input_audio_params"))
        rate = integer_in(params.get("sample_rate_hz", self.rate), "sample_rate_hz")
        channels = integer_in(params.get("num_channels", self.channels), "num_channels")
        audio_format("pcm_s16le", rate, channels)
        heard = object_in(wish.get("input_audio_transcription"))
        recognition = object_in(wish.get("recognition_config"))
        stop = object_in(wish.get("endpointing_config")).get("stop_history")
        return replace(
            self,
            form=form,
            rate=rate,
            channels=channels,
            language=text_in(heard.get("language"), self.language),
            has_words=bool(recognition.get("enable_word_time_offsets", self.has_words)),
            has_marks=bool(recognition.get("enable_automatic_punctuation", self.has_marks)),
            phrases=_phrases(wish["word_boosting"]) if "word_boosting" in wish else self.phrases,
            silence_ms=self.silence_ms if stop is None else silence(number_in(stop, "stop")),
        )

    def endpointing(self) -> native.Endpointing | None:
        """Return when an utterance is over; None: as the server thinks."""
        return None if self.silence_ms is None else turns_after(self.silence_ms)

    def to_json(self, hello: Hello) -> JsonObject:
        """Return the session as clients read it, and send it back changed."""
        return {
            "id": f"sess_{hello.name.replace('-', '')[:24]}",
            "object": "realtime.transcription_session",
            "modalities": ["text"],
            "input_audio_format": self.form,
            "input_audio_transcription": {
                "language": self.language or "en-US",
                "model": self.model,
                "prompt": "",
            },
            "input_audio_params": {"sample_rate_hz": self.rate, "num_channels": self.channels},
            "recognition_config": {
                "max_alternatives": 1,
                "enable_automatic_punctuation": self.has_marks,
                "enable_word_time_offsets": self.has_words,
                "enable_profanity_filter": False,
                "enable_verbatim_transcripts": True,
            },
            "word_boosting": {
                "enable_word_boosting": bool(self.phrases),
                "word_boosting_list": [
                    {"phrases": [boost.phrase], "boost": boost.weight} for boost in self.phrases
                ],
            },
        }


class NvidiaServer(Adapter):
    """A client of NVIDIA's realtime transcription."""

    subprotocols: ClassVar[tuple[str, ...]] = ("realtime",)
    max_message_bytes: ClassVar[int] = MAX_EVENT_BYTES
    start_s: ClassVar[float | None] = 60.0
    idle_ms = PATIENCE_MS
    has_channels = False

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        self._settings = Settings(model=hello.model)
        self._events = self._items = 0
        self._growth = Growth()
        self._texts = list[str]()
        self._header: WavHeader | None = None
        self._is_ending = False

    def on_open(self) -> None:
        """Greet: clients configure only after it."""
        about = {"id": f"conv_{self.hello.name[:8]}", "object": "realtime.conversation"}
        self._say("conversation.created", conversation=about)

    def on_text(self, text: str) -> None:
        """Take a client event."""
        event = read_json(text, limit=MAX_EVENT_BYTES)
        match event.get("type"):
            case "transcription_session.update":
                self._update(event)
            case "input_audio_buffer.append":
                self._append(event)
            case "input_audio_buffer.commit":
                self._say("input_audio_buffer.committed", item_id=self._item())
            case "input_audio_buffer.clear":
                self._say("input_audio_buffer.cleared")  # what was heard stays heard
            case "input_audio_buffer.done":
                self._finish()
            case _:
                raise BadRequest("this server only transcribes: unknown event type", param="type")

    def on_binary(self, data: bytes) -> None:
        """Refuse: audio comes as base64 in events."""
        raise BadRequest("audio comes in input_audio_buffer.append")

    def on_partial(self, message: native.Partial) -> None:
        """Give words that will not change."""
        self._delta(self._growth.partial(message))

    def on_final(self, message: native.Final) -> None:
        """Finish an utterance."""
        rest = self._growth.final(message)
        if not message.text:
            return
        self._delta(rest)
        self._texts.append(message.text)
        self._completed(message.text, message.words or (), is_last=False)
        self._items += 1

    def on_done(self, message: native.Done) -> None:
        """Give the whole."""
        self._say_whole()

    def on_error(self, error: native.Error) -> None:
        """Say it; a mistake in one event leaves the session as it is."""
        about = {"type": "invalid_request_error", "code": error.code, "message": error.message}
        self._say("error", error=about | {"param": error.param})
        if error.code not in _MISTAKES or self._is_ending:
            self.end(1013 if error.code == "over_capacity" else 1011, error.message)

    # ---- client events

    def _update(self, event: JsonObject) -> None:
        wish = event.get("session")
        if not isinstance(wish, dict):
            raise BadRequest("session must be an object", param="session")
        self._settings = settings = self._settings.updated(wish)
        if self.format is not None:
            self.configure(endpointing=settings.endpointing(), phrases=settings.phrases)
        self._say("transcription_session.updated", session=settings.to_json(self.hello))

    def _append(self, event: JsonObject) -> None:
        data = base64_in(event.get("audio"), "audio")
        if self._is_ending:
            raise BadRequest("audio after input_audio_buffer.done")
        if self.format is None:
            data = self._open(data)
        if self.format is not None:
            self.audio(data)
            if object_in(event.get("runtime_config")).get("force_eou") in ("true", True):
                self.finalize()

    def _open(self, data: bytes) -> bytes:
        """Begin the session once the format is known; return the audio that there is by then."""
        settings = self._settings
        audio = audio_format("pcm_s16le", settings.rate, settings.channels)
        is_file = settings.form == "none" and data.startswith(b"RIFF")
        if self._header is not None or is_file:
            self._header = self._header or WavHeader()
            opened = self._header.push(data)
            if opened is None:
                return b""
            self._header, audio, data = None, opened.audio, opened.first
        if settings.has_marks:
            self.readable = native.Readable(numbers=False)
        self.start(
            audio,
            endpointing=settings.endpointing(),
            partials="stable",
            language=settings.language,
            phrases=settings.phrases,
        )
        return data

    def _finish(self) -> None:
        if self._is_ending:
            return
        self._is_ending = True
        if self.format is None:
            self._say_whole()
        self.stop()

    # ---- inside

    def _say_whole(self) -> None:
        self._completed(" ".join(self._texts), (), is_last=True)
        self.end()

    def _delta(self, text: str) -> None:
        if text:
            self._say_of("delta", delta=text)

    def _completed(self, text: str, words: tuple[native.WordSpan, ...], *, is_last: bool) -> None:
        spans = [
            {
                "word": word.w,
                "start_time": word.s,
                "end_time": word.e,
                "confidence": word.c or 0.0,
                "speaker_tag": 0,
            }
            for word in (words if self._settings.has_words else ())
        ]
        self._say_of(
            "completed", transcript=text, is_last_result=is_last, words_info={"words": spans}
        )

    def _say_of(self, word: str, **fields: object) -> None:
        kind = f"conversation.item.input_audio_transcription.{word}"
        self._say(kind, item_id=self._item(), content_index=0, **fields)

    def _item(self) -> str:
        return f"item_{self.hello.name[:8]}_{self._items}"

    def _say(self, kind: str, **fields: object) -> None:
        self._events += 1
        event_id = f"event_{self.hello.name[:8]}_{self._events}"
        self.send_json({"type": kind, "event_id": event_id} | fields)


def _phrases(boosting: Any) -> tuple[native.Boost, ...]:
    wish = object_in(boosting)
    groups = wish.get("word_boosting_list")
    if not wish.get("enable_word_boosting", True) or not isinstance(groups, list):
        return ()
    found = list[native.Boost]()
    for group in map(object_in, groups):
        texts = group.get("phrases")
        weight = number_in(group.get("boost", 2.0), "boost")
        for text in texts if isinstance(texts, list) else ():
            if (boost := phrase(text, weight)) is not None:
                found.append(boost)
    return tuple(found)
