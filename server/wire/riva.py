"""NVIDIA Riva's speech recognition over gRPC, server side: the messages, without gRPC.

Does: StreamingRecognize and Recognize requests -> requests; partials and finals -> responses; what
the server has, for GetRivaSpeechRecognitionConfig.
Does not know: gRPC, sockets, clocks. The code of an ending is a gRPC status.
"""

from dataclasses import dataclass
from typing import ClassVar

from server.wire import messages as native
from server.wire import protobuf as pb
from server.wire.adapter import PATIENCE_MS, Adapter, Hello
from server.wire.errors import BadRequest, UnsupportedAudio
from server.wire.rest import FileServer, Recording
from server.wire.values import audio_format, phrase, turns_after

ENCODINGS: dict[int, str] = {1: "pcm_s16le", 3: "mulaw", 20: "alaw"}
INVALID_ARGUMENT, RESOURCE_EXHAUSTED, INTERNAL, DEADLINE_EXCEEDED = 3, 8, 13, 4
STATUS: dict[str, int] = {
    "bad_request": INVALID_ARGUMENT,
    "unsupported_audio": INVALID_ARGUMENT,
    "unsupported_language": INVALID_ARGUMENT,
    "too_far_ahead": RESOURCE_EXHAUSTED,
    "over_capacity": RESOURCE_EXHAUSTED,
    "rate_limited": RESOURCE_EXHAUSTED,
    "idle_timeout": DEADLINE_EXCEEDED,
    "session_limit": DEADLINE_EXCEEDED,
}
INTERIM_STABILITY = 0.5
REQUEST_ID = 100
"""Of requests and responses, the number of the field."""


@dataclass(frozen=True, slots=True)
class Config:
    """RecognitionConfig as far as it is heeded."""

    encoding: int
    rate: int
    channels: int
    has_channels: bool
    """Whether each is to be heard by itself."""
    language: str
    has_words: bool
    has_marks: bool
    phrases: tuple[native.Boost, ...]
    endpointing: native.Endpointing

    @property
    def audio(self) -> native.AudioFormat:
        """The announced format; raises UnsupportedAudio."""
        if self.encoding not in ENCODINGS:
            raise UnsupportedAudio("encoding must be LINEAR_PCM, MULAW or ALAW")
        return audio_format(ENCODINGS[self.encoding], self.rate or 16_000, self.channels or 1)


def read_config(fields: pb.Fields) -> Config:
    """Return a RecognitionConfig; raises BadRequest."""
    phrases = list[native.Boost]()
    for context in fields.messages(6):
        weight = context.floating(4)
        found = [phrase(text, weight if weight > 0 else 2.0) for text in context.texts(1)]
        phrases += [boost for boost in found if boost is not None]
    stop_ms = fields.message(25).integer(3)  # EndpointingConfig.stop_history
    endpointing = turns_after(stop_ms) if stop_ms > 0 else None
    return Config(
        encoding=fields.integer(1),
        rate=fields.integer(2),
        channels=fields.integer(7),
        has_channels=bool(fields.integer(12)),
        language=fields.text(3),
        has_words=bool(fields.integer(8)),
        has_marks=bool(fields.integer(11)),
        phrases=tuple(phrases),
        endpointing=endpointing or native.Endpointing(),
    )


def alternative(
    text: str, confidence: float, words: tuple[native.WordSpan, ...], *, has_words: bool
) -> bytes:
    """Return a SpeechRecognitionAlternative."""
    spans = b""
    for word in words if has_words else ():
        spans += pb.data(
            3,
            pb.integer(1, word.s)
            + pb.integer(2, word.e)
            + pb.text(3, word.w)
            + pb.floating(4, confidence if word.c is None else word.c),
        )
    return pb.text(1, text) + pb.floating(2, confidence) + spans


def configurations(request: bytes, hello: Hello) -> bytes:
    """Return what GetRivaSpeechRecognitionConfig asks for: the model, for streams and files.

    Nothing for the name of another. Clients pick by ``type`` and show ``language_code``.
    """
    if pb.Fields(request).text(1) not in ("", hello.model):
        return b""
    about = {"language_code": ",".join(hello.languages), "sample_rate": "16000"}
    about |= {"streaming": "True", "offline": "True"}
    found = b""
    for kind in ("online", "offline"):
        entries = [pb.text(1, k) + pb.text(2, v) for k, v in (about | {"type": kind}).items()]
        parameters = b"".join(pb.data(2, entry) for entry in entries)
        found += pb.data(1, pb.text(1, hello.model) + parameters)
    return found


