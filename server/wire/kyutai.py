"""Kyutai's streaming wire (``/api/asr-streaming`` of moshi-server, MessagePack), server side.

Does: Audio, Marker -> requests; words that will not change -> Word and EndWord; progress -> Step.
Does not know: sockets, clocks. Nothing can be taken back here: stable words only. A word of an
open segment has no times of its own, they are spread over the segment.

A client floods silence behind its Marker to push the marker out of a model that is late; here the
marker is answered at once, and pure silence behind it is counted, not heard, until sound comes.
"""

import struct
from collections import deque
from typing import ClassVar

import msgspec

from server.wire import messages as native
from server.wire.adapter import Adapter, Hello
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest, UnsupportedAudio
from server.wire.values import audio_format, seconds, spread

RATE = 24_000
STEP = 1_920
"""Samples of a step: 80 ms."""
MOST_SILENT = 10 * RATE
"""Samples of silence counted before they are told: a session that is told nothing is idle."""
PAUSE_HEADS = 4
"""Clients look at one of so many probabilities; ours are the same, 0 or 1."""


class Audio(msgspec.Struct, frozen=True, tag_field="type", tag="Audio"):
    """Samples between -1 and 1."""

    pcm: list[float]


class OggOpus(msgspec.Struct, frozen=True, tag_field="type", tag="OggOpus"):
    """Refused: nothing here decodes Opus."""


class Marker(msgspec.Struct, frozen=True, tag_field="type", tag="Marker"):
    """Asks to be told when all before it is transcribed."""

    id: int


class Init(msgspec.Struct, frozen=True, tag_field="type", tag="Init"):
    """Says nothing."""


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="Ping"):
    """Says that somebody is there."""


_reader = msgspec.msgpack.Decoder(Audio | OggOpus | Marker | Init | Ping)


class KyutaiServer(Adapter):
    """A client of moshi-server's speech to text."""

    start_s: ClassVar[float | None] = 60.0

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        self._markers = deque[int]()
        """Asked for and not answered."""
        self._said = 0
        """Words of the open segment."""
        self._said_ms = 0
        """End of the last word that was said."""
        self._steps = 0
        self._silent = 0
        """The last samples of the client: silence that was not handed on."""
        self._is_marked = False
        self._is_pause = True

    def on_open(self) -> None:
        """Greet."""
        self._say("Ready")

    def on_text(self, text: str) -> None:
        """Skip text, as their server does."""

    def on_binary(self, data: bytes) -> None:
        """Take a message."""
        try:
            message = _reader.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest("a message must be a MessagePack map of a known type") from error
        match message:
            case Audio():
                self._hear(message.pcm)
            case Marker():
                self._mark(message.id)
            case OggOpus():
                raise UnsupportedAudio("Opus is not decoded here: send Audio")
            case _:
                self.configure()  # somebody is there

    def on_partial(self, message: native.Partial) -> None:
        """Say words that will not change."""
        settled = len(message.stable.split())
        self._words(spread(message.text, message.start_ms, message.end_ms)[:settled])

    def on_final(self, message: native.Final) -> None:
        """Say the rest of a segment."""
        spans = message.words or spread(message.text, message.start_ms, message.end_ms)
        self._words(list(spans))
        self._said = 0

    def on_turn(self, message: native.Turn) -> None:
        """Keep whether somebody speaks: steps tell it."""
        self._is_pause = message.event in ("eager_end", "end")

    def on_progress(self, message: native.Ack) -> None:
        """Say each step that is decoded."""
        chances = [float(self._is_pause)] * PAUSE_HEADS
        while (self._steps + 1) * STEP <= message.done:
            waiting = max(0, message.at - (self._steps + 1) * STEP)
            self._say("Step", step_idx=self._steps, prs=chances, buffered_pcm=waiting)
            self._steps += 1

    def on_answer(self, message: native.Ready | native.Finalized | native.Configured) -> None:
        """Answer a marker: all before it is said."""
        if isinstance(message, native.Finalized) and self._markers:
            self._say("Marker", id=self._markers.popleft())

    def on_mistake(self, error: native.Error) -> None:
        """Say that the last marker is one too many."""
        if error.code == "rate_limited" and self._markers:
            self._markers.pop()
            self._say("Error", message=error.message)

    def on_done(self, message: native.Done) -> None:
        """End: the session is over because the client is."""
        self.end()

    def on_error(self, error: native.Error) -> None:
        """Say it and end."""
        self._say("Error", message=error.message)
        self.end(1013 if error.code == "over_capacity" else 1011, error.message)

    # ---- inside

    def _hear(self, pcm: list[float]) -> None:
        if self._is_marked and not any(pcm):
            self._silent += len(pcm)
            if self._silent >= MOST_SILENT and not self._markers:  # no step before its marker
                self._tell_silence()
            return
        self._is_marked = False
        try:
            data = struct.pack(f"<{len(pcm)}f", *pcm)
        except (struct.error, OverflowError) as error:
            raise BadRequest("a sample is no 32-bit number", param="pcm") from error
        if self.format is None:
            self.start(audio_format("pcm_f32le", RATE), partials="stable")
        if self._silent:
            self._tell_silence()
        self.audio(data)

    def _tell_silence(self) -> None:
        self._ask(native.ClientGap(samples=self._silent))
        self._silent = 0

    def _mark(self, number: int) -> None:
        if self.format is None:
            self._say("Marker", id=number)
            return
        self._is_marked = True
        self._markers.append(number)
        self.finalize()

    def _words(self, spans: list[native.WordSpan]) -> None:
        for span in spans[self._said :]:
            # A guessed time may be late, a later true one before it: words never overlap here.
            start_ms = max(span.s, self._said_ms)
            self._said_ms = max(span.e, start_ms)
            self._say("Word", text=span.w, start_time=seconds(start_ms))
            self._say("EndWord", stop_time=seconds(self._said_ms))
        self._said = max(self._said, len(spans))

    def _say(self, kind: str, **fields: object) -> None:
        message: JsonObject = {"type": kind} | fields
        self.send(msgspec.msgpack.encode(message))
