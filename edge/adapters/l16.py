"""16-bit audio over a WebSocket without I/O, as FreeSWITCH (mod_audio_fork) and Vonage send it.

Does: an optional JSON text first (Vonage names the rate there), then binary little-endian samples
of one channel or of two, which become two speakers; the time of a pause; an empty binary message is
the end (``uuid_audio_fork ... graceful-shutdown``: the module says so and never closes its socket).
Does not know: sockets, clocks. FreeSWITCH names neither rate nor channels: they are in the address
it was given.
"""

import re

import msgspec

from edge.adapters.events import Audio, Ended, Event, FeedError, Missing, Started
from edge.adapters.interleaved import channel

RATES_HZ = (8_000, 16_000, 24_000, 48_000)
TRACKS = ("inbound", "outbound")
"""Of ``stereo`` FreeSWITCH: what the channel says is left, what it hears is right."""
MAX_FRAME_BYTES = 1_048_576
"""mod_audio_fork sends all it holds in one frame: after a jam, up to 5 s (its own limit)."""
_RATE = re.compile(r"rate=(\d{4,5})", re.ASCII)


class L16:
    """One stream."""

    def __init__(self, *, rate: int = 16_000, channels: int = 1) -> None:
        self._rate, self._channels, self._name = rate, channels, ""
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
        count = self._channels
        if self._rate not in RATES_HZ:
            raise FeedError(f"rate must be one of {', '.join(map(str, RATES_HZ))}")
        if count not in (1, 2):
            raise FeedError("channels must be 1 or 2")
        if len(data) % (2 * count) or len(data) > MAX_FRAME_BYTES:
            raise FeedError("no whole samples of every channel, or a frame that is too large")
        if not data:
            return [Ended()]
        events: list[Event] = []
        if not self._has_started:
            self._has_started = True
            events.append(Started(self._name, "pcm_s16le", self._rate, TRACKS[:count]))
        for place, track in enumerate(TRACKS[:count]):
            events.append(Audio(channel(data, place, count, 2), track))
        return events

    def receive_nothing(self, seconds: float) -> list[Event]:
        """Note that time passed without a frame: the peer is paused."""
        return [Missing(round(seconds * self._rate))] if self._has_started else []
