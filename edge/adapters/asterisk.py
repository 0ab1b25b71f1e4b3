"""Asterisk's WebSocket channel without I/O (chan_websocket): texts and audio become a feed.

Does: MEDIA_START in either form (words or JSON), G.711 as it came, 16-bit audio, digits.
Does not know: sockets. Asterisk says its channel's id only: the address may name the call.
"""

import msgspec
from msgspec import Struct

from edge.adapters.events import Audio, Digit, Event, FeedError, Missing, Started
from edge.wire import SAMPLE_BYTES, Encoding

MAX_FRAME_BYTES = 65_536
_FORMATS: dict[str, tuple[Encoding, int]] = {
    "ulaw": ("mulaw", 8_000),
    "alaw": ("alaw", 8_000),
    "slin": ("pcm_s16le", 8_000),
    "slin12": ("pcm_s16le", 12_000),
    "slin16": ("pcm_s16le", 16_000),
    "slin24": ("pcm_s16le", 24_000),
    "slin32": ("pcm_s16le", 32_000),
    "slin44": ("pcm_s16le", 44_100),
    "slin48": ("pcm_s16le", 48_000),
}


class _Message(Struct):
    event: str = ""
    channel_id: str = ""
    format: str = ""
    digit: str = ""


class AsteriskSocket:
    """One call; ``name`` goes before the channel's own id."""

    def __init__(self, *, name: str = "") -> None:
        self._name = name[:64]
        self._started: Started | None = None

    def receive_text(self, text: str) -> list[Event]:
        """Take a message; raises FeedError."""
        message = _message(text)
        if message.event == "DTMF_END":
            return [Digit(message.digit[:1])]
        if message.event != "MEDIA_START":
            return []  # the state of a queue that we never fill, and what comes after this version
        if self._started:
            raise FeedError("a second MEDIA_START")
        form = _FORMATS.get(message.format)
        if form is None:
            raise FeedError(f"c(FORMAT) of the dial string must be one of {', '.join(_FORMATS)}")
        self._started = Started(self._name or message.channel_id[:64], *form)
        return [self._started]

    def receive_binary(self, data: bytes) -> list[Event]:
        """Take samples; raises FeedError."""
        if self._started is None:
            raise FeedError("audio before MEDIA_START")
        if len(data) > MAX_FRAME_BYTES or len(data) % SAMPLE_BYTES[self._started.encoding]:
            raise FeedError("half a sample, or a frame that is too large")
        return [Audio(data)] if data else []

    def receive_nothing(self, seconds: float) -> list[Event]:
        """Note that time passed without a frame: the caller is on hold, or muted."""
        return [Missing(round(seconds * self._started.rate))] if self._started else []


def _message(text: str) -> _Message:
    """Read a text in either of Asterisk's forms; raises FeedError."""
    if text.startswith("{"):
        try:
            return msgspec.json.decode(text, type=_Message)
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
            raise FeedError("a message that is not Asterisk's") from error
    event, *pairs = text.split() or [""]
    told = dict(pair.split(":", 1) for pair in pairs if ":" in pair)
    named = {key: told[key] for key in ("channel_id", "format", "digit") if key in told}
    return _Message(event, **named)
