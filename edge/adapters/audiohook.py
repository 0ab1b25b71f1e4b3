"""Genesys AudioHook, protocol version 2, without I/O: a WebSocket becomes a feed, with answers.

Does: open and opened (one of the offered media, chosen before any audio), sequence numbers,
interleaved PCMU or L16 at 8 kHz (each channel is a track), discarded and resumed time, ping, close.
Does not know: sockets; API key and signature are checked before (``edge.adapters.signature``).
"""

import re
from typing import Any

import msgspec
from msgspec import Struct

from edge.adapters.events import Audio, Ended, Event, FeedError, Missing, Started
from edge.adapters.interleaved import channel
from edge.wire import SAMPLE_BYTES, Encoding

RATE_HZ = 8_000
MAX_FRAME_BYTES = 65_536
MAX_GAP_S = 3_600.0
_DURATION = re.compile(r"PT(\d{1,6}(?:\.\d{1,9})?)S", re.ASCII)
_ENCODINGS: dict[str, Encoding] = {"PCMU": "mulaw", "L16": "pcm_s16le"}


class _Media(Struct):
    format: str
    channels: tuple[str, ...]
    rate: int
    type: str = "audio"


class _Parameters(Struct, rename="camel"):
    media: tuple[_Media, ...] = ()
    conversation_id: str = ""
    discarded: str = ""


class _Message(Struct):
    type: str
    seq: int
    id: str
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)
    version: str = "2"


class AudioHook:
    """One session. Nothing begins before the first audio: a probe makes no leg."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._seq = self._client_seq = 0
        self._id = self._name = ""
        self._media: _Media | None = None
        self._has_started = self._is_over = False

    def texts_to_send(self) -> list[str]:
        """Return our answers, once."""
        texts, self._out = self._out, []
        return texts

    def receive_text(self, text: str) -> list[Event]:
        """Take a message; raises FeedError."""
        try:
            message = msgspec.json.decode(text, type=_Message)
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
            raise FeedError("a message that is not AudioHook's") from error
        if message.seq != self._client_seq + 1:
            raise FeedError("a sequence number out of order")
        self._client_seq, self._id = message.seq, message.id
        match message.type:
            case "open":
                self._open(message.parameters)
            case "ping":
                self._say("pong", {})
            case "discarded" | "resumed":
                return self._gap(message.parameters.discarded)
            case "close":
                self._is_over = True
                self._say("closed", {})
                return [Ended()]
            case _:
                pass  # paused, update, error, and what comes after this version
        return []

    def receive_binary(self, data: bytes) -> list[Event]:
        """Take interleaved samples; raises FeedError."""
        media = self._media
        if media is None:
            raise FeedError("audio before 'open'")
        if self._is_over or not data:
            return []
        encoding, count = _ENCODINGS[media.format], len(media.channels)
        size = SAMPLE_BYTES[encoding]
        if len(data) % (size * count) or len(data) > MAX_FRAME_BYTES:
            raise FeedError("no whole samples of every channel, or a frame that is too large")
        events = self._begin(encoding)
        for place, track in enumerate(media.channels):
            events.append(Audio(channel(data, place, count, size), track))
        return events

    def _begin(self, encoding: Encoding) -> list[Event]:
        if self._has_started or self._media is None:
            return []
        self._has_started = True
        return [Started(self._name, encoding, RATE_HZ, self._media.channels)]

    def _open(self, parameters: _Parameters) -> None:
        if self._media is not None:
            raise FeedError("a second 'open'")
        known = [
            media
            for media in parameters.media
            if media.format in _ENCODINGS
            and media.rate == RATE_HZ
            and len(media.channels) == len(set(media.channels)) > 0
            and len(media.channels) <= 2
        ]
        if not known:
            raise FeedError("no offered media is PCMU or L16 at 8000 Hz")
        # both speakers apart where that is offered, and the codec that costs less
        self._media = max(known, key=lambda media: (len(media.channels), media.format == "PCMU"))
        self._name = parameters.conversation_id[:64]
        chosen = msgspec.to_builtins(self._media)
        self._say("opened", {"startPaused": False, "media": [chosen]})

    def _gap(self, discarded: str) -> list[Event]:
        found = _DURATION.fullmatch(discarded)
        if found is None:
            raise FeedError("a duration that cannot be read")
        samples = round(min(float(found.group(1)), MAX_GAP_S) * RATE_HZ)
        if self._media is None or samples == 0:
            return []
        return [*self._begin(_ENCODINGS[self._media.format]), Missing(samples)]

    def _say(self, kind: str, parameters: dict[str, Any]) -> None:
        self._seq += 1
        message = {
            "version": "2",
            "id": self._id,
            "type": kind,
            "seq": self._seq,
            "clientseq": self._client_seq,
            "parameters": parameters,
        }
        self._out.append(msgspec.json.encode(message).decode())
