"""16-bit audio over a WebSocket without I/O, as FreeSWITCH (mod_audio_fork) and Vonage send it.

Does: an optional JSON text first (Vonage names the rate there), then binary little-endian samples.
Does not know: sockets. FreeSWITCH names no rate: it is the ``rate`` of the address it was given.
"""

import re

import msgspec

from edge.adapters.events import Audio, Event, FeedError, Missing, Started

RATES_HZ = (8_000, 16_000, 24_000, 48_000)
MAX_FRAME_BYTES = 65_536
_RATE = re.compile(r"rate=(\d{4,5})", re.ASCII)


class L16:
    """One stream."""

    def __init__(self, *, rate: int = 16_000, name: str = "") -> None:
        self._rate, self._name = rate, name
        self._has_started = False

    def receive_text(self, text: str) -> list[Event]:
        """Take a text: what was said before audio may name the rate. Raises FeedError."""
        try:
            told = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
            return []  # metadata may be anything
        if not isinstance(told, dict) or self._has_started:
            return []
        if told.get("event") == "websocket:connected":
            found = _RATE.search(str(told.get("content-type", "")))
            if found is None:
                raise FeedError("a content-type without a rate")
            self._rate = int(found.group(1))
        name = told.get("uuid") or told.get("callid") or told.get("caller-id")
        if isinstance(name, str):
            self._name = name[:64]
        return []

    def receive_binary(self, data: bytes) -> list[Event]:
        """Take samples. Raises FeedError."""
        if len(data) % 2 or len(data) > MAX_FRAME_BYTES:
            raise FeedError("half a sample, or a frame that is too large")
        if self._rate not in RATES_HZ:
            raise FeedError(f"rate must be one of {', '.join(map(str, RATES_HZ))}")
        if not data:
            return []
        events: list[Event] = []
        if not self._has_started:
            self._has_started = True
            events.append(Started(self._name, "pcm_s16le", self._rate))
        return [*events, Audio(data)]

    def receive_nothing(self, seconds: float) -> list[Event]:
        """Note that time passed without a frame: the peer is paused."""
        return [Missing(round(seconds * self._rate))] if self._has_started else []
