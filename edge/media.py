"""Packets that come late, twice, in disorder or not at all become audio without holes.

Does: a reorder window, concealment (a faded repeat, then silence), offsets that always advance.
Does not know: RTP headers, sockets; time comes in as ``now``. Nothing is stretched: a sample keeps
its place on the time line.
"""

from dataclasses import dataclass, field

from edge import wire
from edge.g711 import faded, silence
from edge.wire import Encoding

WINDOW_S = 0.06
CONCEAL_S = 0.06
"""The last packet is repeated, fading, for so long; then comes silence."""
LONG_S = 1.0
"""A longer hole is told as missing time instead of sent as silent audio."""
JUMP_S = 1.0
"""Time stamps and arrival may differ by this much; beyond it the sender's clock has jumped."""
MAX_HELD = 256
DEAD_CLOCK_S = 600.0
SILENT_S = 2.0
"""A sender of whom nothing comes for so long is silent: it is told at once, so that what was said
before becomes final. What its clock says of that time later counts less so much."""


@dataclass(slots=True)
class Counts:
    """What happened to packets."""

    received: int = 0
    late: int = 0
    doubled: int = 0
    concealed_samples: int = 0
    reordered: int = 0
    clock_jumps: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Audio in its order; ``data`` None: time passed."""

    samples: int
    data: bytes | None


@dataclass(slots=True)
class _Held:
    arrived: float
    samples: int
    data: bytes


@dataclass(slots=True)
class ReorderWindow:
    """One stream of packets that carry a time stamp in samples (already unwrapped)."""

    encoding: Encoding
    rate: int
    window_s: float = WINDOW_S
    counts: Counts = field(default_factory=Counts)
    _next: int | None = None
    """The time stamp behind the last sample given."""
    _held: dict[int, _Held] = field(default_factory=dict)
    _last: bytes = b""
    _arrived: float = 0.0
    _told: int = 0
    """Samples of a silence that were given before its end was known."""

    def receive(self, stamp: int, samples: int, data: bytes, *, now: float) -> list[Piece]:
        """Take a packet; return what is in order now."""
        self.counts.received += 1
        pieces = list[Piece]()
        if self._next is None:
            self._next = stamp
        elif self._has_jumped(stamp, now):
            self.counts.clock_jumps += 1
            pieces = self.restart(stamp, now=now)
        self._arrived = now
        if stamp + samples <= self._next:
            self.counts.late += 1
            return pieces
        if stamp in self._held:
            self.counts.doubled += 1
            return pieces
        if self._held and stamp < max(self._held):
            self.counts.reordered += 1
        self._held[stamp] = _Held(now, samples, data)
        return pieces + self._in_order() + self.handle_timer(now=now)

    def restart(self, stamp: int, *, now: float) -> list[Piece]:
        """Go on with another clock: the time between is what arrival says."""
        pieces = self.flush()
        passed_s = min(now - self._arrived, DEAD_CLOCK_S)
        if passed_s > JUMP_S:
            pieces += self._passed(round(passed_s * self.rate))
        self._next = stamp
        return pieces

    def next_deadline(self) -> float:
        """When ``handle_timer`` has something to do."""
        if not self._held:
            return float("inf")
        return min(held.arrived for held in self._held.values()) + self.window_s

    def handle_timer(self, *, now: float) -> list[Piece]:
        """Give up on what did not come within the window, and on a sender that is silent."""
        pieces = list[Piece]()
        while self._held and (self.next_deadline() <= now or len(self._held) > MAX_HELD):
            pieces += self._conceal(min(self._held)) + self._in_order()
        is_silent = not (self._told or self._held) and now - self._arrived >= SILENT_S
        if is_silent and self._next is not None:
            self._told = round(SILENT_S * self.rate)
            pieces.append(Piece(self._told, None))
        return pieces

    def flush(self) -> list[Piece]:
        """Give everything that is held: the stream is over."""
        pieces = list[Piece]()
        while self._held:
            pieces += self._conceal(min(self._held)) + self._in_order()
        return pieces

    def _has_jumped(self, stamp: int, now: float) -> bool:
        assert self._next is not None
        by_stamp = (stamp - self._next) / self.rate
        by_arrival = now - self._arrived
        return abs(by_stamp) > JUMP_S and abs(by_stamp - by_arrival) > JUMP_S

    def _in_order(self) -> list[Piece]:
        assert self._next is not None
        pieces = list[Piece]()
        while self._held and (first := min(self._held)) <= self._next:
            held = self._held.pop(first)
            size = wire.SAMPLE_BYTES[self.encoding]
            known = self._next - first
            if known >= held.samples or (known and not size):
                self.counts.late += 1
                continue
            data = held.data[known * size :] if size else held.data
            pieces.append(Piece(held.samples - known, data))
            self._next, self._last, self._told = first + held.samples, held.data, 0
        return pieces

    def _conceal(self, until: int) -> list[Piece]:
        """Fill the hole before a time stamp."""
        assert self._next is not None
        missing = until - self._next
        if missing <= 0:
            return []
        self._next = until
        self.counts.concealed_samples += missing
        if not wire.SAMPLE_BYTES[self.encoding] or missing > LONG_S * self.rate:
            return self._passed(missing)
        return [Piece(missing, self._filling(missing))]

    def _passed(self, samples: int) -> list[Piece]:
        """Tell of time what was not told of it yet."""
        more, self._told = samples - self._told, 0
        return [Piece(more, None)] if more > 0 else []

    def _filling(self, samples: int) -> bytes:
        size = wire.SAMPLE_BYTES[self.encoding]
        total = round(CONCEAL_S * self.rate)
        filling = b""
        if unit := len(self._last) // size:
            repeats = -(-min(samples, total) // unit)
            for number in range(repeats):
                begin, end = number * unit / total, (number + 1) * unit / total
                filling += faded(
                    self._last, self.encoding, begin=max(0.0, 1 - begin), end=max(0.0, 1 - end)
                )
        filling = filling[: min(samples, total) * size]
        return filling + silence(self.encoding, samples - len(filling) // size)
