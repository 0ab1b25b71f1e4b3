"""A leg's audio as it reaches the core: in order, and what went ahead of a backlog.

Does: take each sample once whatever is repeated, say when something is missing, join what went
ahead to the rest as soon as the hole before it is filled, keep both within the credit.
Does not know: frames, nodes, who recognises.

After a long cut a node sends new audio ahead of the backlog: the core has it at once, however long
the backlog takes. What is ahead counts for one connection; the node keeps it until it is safe.
"""

from edge.ring import AudioRing
from edge.wire import MAX_AHEAD_S, FrameError

MAX_RING_BYTES = 64 * 1024 * 1024
"""Never reached: credit keeps a ring below the window and what went ahead of it."""


class Inbox:
    """``ring`` is the audio in its order; the recogniser reads it there."""

    def __init__(self, *, sample_bytes: int, rate: int, base: int) -> None:
        self.ring = AudioRing(sample_bytes=sample_bytes, memory_bytes=MAX_RING_BYTES, base=base)
        self._ahead: AudioRing | None = None
        self._sample_bytes, self._max_ahead = sample_bytes, MAX_AHEAD_S * rate
        self._joined_limit = 0

    @property
    def newest(self) -> int:
        """The offset behind the newest sample that is here, with or without a hole before it."""
        return self.ring.head if self._ahead is None else self._ahead.head

    @property
    def held_bytes(self) -> int:
        """Audio in memory."""
        return self.ring.memory_bytes + (self._ahead.memory_bytes if self._ahead else 0)

    def limit(self, credit: int) -> int:
        """Return what may be sent in order: the credit, or as far as audio may have gone ahead."""
        return max(credit, self._joined_limit)

    def take(self, offset: int, samples: int, data: bytes | None, *, credit: int) -> bool:
        """Append what is new. False: something before it is missing. Raises FrameError."""
        if offset + samples > self.limit(credit):
            raise FrameError("audio beyond the credit")
        if not self._append(self.ring, offset, samples, data):
            return False
        self._join()
        return True

    def take_ahead(self, offset: int, samples: int, data: bytes | None) -> bool:
        """Keep what comes before its turn. False: a part of it is missing. Raises FrameError."""
        if self._ahead is None:
            self._ahead = AudioRing(
                sample_bytes=self._sample_bytes, memory_bytes=MAX_RING_BYTES, base=offset
            )
        if offset + samples > self._ahead.base + self._max_ahead:
            raise FrameError("audio beyond the credit")
        if not self._append(self._ahead, offset, samples, data):
            self._ahead = None  # the node begins with what is missing, or ahead once more
            return False
        self._join()
        return True

    def begin_anew(self) -> None:
        """Note another connection: what went ahead comes again, and so does the credit.

        Within one connection credit that was told is never taken back: audio may be on its way.
        """
        self._ahead, self._joined_limit = None, 0

    def _append(self, ring: AudioRing, offset: int, samples: int, data: bytes | None) -> bool:
        if offset > ring.head:
            return False
        known, size = ring.head - offset, self._sample_bytes
        if known >= samples:
            return True
        if known and data is not None and not size:
            return True  # packets do not overlap by parts
        ring.append(samples - known, None if data is None else data[known * size :])
        return True

    def _join(self) -> None:
        ahead = self._ahead
        if ahead is None or self.ring.head < ahead.base:
            return
        self._joined_limit = ahead.base + self._max_ahead
        while (span := ahead.read(self.ring.head, self._max_ahead)) is not None:
            self.ring.append(span.samples, span.data)
        self._ahead = None
