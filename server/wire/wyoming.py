"""Wyoming, the wire of Home Assistant's voice satellites (TCP, a port of its own), server side.

Does: bytes -> events (a JSON line, data, payload) -> requests; stable growth and finals -> events.
Does not know: sockets, clocks, mDNS. Chunks are appended by clients: only stable words go there.
We say that we need no voice detection of theirs: an utterance ends at a pause, by our endpointing.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from server.wire import messages as native
from server.wire.adapter import Adapter, Growth, Hello
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest, MessageTooBig, UnsupportedAudio
from server.wire.values import (
    audio_format,
    integer_in,
    object_in,
    phrases_in,
    read_json,
    text_in,
    to_json,
)

VERSION = "1.5.4"
PAUSES_MS: dict[str, int] = {"aggressive": 400, "default": 800, "relaxed": 1_250}
"""Silence that ends an utterance, by ``vad_sensitivity``."""
MAX_LINE_BYTES = 65_536
MAX_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """One event of either side."""

    type: str
    data: JsonObject = field(default_factory=dict)
    payload: bytes = b""


def encode(event: Event) -> bytes:
    """Return the bytes of an event."""
    head: JsonObject = {"type": event.type, "version": VERSION}
    data = msgspec.json.encode(event.data) if event.data else b""
    if data:
        head["data_length"] = len(data)
    if event.payload:
        head["payload_length"] = len(event.payload)
    return to_json(head).encode() + b"\n" + data + event.payload


class Reader:
    """Bytes in any pieces -> events."""

    def __init__(self) -> None:
        self._seen = bytearray()

    def push(self, data: bytes) -> list[Event]:
        """Return the events that are whole now; raises RemoteProtocolError."""
        self._seen += data
        events = list[Event]()
        while (event := self._next()) is not None:
            events.append(event)
        return events

    def _next(self) -> Event | None:
        line_end = self._seen.find(b"\n", 0, MAX_LINE_BYTES)
        if line_end < 0:
            if len(self._seen) >= MAX_LINE_BYTES:
                raise MessageTooBig("an event line is too long")
            return None
        head = read_json(bytes(self._seen[:line_end]))
        data_length = _length(head.get("data_length"))
        payload_length = _length(head.get("payload_length"))
        begin = line_end + 1
        end = begin + data_length + payload_length
        if len(self._seen) < end:
            return None
        kind = head.get("type")
        if not isinstance(kind, str):
            raise BadRequest("an event has a type")
        data = object_in(head.get("data"))
        if data_length:
            data = data | read_json(bytes(self._seen[begin : begin + data_length]))
        payload = bytes(self._seen[begin + data_length : end])
        del self._seen[:end]
        return Event(kind, data, payload)


class WyomingServer(Adapter):
    """A client of a Wyoming speech-to-text service; one utterance after another."""

    start_s: ClassVar[float | None] = 3_600.0
    has_channels = False

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        self._reader = Reader()
        self._language = ""
        self._phrases: list[native.Boost] = []
        self._owed = deque[bool]()
        """Of each session that is not over, whether its transcript is still to be said."""
        self._growth = Growth()
        self._text: list[str] = []
        self._has_begun = False
        """Whether transcript-start was said; all three are of the first session."""
        self._is_deaf = False
        """The utterance is answered; what comes until its end is not heard."""
        self._pause_ms = PAUSES_MS["default"]

    def on_binary(self, data: bytes) -> None:
        """Take bytes of the stream."""
        for event in self._reader.push(data):
            self._take(event)

    def on_partial(self, message: native.Partial) -> None:
        """Give words that will not change."""
        if self._owed[0]:
            self._chunk(self._growth.partial(message))

    def on_final(self, message: native.Final) -> None:
        """Give the rest of a segment."""
        if message.text and self._owed[0]:
            self._chunk(self._growth.final(message))
            self._text.append(message.text)

    def on_turn(self, message: native.Turn) -> None:
        """End the utterance at a pause."""
        is_pause = message.event == "end" and message.trigger in ("silence", "model")
        if is_pause and self.format is not None and list(self._owed) == [True]:
            self._is_deaf, self._owed[0] = True, False
            self._say_transcript()
            self.stop()

    def on_done(self, message: native.Done) -> None:
        """Give the whole; what is told now is of the next utterance."""
        if self._owed.popleft():
            self._say_transcript()
        self._text, self._growth = [], Growth()

    def on_error(self, error: native.Error) -> None:
        """Say it; a connection that cannot be read is closed."""
        self._event("error", {"text": error.message, "code": error.code})
        self.end(1011, error.message)

    # ---- inside

    def _take(self, event: Event) -> None:
        match event.type:
            case "describe":
                self._event("info", info(self.hello))
            case "ping":
                self._event("pong", event.data)
            case "transcribe":
                self._language = text_in(event.data.get("language"))
                names = phrases_in(event.data.get("transcript_names"))
                self._phrases = names + phrases_in(event.data.get("transcript_terms"))
                wish = text_in(event.data.get("vad_sensitivity"))
                self._pause_ms = PAUSES_MS.get(wish, PAUSES_MS["default"])
            case "audio-start":
                self._start(event.data)
            case "audio-chunk":
                if self.format is None and not self._is_deaf:
                    self._start(event.data)
                if not self._is_deaf:
                    self.audio(event.payload)
            case "audio-stop":
                self._stop()
            case _:
                pass  # satellites send events of other services, too

    def _start(self, data: JsonObject) -> None:
        width = integer_in(data.get("width", 2), "width")
        if width != 2:
            raise UnsupportedAudio("samples must have 2 bytes")
        rate = integer_in(data.get("rate", 16_000), "rate")
        audio = audio_format("pcm_s16le", rate, integer_in(data.get("channels", 1), "channels"))
        self.stop()  # the utterance before is over, whether it was said or not
        self._owed.append(True)
        self._is_deaf = False
        self.start(
            audio,
            endpointing=native.Endpointing(silence_ms=self._pause_ms),
            partials="stable",
            language=self._language,
            phrases=self._phrases,
        )

    def _stop(self) -> None:
        if self._is_deaf:
            self._is_deaf = False  # it was answered before it ended
        elif self.format is not None:
            self.stop()
        elif not any(self._owed):
            self._text = []
            self._say_transcript()

    def _chunk(self, text: str) -> None:
        if not text:
            return
        if not self._has_begun:
            self._has_begun = True
            self._event("transcript-start", self._spoken())
        elif self._text and not text.startswith(" "):
            text = f" {text}"
        self._event("transcript-chunk", {"text": text})

    def _say_transcript(self) -> None:
        if not self._has_begun:
            self._event("transcript-start", self._spoken())
        self._event("transcript-stop", {})
        self._event("transcript", {"text": " ".join(self._text)} | self._spoken())
        self._has_begun = False

    def _spoken(self) -> JsonObject:
        languages = self.hello.languages
        return {"language": self._language or (languages[0] if languages else "en")}

    def _event(self, kind: str, data: JsonObject) -> None:
        self.send(encode(Event(kind, data)))


def info(hello: Hello) -> JsonObject:
    """Return what the service is."""
    maker = {"name": "rivulet", "url": "https://example.org/rivulet"}
    about = {"attribution": maker, "installed": True, "version": "1"}
    model = about | {
        "name": hello.model,
        "description": "streaming speech recognition",
        "languages": list(hello.languages),
    }
    service = about | {
        "name": "rivulet",
        "description": "streaming speech recognition",
        "models": [model],
        "supports_transcript_streaming": True,
        "requires_external_vad": False,
        "prefers_auto_gain_enabled": False,
        "prefers_noise_reduction_enabled": False,
    }
    others = ("tts", "handle", "intent", "wake", "mic", "snd")
    return {"asr": [service]} | {name: [] for name in others}


def _length(value: object) -> int:
    if value is None:
        return 0
    length = integer_in(value, "length")
    if not 0 <= length <= MAX_BODY_BYTES:
        raise MessageTooBig("an event is too long")
    return length