def echoed(request_id: bytes) -> bytes:
    """Return the RequestId of a request as its responses carry it; nothing for none."""
    return pb.data(REQUEST_ID, request_id) if request_id else b""


class RivaServer(Adapter):
    """A client of StreamingRecognize; a binary message is one request of the stream."""

    max_message_bytes: ClassVar[int] = 4 * 1024 * 1024
    idle_ms = PATIENCE_MS

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        self._config: Config | None = None
        self._has_interim = False
        self._heard_s = 0.0
        """Audio processed, by the clock and by the results told; it never goes back."""
        self._rate = 1
        self._id = b""
        """The RequestId of the client's last request that had one."""

    def on_binary(self, data: bytes) -> None:
        """Take a StreamingRecognizeRequest: the configuration first, then audio."""
        request = pb.Fields(data)
        self._id = request.data(REQUEST_ID) or self._id
        if self._config is None:
            if not request.has(1):
                raise BadRequest("the first request must hold streaming_config")
            self._begin(request.message(1))
        elif request.has(1):
            raise BadRequest("streaming_config comes once")
        if (audio := request.data(2)) and self.format is not None:
            self.audio(audio)

    def on_end_of_input(self) -> None:
        """Flush; without a session there is nothing to say."""
        if self.format is None and not self.sessions:
            self.end(0)
        self.stop()

    def on_partial(self, message: native.Partial) -> None:
        """Give the open segment."""
        if self._has_interim:
            heard = alternative(message.text, 0.0, (), has_words=False)
            self._result(heard, message, pb.floating(3, INTERIM_STABILITY))

    def on_final(self, message: native.Final) -> None:
        """Give a finished segment; its text ends with a space, as clients append."""
        if message.text and self._config is not None:
            text, confidence = f"{message.text} ", message.confidence or 0.0
            words = message.words or ()
            heard = alternative(text, confidence, words, has_words=self._config.has_words)
            self._result(heard, message, pb.integer(2, 1) + pb.floating(3, 1.0))

    def on_progress(self, message: native.Ack) -> None:
        """Keep the clock: results tell it."""
        self._heard_s = max(self._heard_s, message.done / self._rate)

    def on_done(self, message: native.Done) -> None:
        """End well."""
        self.end(0)

    def on_error(self, error: native.Error) -> None:
        """End with a status."""
        self.end(STATUS.get(error.code, INTERNAL), error.message)

    def _begin(self, fields: pb.Fields) -> None:
        self._config = config = read_config(fields.message(1))
        self.has_channels = config.has_channels
        self._has_interim = bool(fields.integer(2))
        self._rate = config.audio.rate
        if config.has_marks:
            self.readable = native.Readable(numbers=False)
        self.start(
            config.audio,
            endpointing=config.endpointing,
            partials="all" if self._has_interim else "none",
            language=config.language,
            phrases=config.phrases,
        )

    def _result(self, heard: bytes, said: native.Partial | native.Final, rest: bytes) -> None:
        self._heard_s = max(self._heard_s, said.end_ms / 1_000)  # the clock is told behind it
        result = pb.data(1, heard) + rest + pb.integer(5, said.channel + 1)
        self.send(pb.data(1, result + pb.floating(6, self._heard_s)) + echoed(self._id))


class RivaFile(FileServer):
    """A client of Recognize: a whole file in one request."""

    def __init__(
        self, hello: Hello, recording: Recording, config: Config, request_id: bytes = b""
    ) -> None:
        super().__init__(hello, recording)
        self._config, self._id = config, request_id
        self.has_channels = config.has_channels
        if config.has_marks:
            self.readable = native.Readable(numbers=False)

    def wishes(self) -> tuple[str, list[native.Boost]]:
        """Return language and phrases."""
        return self._config.language, list(self._config.phrases)

    def on_done(self, message: native.Done) -> None:
        """Answer with every segment as a result."""
        results = b""
        for final in self.finals:
            heard = alternative(
                f"{final.text} ",
                final.confidence or 0.0,
                final.words or (),
                has_words=self._config.has_words,
            )
            end_s = final.end_ms / 1_000
            tag = pb.integer(2, final.channel + 1) + pb.floating(3, end_s)
            results += pb.data(1, pb.data(1, heard) + tag)
        self.send(results + echoed(self._id))
        self.end(0)

    def on_error(self, error: native.Error) -> None:
        """End with a status."""
        self.end(STATUS.get(error.code, INTERNAL), error.message)
