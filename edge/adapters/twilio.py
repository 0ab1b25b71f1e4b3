"""Twilio Media Streams without I/O: JSON messages of a WebSocket become a feed.

Does: connected, start, media, dtmf, mark, stop; the check of X-Twilio-Signature.
Does not know: sockets. Twilio cannot resume a stream: whoever takes it must keep it.
Numbers are strings on this wire, except inside ``mediaFormat``; times are ms since the start.
"""

import base64
import binascii
import hashlib
import hmac

import msgspec
from msgspec import Struct

from edge.adapters.events import Audio, Digit, Ended, Event, FeedError, Started

RATE_HZ = 8_000
MAX_PAYLOAD_BYTES = 65_536


class _Format(Struct, rename="camel", frozen=True):
    encoding: str
    sample_rate: int
    channels: int = 1


class _Start(Struct, rename="camel"):
    call_sid: str = ""
    tracks: tuple[str, ...] = ("inbound",)
    media_format: _Format = _Format("audio/x-mulaw", RATE_HZ)


class _Media(Struct):
    payload: str
    timestamp: str = ""
    track: str = "inbound"


class _Dtmf(Struct):
    digit: str = ""


class _Message(Struct, rename="camel"):
    event: str
    stream_sid: str = ""
    start: _Start | None = None
    media: _Media | None = None
    dtmf: _Dtmf | None = None


def signature(url: str, secret: str) -> str:
    """Return what Twilio puts into X-Twilio-Signature for a WebSocket address."""
    return base64.b64encode(hmac.digest(secret.encode(), url.encode(), hashlib.sha1)).decode()


def is_signed(url: str, given: str, secret: str) -> bool:
    """Whether the header was made with our auth token; a slash at the end does not matter."""
    bare = url.rstrip("/")
    return any(
        hmac.compare_digest(signature(form, secret).encode(), given.encode())
        for form in (bare, bare + "/")
    )


class Twilio:
    """One stream."""

    def __init__(self) -> None:
        self._tracks: tuple[str, ...] = ()
        self._is_over = False

    def receive_text(self, text: str) -> list[Event]:
        """Take a message; raises FeedError."""
        if self._is_over:
            return []
        try:
            message = msgspec.json.decode(text, type=_Message)
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
            raise FeedError("a message that is not Twilio's") from error
        match message.event:
            case "start":
                return [self._start(message)]
            case "media":
                return [self._media(message.media)]
            case "dtmf" if message.dtmf is not None:
                return [Digit(message.dtmf.digit[:1])]
            case "stop":
                self._is_over = True
                return [Ended()]
            case _:
                return []  # connected, mark, and what comes after this version

    def _start(self, message: _Message) -> Started:
        start = message.start
        if start is None or self._tracks:
            raise FeedError("a 'start' without its fields, or a second one")
        audio = start.media_format
        if (audio.encoding, audio.sample_rate, audio.channels) != ("audio/x-mulaw", RATE_HZ, 1):
            raise FeedError("Twilio sends mono mu-law at 8000 Hz; this is something else")
        self._tracks = tuple(dict.fromkeys(start.tracks))[:2] or ("inbound",)
        return Started(start.call_sid or message.stream_sid, "mulaw", RATE_HZ, self._tracks)

    def _media(self, media: _Media | None) -> Audio:
        if media is None or not self._tracks:
            raise FeedError("'media' before 'start', or without its fields")
        if media.track not in self._tracks:
            raise FeedError("'media' of a track that 'start' did not name")
        try:
            data = base64.b64decode(media.payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise FeedError("'media' that is not base64") from error
        if len(data) > MAX_PAYLOAD_BYTES:
            raise FeedError(f"'media' of {len(data)} bytes")
        at = None
        if media.timestamp.isascii() and media.timestamp.isdecimal() and len(media.timestamp) < 12:
            at = int(media.timestamp) * RATE_HZ // 1000
        return Audio(data, media.track, at)
