"""AssemblyAI's streaming wire, version 3 (``/v3/ws``), server side.

Does: query, audio, ForceEndpoint, UpdateConfiguration, Terminate -> requests; partials and finals
-> numbered Turns.
Does not know: sockets, clocks. A turn's transcript holds the words that will not change; the open
tail is in its words, marked as not final.
"""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from server.wire import messages as native
from server.wire.adapter import PATIENCE_MS, Adapter, Hello, Refused
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest, RemoteProtocolError, UnsupportedAudio
from server.wire.values import (
    audio_format,
    integer_in,
    number_in,
    phrases_in,
    read_json,
    spread,
    strings_in,
    turns_after,
)

ENCODINGS: dict[str, str] = {"pcm_s16le": "pcm_s16le", "pcm_mulaw": "mulaw"}
SESSION_S = 10_800
CLOSE_CODES: dict[str, int] = {
    "bad_request": 3007,
    "unsupported_audio": 3007,
    "too_far_ahead": 3007,
    "idle_timeout": 3008,
    "session_limit": 3008,
    "over_capacity": 3009,
    "rate_limited": 3009,
}
"""By native error; any other is 3005."""
_SHORTEST = ("min_turn_silence", "min_end_of_turn_silence_when_confident")
"""The silence that ends a turn whose last word may end a sentence."""
_LONGEST = "max_turn_silence"
"""The silence that ends any."""
_SILENCES = (*_SHORTEST, _LONGEST)
MOST_LONGER_MS = 2_000
"""What a session waits longer behind a word that ends no sentence."""


class AssemblyServer(Adapter):
    """A client of ``/v3/ws``."""

    start_s: ClassVar[float | None] = 60.0
    idle_ms = PATIENCE_MS

    def __init__(self, hello: Hello) -> None:
        super().__init__(hello)
        try:
            self._audio = _audio_of(hello)
            if wish := hello.get("inactivity_timeout"):
                self.idle_ms = _idle_of(wish)
            self._silences = _silences_of({name: hello.get(name) for name in _SILENCES})
        except RemoteProtocolError as error:
            raise Refused(400, {"error": error.message}) from error
        self._is_formatted = hello.is_set("format_turns")
        self._order = 0

    def on_open(self) -> None:
        """Greet, ask for a session."""
        expires = self.hello.born_s + SESSION_S
        self.send_json({"type": "Begin", "id": self.hello.name, "expires_at": expires})
        self.start(
            self._audio,
            endpointing=_endpointing_of(self._silences),
            language=_language_of(self.hello),
            phrases=phrases_in(self.hello.get("keyterms_prompt")),
            latency=self.hello.get("latency"),
        )

    def on_text(self, text: str) -> None:
        """Take a control message."""
        value = read_json(text)
        match value.get("type"):
            case "Terminate":
                self.stop()
            case "ForceEndpoint":
                self.finalize()
            case "KeepAlive":
                self.configure()
            case "UpdateConfiguration":
                self._update(value)
            case _:
                raise BadRequest("unknown type")

    def on_binary(self, data: bytes) -> None:
        """Take audio; what follows Terminate is not heard."""
        if self.format is not None:
            self.audio(data)

    def on_partial(self, message: native.Partial) -> None:
        """Say how the turn goes on."""
        settled = len(message.stable.split())
        words = spread(message.text, message.start_ms, message.end_ms)
        self._turn(message.stable, words, 0.0, settled=settled)

    def on_final(self, message: native.Final) -> None:
        """End a turn."""
        if message.text:
            words = list(message.words or ())
            confidence = message.confidence or 0.0
            self._turn(message.text, words, confidence, settled=len(words), is_end=True)
            self._order += 1

    def on_turn(self, message: native.Turn) -> None:
        """Tell of the first sound of speech."""
        if message.event == "start":
            self.send_json({"type": "SpeechStarted", "timestamp": message.at_ms})

    def on_done(self, message: native.Done) -> None:
        """Say goodbye."""
        duration_s = round(message.samples / self._audio.rate)
        self.send_json(
            {
                "type": "Termination",
                "audio_duration_seconds": duration_s,
                "session_duration_seconds": duration_s,
            }
        )
        self.end()

    def on_error(self, error: native.Error) -> None:
        """Say it and close: every error of this wire is fatal."""
        code = CLOSE_CODES.get(error.code, 3005)
        self.send_json({"type": "Error", "error_code": code, "error": error.message})
        self.end(code, error.message)

    # ---- inside

    def _update(self, value: JsonObject) -> None:
        phrases = phrases_in(value["keyterms_prompt"]) if "keyterms_prompt" in value else None
        silences = self._silences | _silences_of(value)
        rules = None if silences == self._silences else _endpointing_of(silences)
        self._silences = silences
        if (is_formatted := value.get("format_turns")) is not None:
            self._is_formatted = bool(is_formatted)
        self.configure(endpointing=rules, phrases=phrases)

    def _turn(
        self,
        text: str,
        words: list[native.WordSpan],
        confidence: float,
        *,
        settled: int,
        is_end: bool = False,
    ) -> None:
        self.send_json(
            {
                "type": "Turn",
                "turn_order": self._order,
                "turn_is_formatted": is_end and self._is_formatted,
                "end_of_turn": is_end,
                "transcript": text,
                "end_of_turn_confidence": float(is_end),
                "words": [
                    {
                        "start": word.s,
                        "end": word.e,
                        "confidence": confidence if word.c is None else word.c,
                        "text": word.w,
                        "word_is_final": i < settled,
                    }
                    for i, word in enumerate(words)
                ],
            }
        )


def _audio_of(hello: Hello) -> native.AudioFormat:
    name = hello.get("encoding") or "pcm_s16le"
    if name not in ENCODINGS:
        raise UnsupportedAudio("encoding must be pcm_s16le or pcm_mulaw")
    return audio_format(
        ENCODINGS[name], integer_in(hello.get("sample_rate") or 16_000, "sample_rate")
    )


def _language_of(hello: Hello) -> str:
    """Return the language of the session; a list of several says nothing."""
    listed = strings_in(hello.get("language_codes"))
    only = listed[0] if len(listed) == 1 else ""
    return hello.get("language_code") or only or hello.get("language")


def _idle_of(wish: str) -> int:
    wanted_s = number_in(wish, "inactivity_timeout")
    if not 5 <= wanted_s <= 3_600:
        raise BadRequest("inactivity_timeout must be 5..3600 seconds")
    return round(wanted_s * 1_000)


def _silences_of(value: JsonObject) -> dict[str, float]:
    """Return the silences that are given, in milliseconds; raises BadRequest."""
    given = {name: value[name] for name in _SILENCES if value.get(name) not in (None, "")}
    return {name: number_in(wish, name) for name, wish in given.items()}


def _endpointing_of(silences: Mapping[str, float]) -> native.Endpointing:
    if not silences:
        return native.Endpointing()
    usual_ms = native.Endpointing().silence_ms
    shortest_ms = next((silences[name] for name in _SHORTEST if name in silences), usual_ms)
    longest_ms = silences.get(_LONGEST, shortest_ms)
    rules = turns_after(min(shortest_ms, longest_ms))
    longer_ms = min(max(0, round(longest_ms) - rules.silence_ms), MOST_LONGER_MS)
    return msgspec.structs.replace(rules, hesitation_ms=longer_ms)
