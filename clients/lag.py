"""Chunk lag of one stream, measured open loop against an absolute schedule.

Does: due times of packets, the lag of each chunk from the acks that cover it, percentiles.
Does not know: sockets, the clock (times are arguments), audio.

Packet k is due at ``started + (k + 1) * packet`` seconds, fixed before the first is sent. The lag
of a chunk is the arrival of the first ack whose ``done`` covers it, less the due time of the packet
that completes it: a late client or a full socket counts as lag.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the packets of a stream are due."""

    started_s: float
    rate: int
    packet_samples: int
    total_samples: int
    jitter_s: tuple[float, ...] = (0.0,)
    """What the network adds to each packet, over and over; at most a packet's length."""

    def due_s(self, packet: int) -> float:
        """Due time of packet ``packet``; the last one ends with the audio."""
        end = (packet + 1) * self.packet_samples
        if end < self.total_samples:
            return self._at(end, packet)
        # A short last packet does not overtake the one before it.
        before = self._at(packet * self.packet_samples, packet - 1) if packet else self.started_s
        return max(before, self._at(self.total_samples, packet))

    def _at(self, samples: int, packet: int) -> float:
        jitter = self.jitter_s[packet % len(self.jitter_s)]
        return self.started_s + samples / self.rate + jitter

    @property
    def packets(self) -> int:
        """How many packets there are."""
        return -(-self.total_samples // self.packet_samples)

    def completed_s(self, samples: int) -> float:
        """Due time of the packet that brings sample ``samples - 1``."""
        return self.due_s(max(0, math.ceil(samples / self.packet_samples) - 1))

    @property
    def end_s(self) -> float:
        """Due time of the last sample."""
        return self.due_s(max(0, self.packets - 1))


@dataclass(slots=True)
class LagMeter:
    """Lags of the chunks of one stream, in the order they were decoded.

    A chunk ends where the server says that it had heard enough: at the ``done`` of its ack. An ack
    that covers several chunks counts for each of them.
    """

    schedule: Schedule
    chunk_samples: int
    lags_s: list[float] = field(default_factory=list)
    dues_s: list[float] = field(default_factory=list)
    """When each of these chunks was due."""
    _done: int = 0

    def ack(self, done: int, now: float) -> None:
        """Take note at ``now`` that samples up to ``done`` are decoded."""
        done = min(done, self.schedule.total_samples)
        is_flush = done == self.schedule.total_samples  # the rest is shorter than a chunk
        last = self._done + (done - self._done) // self.chunk_samples * self.chunk_samples
        ends = range(last if is_flush else done, self._done, -self.chunk_samples)
        # Half a chunk of tolerance: positions are rounded where the rate is not the engine's.
        due = [end for end in ends if end - self._done > self.chunk_samples // 2]
        for end in reversed(due):
            self._count(end, now)
        self._done = max(self._done, done)

    def seen(self, done: int, now: float) -> None:
        """Take note of a result that stands for one chunk, which ends at ``done``.

        Chunks of which the server never spoke are left out instead of counted as late.
        """
        done = min(done, self.schedule.total_samples)
        if done > self._done:
            self._count(done, now)
            self._done = done

    def _count(self, end: int, now: float) -> None:
        due = self.schedule.completed_s(end)
        self.dues_s.append(due)
        self.lags_s.append(now - due)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that ``percent`` of the values do not exceed."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
