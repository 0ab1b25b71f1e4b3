"""What a realtime transcription session of OpenAI's is set to, in both dialects.

Does: session objects, whole or in part, GA or beta -> one value; the value -> both dialects.
Does not know: events, items, audio.
"""

from dataclasses import dataclass, replace
from typing import Any

from server.wire import messages as native
from server.wire.codec import JsonObject
from server.wire.errors import BadRequest, UnsupportedAudio
from server.wire.values import audio_format, integer_in, number_in, object_in, text_in, turns_after

SESSION_S = 14_400
DEFAULT_RATE = 24_000
TELEPHONE_RATE = 8_000
_DEFAULT_AUDIO = native.AudioFormat(encoding="pcm_s16le", rate=DEFAULT_RATE)
_BETA_FORMATS = {"pcm16": "pcm_s16le", "g711_ulaw": "mulaw", "g711_alaw": "alaw"}
_GA_FORMATS = {"audio/pcm": "pcm_s16le", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_EAGERNESS_MS = {"low": 1_000, "medium": 600, "auto": 600, "high": 300}
_ABSENT: Any = object()


def expiry_of(born_s: int) -> int:
    """Return when a session that began then is over."""
    return born_s + SESSION_S


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRules:
    """``turn_detection``."""

    type: str = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_ms: int = 500
    eagerness: str = "auto"

    def to_json(self) -> JsonObject:
        """Return the object that clients know."""
        if self.type == "semantic_vad":
            return {"type": self.type, "eagerness": self.eagerness}
        return {
            "type": self.type,
            "threshold": self.threshold,
            "prefix_padding_ms": self.prefix_padding_ms,
            "silence_duration_ms": self.silence_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One session's settings."""

    model: str
    audio: native.AudioFormat = _DEFAULT_AUDIO
    language: str = ""
    prompt: str = ""
    turns: TurnRules | None = TurnRules()

    @property
    def has_turns(self) -> bool:
        """Whether the server says when a turn is over."""
        return self.turns is not None

    @property
    def padding_ms(self) -> int:
        """How much audio before its speech belongs to a turn."""
        return 0 if self.turns is None else self.turns.prefix_padding_ms

    def endpointing(self) -> native.Endpointing:
        """Return when a turn is over."""
        if self.turns is None:
            return native.Endpointing(mode="manual", max_turn_ms=120_000)
        if self.turns.type == "semantic_vad":
            return native.Endpointing(silence_ms=_EAGERNESS_MS.get(self.turns.eagerness, 600))
        return turns_after(self.turns.silence_ms)

    def must_restart(self, before: "Settings") -> bool:
        """Whether the engine's session cannot go on with these."""
        return (self.audio, self.language, self.has_turns) != (
            before.audio,
            before.language,
            before.has_turns,
        )

    def updated(self, wish: JsonObject) -> "Settings":
        """Return these with what a client wishes, in either dialect; raises RemoteProtocolError."""
        wish = _flat(wish)
        settings = self
        if wish["format"] is not _ABSENT and wish["format"] is not None:
            settings = replace(settings, audio=_audio_of(wish["format"], self.audio))
        if isinstance(wish["transcription"], dict):
            heard = wish["transcription"]
            settings = replace(
                settings,
                model=text_in(heard.get("model"), settings.model),
                language=text_in(heard.get("language"), settings.language),
                prompt=text_in(heard.get("prompt"), settings.prompt),
            )
        if wish["turn_detection"] is not _ABSENT:
            settings = replace(settings, turns=_turns_of(wish["turn_detection"]))
        return settings

    def ga(self) -> JsonObject:
        """Return the settings as GA clients read them."""
        kinds = {encoding: name for name, encoding in _GA_FORMATS.items()}
        form: JsonObject = {"type": kinds[self.audio.encoding]}
        if self.audio.encoding == "pcm_s16le":
            form["rate"] = self.audio.rate
        heard = {
            "format": form,
            "transcription": self._transcription(),
            "turn_detection": self._turn_detection(),
            "noise_reduction": None,
        }
        return {"type": "transcription", "audio": {"input": heard}, "include": None}

    def beta(self) -> JsonObject:
        """Return the settings as beta clients read them."""
        kinds = {encoding: name for name, encoding in _BETA_FORMATS.items()}
        return {
            "modalities": ["text"],
            "input_audio_format": kinds[self.audio.encoding],
            "input_audio_transcription": self._transcription(),
            "turn_detection": self._turn_detection(),
            "input_audio_noise_reduction": None,
        }

    def _transcription(self) -> JsonObject:
        return {"model": self.model, "language": self.language or None, "prompt": self.prompt}

    def _turn_detection(self) -> JsonObject | None:
        return None if self.turns is None else self.turns.to_json()


def _flat(wish: JsonObject) -> JsonObject:
    """Return format, transcription and turn_detection from where a dialect keeps them."""
    heard = object_in(object_in(wish.get("audio")).get("input"))
    return {
        "format": heard.get("format", wish.get("input_audio_format", _ABSENT)),
        "transcription": heard.get("transcription", wish.get("input_audio_transcription", _ABSENT)),
        "turn_detection": heard.get("turn_detection", wish.get("turn_detection", _ABSENT)),
    }


def _audio_of(form: object, before: native.AudioFormat) -> native.AudioFormat:
    if isinstance(form, str):
        encoding = _BETA_FORMATS.get(form) or _GA_FORMATS.get(form)
        rate: object = None
    else:
        fields = object_in(form)
        encoding = _GA_FORMATS.get(text_in(fields.get("type")))
        rate = fields.get("rate")
    if encoding is None:
        raise UnsupportedAudio("format must be PCM, mu-law or A-law", param="format")
    if encoding != "pcm_s16le":
        return audio_format(encoding, TELEPHONE_RATE)
    own = before.rate if before.encoding == "pcm_s16le" else DEFAULT_RATE
    return audio_format(encoding, own if rate is None else integer_in(rate, "rate"))


def _turns_of(wish: object) -> TurnRules | None:
    if wish is None:
        return None
    if not isinstance(wish, dict):
        raise BadRequest("turn_detection must be an object or null", param="turn_detection")
    kind = text_in(wish.get("type"), "server_vad")
    if kind == "none":
        return None
    if kind not in ("server_vad", "semantic_vad"):
        raise BadRequest("turn_detection.type is not known", param="turn_detection.type")
    return TurnRules(
        type=kind,
        threshold=number_in(_given(wish, "threshold", 0.5), "threshold"),
        prefix_padding_ms=round(number_in(_given(wish, "prefix_padding_ms", 300), "padding")),
        silence_ms=round(number_in(_given(wish, "silence_duration_ms", 500), "silence")),
        eagerness=text_in(wish.get("eagerness"), "auto"),
    )


def _given(wish: JsonObject, name: str, default: float) -> object:
    value = wish.get(name)
    return default if value is None else value
