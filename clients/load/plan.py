"""Who speaks when: the whole traffic of a run, fixed before its first packet.

Does: seats with staggered starts and random phases, churn, packet sizes, jitter, latency classes.
Does not know: sockets, clocks (times count from the run's zero), what is said.

A seat is one live stream at a time. Some seats keep one caller for the whole run, on the others
callers hang up and new ones call.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from clients.lag import Schedule

RATE_HZ = 16_000
JITTERS = 64
"""Jitters are drawn once per call and go round: enough not to beat with a chunk."""
PAUSE_S = (0.1, 0.5)
"""Between two callers of one seat."""


@dataclass(frozen=True, slots=True)
class Call:
    """One stream from its first sample to its last."""

    at_s: float
    voice: int
    samples: int
    is_whole: bool
    """Whether it says all that the voice has to say."""
    packet_ms: int
    latency: str
    jitter_s: tuple[float, ...] = (0.0,)

    @property
    def packet_samples(self) -> int:
        """Samples of every packet but the last."""
        return RATE_HZ * self.packet_ms // 1000

    @property
    def end_s(self) -> float:
        """When its last sample is spoken."""
        return self.at_s + self.samples / RATE_HZ

    def schedule(self, zero_s: float) -> Schedule:
        """Due times of its packets on a clock on which the run begins at ``zero_s``."""
        return Schedule(
            zero_s + self.at_s, RATE_HZ, self.packet_samples, self.samples, self.jitter_s
        )


Seat = tuple[Call, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What kind of load."""

    seconds: float = 60.0
    """How long all streams are measured."""
    ramp_s: float = 4.0
    """Starts are spread over it."""
    warm_s: float = 6.0
    """After the last start, before anything counts: caches of 5.6 s are full then."""
    latencies: tuple[str, ...] = ("balanced",)
    """Seats take them in turn."""
    packets_ms: tuple[int, ...] = (20, 40, 80, 100)
    jitter_ms: float = 10.0
    churn: float = 0.5
    """Share of the seats whose callers change."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= 1:
            raise ValueError(f"churn is a share between 0 and 1, not {self.churn:g}")
        if not self.packets_ms or not all(10 <= ms <= 1000 for ms in self.packets_ms):
            raise ValueError("packets last between 10 and 1000 ms")
        if not 0 <= self.jitter_ms < math.inf:
            raise ValueError(f"jitter is a number of ms from 0 on, not {self.jitter_ms:g}")
        if not 0 < self.seconds < math.inf or not self.latencies:
            raise ValueError("a run needs a length and a latency class")

    @property
    def total_s(self) -> float:
        """From the run's zero to the first end of a caller who stays."""
        return self.ramp_s + self.warm_s + self.seconds

    @property
    def window_s(self) -> tuple[float, float]:
        """When what happens counts."""
        return self.ramp_s + self.warm_s, self.total_s


@dataclass(frozen=True, slots=True)
class Lengths:
    """Samples of the voices: the first ones stay for a whole run, the others are short."""

    staying: tuple[int, ...]
    brief: tuple[int, ...]


def plan(traffic: Traffic, streams: int, lengths: Lengths) -> tuple[Seat, ...]:
    """Return the calls of every seat."""
    dice = random.Random(traffic.seed * 1_000_003 + streams)
    changing = round(traffic.churn * streams) if lengths.brief else 0
    order = [True] * changing + [False] * (streams - changing)
    dice.shuffle(order)
    seats = []
    for number, is_changing in enumerate(order):
        first_s = (number + dice.random()) / streams * traffic.ramp_s
        latency = traffic.latencies[number % len(traffic.latencies)]
        if is_changing:
            seats.append(_changing(traffic, lengths, latency, first_s, dice))
        else:
            voice = number % len(lengths.staying)
            seats.append((_call(traffic, voice, lengths.staying[voice], latency, first_s, dice),))
    return tuple(seats)


def quiet_plan(traffic: Traffic, lengths: Lengths, *, at_once: int = 1) -> tuple[Seat, ...]:
    """Return every voice in every latency class once, ``at_once`` of them at a time."""
    samples = (*lengths.staying, *lengths.brief)
    pairs = [(voice, latency) for latency in traffic.latencies for voice in range(len(samples))]
    seats: list[list[Call]] = [[] for _ in range(min(at_once, len(pairs)))]
    for voice, latency in sorted(pairs, key=lambda pair: -samples[pair[0]]):
        seat = min(seats, key=lambda calls: calls[-1].end_s if calls else 0.0)
        begin = seat[-1].end_s + PAUSE_S[1] if seat else 0.0
        seat.append(Call(begin, voice, samples[voice], True, 80, latency))
    return tuple(tuple(seat) for seat in seats)


def spoken_s(seats: Sequence[Seat], window_s: tuple[float, float]) -> float:
    """Return the seconds of audio due inside the window, over all seats."""
    begin, end = window_s
    calls = [call for seat in seats for call in seat]
    return sum(max(0.0, min(end, call.end_s) - max(begin, call.at_s)) for call in calls)


def _changing(
    traffic: Traffic, lengths: Lengths, latency: str, first_s: float, dice: random.Random
) -> Seat:
    """Callers one after another up to the end of the run; the last one is cut off there."""
    calls: list[Call] = []
    at_s = first_s
    while at_s < traffic.total_s - 1.0:
        brief = dice.randrange(len(lengths.brief))
        room = int((traffic.total_s - at_s) * RATE_HZ)
        whole = lengths.brief[brief]
        # The first caller hangs up early, or all seats would change at the same time.
        room = room if calls else min(room, dice.randint(RATE_HZ, max(RATE_HZ, whole)))
        voice, samples = len(lengths.staying) + brief, min(whole, room)
        call = _call(traffic, voice, samples, latency, at_s, dice, is_whole=samples == whole)
        calls.append(call)
        at_s = call.end_s + dice.uniform(*PAUSE_S)
    return tuple(calls)


def _call(  # noqa: PLR0913 - a call is what these six say
    traffic: Traffic,
    voice: int,
    samples: int,
    latency: str,
    at_s: float,
    dice: random.Random,
    *,
    is_whole: bool = True,
) -> Call:
    packet_ms = dice.choice(traffic.packets_ms)
    most_s = min(traffic.jitter_ms, packet_ms) / 1000
    jitter = tuple(dice.uniform(0, most_s) for _ in range(JITTERS)) if most_s > 0 else (0.0,)
    return Call(at_s, voice, samples, is_whole, packet_ms, latency, jitter)
