"""Asterisk's AudioSocket without I/O: a byte stream becomes a feed.

Does: frames (type, length, payload) however the stream is cut: the call's UUID, 16-bit audio,
digits, hang-up, errors.
Does not know: sockets, which UUIDs are expected. The protocol has no authentication: listen on a
private interface and name the UUIDs you expect.
"""

import uuid

from edge.adapters.events import Audio, Digit, Ended, Event, FeedError, Missing, Started

HANG_UP = b"\x00\x00\x00"
"""What we send to end a call."""
SILENCE = b"\x10" + (320).to_bytes(2, "big") + bytes(320)
"""What we send (20 ms) to keep one: Asterisk hangs up after 2 s in which neither side spoke, and a
caller on hold, or muted by a phone that suppresses silence, sends nothing."""
_HEAD_BYTES = 3
_RATES = {
    0x10: 8_000,
    0x11: 12_000,
    0x12: 16_000,
    0x13: 24_000,
    0x14: 32_000,
    0x15: 44_100,
    0x16: 48_000,
}
"""0x17 and 0x18 (96 and 192 kHz) exist and are refused: nobody speaks up there."""
_TERMINATE, _UUID, _DTMF, _ERROR = 0x00, 0x01, 0x03, 0xFF


class AudioSocket:
    """One call. The UUID comes first; the rate is that of the first audio."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._name = ""
        self._rate = 0
        self._is_over = False

    def receive(self, data: bytes) -> list[Event]:
        """Take what came; raises FeedError."""
        self._buffer += data
        events, start = list[Event](), 0
        while not self._is_over and len(self._buffer) - start >= _HEAD_BYTES:
            kind = self._buffer[start]
            size = int.from_bytes(self._buffer[start + 1 : start + _HEAD_BYTES], "big")
            end = start + _HEAD_BYTES + size
            if len(self._buffer) < end:
                break
            events += self._frame(kind, bytes(self._buffer[start + _HEAD_BYTES : end]))
            start = end
        del self._buffer[:start]
        return events

    def receive_nothing(self, seconds: float) -> list[Event]:
        """Note that time passed without a frame."""
        return [Missing(round(seconds * self._rate))] if self._rate else []

    def _frame(self, kind: int, payload: bytes) -> list[Event]:
        if kind == _UUID:
            if self._name or len(payload) != 16:
                raise FeedError("a second UUID, or one that is not 16 bytes")
            self._name = str(uuid.UUID(bytes=payload))
            return []
        if kind in (_TERMINATE, _ERROR):
            self._is_over = True
            return [Ended("" if kind == _TERMINATE else "the peer reports an error")]
        if not self._name:
            raise FeedError("the UUID of the call comes first")
        if kind == _DTMF:
            return [Digit(payload.decode("ascii", "replace")[:1])]
        return self._audio(kind, payload)

    def _audio(self, kind: int, payload: bytes) -> list[Event]:
        rate = _RATES.get(kind)
        if rate is None:
            return []  # a kind that this version does not know
        if len(payload) % 2:
            raise FeedError("half a sample")
        if not self._rate:
            self._rate = rate
            return [Started(self._name, "pcm_s16le", rate), Audio(payload)]
        if rate != self._rate:
            raise FeedError("the rate changed in mid-call")
        return [Audio(payload)]
