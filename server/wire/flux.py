"""Deepgram's turn-taking wire, version 2 (``/v2/listen``, Flux), server side.

Does: query and Configure -> endpointing; turns, partials and finals -> numbered TurnInfo.
Does not know: sockets, clocks. Thresholds become silences: 0.7 is our default.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from server.wire import messages as native
from server.wire.adapter import Adapter, Hello
from server.wire.codec import JsonObject
from server.wire.deepgram import (
    CLOSE_CODES,
    CONFIGURE,
    format_of,
    keyterms_of,
    readable_of,
    refusal,
)
from server.wire.errors import BadRequest, RemoteProtocolError, UnsupportedAudio
from server.wire.values import (
    LONGEST_SILENCE_MS,
    number_in,
    object_in,
    phrases_in,
    read_json,
    seconds,
    silence,
    spread,
)
from server.wire.wav import WavHeader

DEFAULT_THRESHOLD, DEFAULT_TIMEOUT_MS = 0.7, 5_000
MS_AT_DEFAULT, MS_PER_UNIT = native.Endpointing().silence_ms, 1_500
EVENTS: dict[str, str] = {
    "start": "StartOfTurn",
    "eager_end": "EagerEndOfTurn",
    "resumed": "TurnResumed",
    "end": "EndOfTurn",
}
FORCE = "force"
"""The request that a ForceEndTurn becomes."""


@dataclass(slots=True)
class Thresholds:
    """How sure of an end a client wants to be."""

    eot: float = DEFAULT_THRESHOLD
    eager: float | None = None
    timeout_ms: float = DEFAULT_TIMEOUT_MS

    def update(self, eot: object, eager: object, timeout_ms: object) -> None:
        """Take what is given; raises BadRequest."""
        if eot is not None:
            self.eot = _between(eot, "eot_threshold", 0.5, 0.9)
        if eager is not None:
            self.eager = _between(eager, "eager_eot_threshold", 0.3, 0.9)
        if timeout_ms is not None:
            self.timeout_ms = _between(timeout_ms, "eot_timeout_ms", 500, 10_000)

    def endpointing(self) -> native.Endpointing:
        """Return the silences that stand for them."""
        wanted_ms = MS_AT_DEFAULT + (self.eot - DEFAULT_THRESHOLD) * MS_PER_UNIT
        silence_ms = silence(min(wanted_ms, self.timeout_ms, LONGEST_SILENCE_MS))
        if self.eager is None:
            return native.Endpointing(silence_ms=silence_ms)
        share = min(1.0, self.eager / self.eot) ** 2
        eager_ms = min(max(80, round(silence_ms * share)), silence_ms - 40, 2_000)
        return native.Endpointing(silence_ms=silence_ms, eager_ms=eager_ms)

    def to_json(self) -> JsonObject:
        """Return them as the client wrote them."""
        return {
            "eot_threshold": self.eot,
            "eager_eot_threshold": self.eager,
            "eot_timeout_ms": round(self.timeout_ms),
        }


@dataclass(slots=True)
class _Turn:
    """The open turn."""

    start_ms: int = 0
    end_ms: int = 0
    text: str = ""
    words: list[native.WordSpan] = field(default_factory=list)
    """Of the text."""
    confidence: float = 0.0
    """Of words that have none of their own."""
    is_over: float = 0.0
    """How sure it is that nothing more comes."""
    eager: str | None = None
    """The text of the eager end that stands."""

    def say(self, text: str, start_ms: int, end_ms: int, words: list[native.WordSpan]) -> None:
        """Take what is said now; the window covers it, even what began before its start."""
        self.text, self.words = text, words or spread(text, start_ms, end_ms)
        self.start_ms, self.end_ms = min(self.start_ms, start_ms), max(self.end_ms, end_ms)


class FluxServer(Adapter):
    """A client of ``/v2/listen``."""

    subprotocols: ClassVar[tuple[str, ...]] = ("token", "bearer")

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        self.readable = readable_of(hello)
        self._thresholds = Thresholds()
        try:
            self._announced = format_of(hello)
            if self._announced is not None and self._announced.channels != 1:
                raise UnsupportedAudio("turns are of one channel")
            self._thresholds.update(
                hello.get("eot_threshold") or None,
                hello.get("eager_eot_threshold") or None,
                hello.get("eot_timeout_ms") or None,
            )
        except RemoteProtocolError as error:
            raise refusal(hello, error.message) from error
        self._header = WavHeader()
        self._count = 0
        self._turn, self._number = _Turn(), 0
        self._keyterms = list(hello.query.get("keyterm", ()))
        self._is_closing = False
        self._forced = 0
        """Turns to be ended by force, not answered yet."""

    def on_open(self) -> None:
        """Greet; ask for a session as soon as the format is known."""
        self._say("Connected")
        if self._announced is not None:
            self._begin(self._announced)

    def on_binary(self, data: bytes) -> None:
        """Take audio."""
        if self._is_closing or not data:
            return
        if self.format is not None:
            self.audio(data)
        elif found := self._header.push(data):
            if found.audio.channels != 1:
                raise UnsupportedAudio("turns are of one channel")
            self._begin(found.audio)
            self.audio(found.first)

    def on_text(self, text: str) -> None:
        """Take a control message."""
        value = read_json(text)
        if self._is_closing:
            return
        match value.get("type"):
            case "CloseStream":
                self._is_closing = True
                if self.format is None:
                    self.end()
                self.stop()
            case "ForceEndTurn":
                self._forced += self.format is not None
                self.finalize(FORCE)
            case "Configure":
                try:
                    self._configure(value)
                except BadRequest as error:
                    self._say("ConfigureFailure", description=error.message)
            case "KeepAlive":
                self.configure()
            case _:
                raise BadRequest("unknown type")

    def on_partial(self, message: native.Partial) -> None:
        """Say how the turn goes on."""
        turn = self._turn
        turn.say(message.text, message.start_ms, message.end_ms, [])
        self._turn_info("Update", self._number)

    def on_final(self, message: native.Final) -> None:
        """Keep the words: the end of the turn follows."""
        if message.text:
            turn = self._turn
            turn.say(message.text, message.start_ms, message.end_ms, list(message.words or ()))
            turn.confidence = message.confidence or 0.0

    def on_turn(self, message: native.Turn) -> None:
        """Say what became of the turn."""
        self._number, turn = message.turn, self._turn
        match message.event:
            case "start":
                self._turn = _Turn(start_ms=message.at_ms, end_ms=message.at_ms)
            case "eager_end":
                if not message.text:
                    return
                if message.text != turn.text:  # it says more than the last partial
                    turn.say(message.text, turn.start_ms, message.at_ms, [])
                turn.confidence = message.confidence or 0.0
                turn.eager, turn.is_over = turn.text, self._thresholds.eager or 0.0
            case "resumed":
                if turn.eager is None:  # nothing that was told is taken back
                    return
                turn.eager, turn.is_over = None, 0.0
            case "end":
                if message.text is not None and message.text != turn.text:
                    turn.say(message.text, turn.start_ms, message.at_ms, [])
                if turn.eager not in (None, turn.text):
                    turn.is_over = 0.0
                    self._turn_info("TurnResumed", message.turn)
                turn.is_over = self._thresholds.eot
        self._turn.end_ms = max(self._turn.end_ms, message.at_ms)
        trigger = self._trigger_of(message) if message.event == "end" else None
        self._turn_info(EVENTS[message.event], message.turn, trigger)

    def on_answer(self, message: native.Ready | native.Finalized | native.Configured) -> None:
        """Confirm a Configure; a ForceEndTurn is answered by the end of the turn."""
        if isinstance(message, native.Finalized):
            self._forced -= 1
        if isinstance(message, native.Configured) and message.req == CONFIGURE:
            self._say(
                "ConfigureSuccess",
                thresholds=self._thresholds.to_json(),
                keyterms=self._keyterms,
            )

    def on_mistake(self, error: native.Error) -> None:
        """Say that a Configure was refused."""
        self._forced -= error.req == FORCE
        if error.req == CONFIGURE:
            self._say("ConfigureFailure", description=error.message)

    def on_done(self, message: native.Done) -> None:
        """Close."""
        self.end()

    def on_error(self, error: native.Error) -> None:
        """Say it and close: every error of this wire is fatal."""
        code, word = CLOSE_CODES.get(error.code, (1011, "NET-0000"))
        self._say("Error", code=word, description=error.message)
        self.end(code, error.message)

    # ---- inside

    def _begin(self, audio: native.AudioFormat) -> None:
        self.start(
            audio,
            endpointing=self._thresholds.endpointing(),
            language=self.hello.get("language_hint"),
            phrases=keyterms_of(self.hello),
            latency=self.hello.get("latency"),
        )

    def _configure(self, value: JsonObject) -> None:
        wish = object_in(value.get("thresholds"))
        thresholds = replace(self._thresholds)
        thresholds.update(
            wish.get("eot_threshold"), wish.get("eager_eot_threshold"), wish.get("eot_timeout_ms")
        )
        self._thresholds = thresholds
        phrases = None
        if (terms := value.get("keyterms")) is not None:
            phrases = phrases_in([terms] if isinstance(terms, str) else terms)
            self._keyterms = [boost.phrase for boost in phrases]
        self.configure(endpointing=self._thresholds.endpointing(), phrases=phrases, req=CONFIGURE)

    def _trigger_of(self, end: native.Turn) -> str:
        """Return why a turn ended: the end of the stream forces nothing."""
        if end.trigger == "timeout":
            return "timeout"
        return "manual" if end.trigger == "finalize" and self._forced else "model"

    def _turn_info(self, event: str, number: int, trigger: str | None = None) -> None:
        turn = self._turn
        extra = {} if trigger is None else {"trigger": trigger}
        self._say(
            "TurnInfo",
            event=event,
            turn_index=number,
            audio_window_start=seconds(turn.start_ms),
            audio_window_end=seconds(turn.end_ms),
            transcript=turn.text,
            words=[
                {
                    "word": word.w,
                    "start": seconds(word.s),
                    "end": seconds(word.e),
                    "confidence": turn.confidence if word.c is None else word.c,
                }
                for word in turn.words
            ],
            end_of_turn_confidence=turn.is_over,
            **extra,
        )

    def _say(self, kind: str, **fields: object) -> None:
        """Say something under the next number: every message counts."""
        head = {"type": kind, "request_id": self.hello.name, "sequence_id": self._count}
        self._count += 1
        self.send_json(head | fields)


def _between(value: object, name: str, lowest: float, highest: float) -> float:
    number = number_in(value, name)
    if not lowest <= number <= highest:
        raise BadRequest(f"{name} must be {lowest}..{highest}", param=name)
    return number
