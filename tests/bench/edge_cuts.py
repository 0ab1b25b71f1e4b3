"""What a cut costs: words lost, new audio on its way again, words caught up.

Does: legs at the pace of speech over a bad link, cut in mid-sentence; how fast a core catches up.
Does not know: the report (tests.bench.edge).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge.node import NodeLeg
from edge.uplink import Timing
from tests.edge_rig import PACKET, RATE_HZ, Rig, rig, sentences, spoken
from tests.netlink import Namespaces

PACKET_S = PACKET / RATE_HZ
DELAY_S, LOSS = 0.02, 0.005
LIVE_WITHIN_S = 1.5
BEFORE_S, AFTER_S, RATE_WITHIN_S = 3.0, 5.0, 60.0
MEMORY_MS = 40_000
TOGETHER_S = 60
"""Audio of each leg that comes at once, to see how fast a core catches up."""


class Fed(Protocol):
    """Who is to be fed at the pace of speech."""

    def feed(self, now: float) -> None:
        """Append what is due."""


@dataclass(slots=True)
class Call:
    """A leg that is fed at the pace of speech."""

    leg: NodeLeg
    audio: bytes
    text: str
    born: float
    at: int = 0
    acked: list[tuple[float, int]] = field(default_factory=list)
    """When the core was seen to have the samples up to there, those ahead of a backlog included."""

    def feed(self, now: float) -> None:
        """Append what is due."""
        due = min(len(self.audio), int((now - self.born) * RATE_HZ) // PACKET * PACKET)
        while self.at < due:
            packet = self.audio[self.at : self.at + PACKET]
            self.leg.append(len(packet), packet)
            self.at += len(packet)
        if self.at >= len(self.audio) and not self.leg.leg.ring.is_ended:
            self.leg.end()
        newest = self.leg.leg.newest_acked
        if not self.acked or newest > self.acked[-1][1]:
            self.acked.append((now, newest))

    def lost_words(self) -> int:
        """Count words that are missing or too many."""
        said, heard = self.text.split(), self.leg.leg.transcript.final_text().split()
        if said == heard:
            return 0
        return max(1, abs(len(said) - len(heard)))


def calls_of(r: Rig, count: int, seconds: float) -> list[Call]:
    """So many calls, each with its own words."""
    texts = [sentences(max(1, round(seconds / 1.8)), seed=n) for n in range(count)]
    now = asyncio.get_running_loop().time()
    return [Call(r.open(), spoken(t), " ".join(t), now + n * 0.007) for n, t in enumerate(texts)]


@contextlib.asynccontextmanager
async def fed(calls: Sequence[Fed]) -> AsyncIterator[None]:
    """Feed the calls for the time of the block."""

    async def feeding() -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(PACKET_S / 4)
            for call in calls:
                call.feed(clock())

    task = asyncio.create_task(feeding())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended(calls: list[Call], timeout_s: float) -> None:
    """Wait until every call is over."""
    async with asyncio.timeout(timeout_s):
        await asyncio.gather(*(call.leg.is_over.wait() for call in calls))


async def catch_up_rate(legs: int, between: Namespaces | None) -> float:
    """Seconds of backlog that a core hears and decodes in a second, all legs together.

    It comes over a connection that was just dialled, as after a cut, and beside audio at the pace
    of speech; the time to dial does not count.
    """
    async with rig(
        timing=Timing(),
        delay_s=DELAY_S,
        loss=LOSS,
        memory_ms=2 * TOGETHER_S * 1000,
        slots=legs + 16,
        between=between,
    ) as r:
        calls = calls_of(r, legs, BEFORE_S + TOGETHER_S + RATE_WITHIN_S)
        async with fed(calls):
            await asyncio.sleep(BEFORE_S)
            r.link.cut()
            for call in calls:
                call.born -= TOGETHER_S
            await r.until(lambda: not r.uplink.state.is_up)
            r.link.heal()
            await r.until(lambda: r.uplink.state.is_up)
            healing = Healing.of(calls)
            async with asyncio.timeout(RATE_WITHIN_S):
                await healing.watch(r, calls)
        caught_up_s = p95([at for at in healing.caught_up if at is not None])
        return healing.backlog_s / (caught_up_s or RATE_WITHIN_S)


@dataclass(slots=True)
class Healing:
    """What the legs owed when the link healed, and when they had caught up."""

    at: float
    heads: list[int]
    backlog_s: float
    caught_up: list[float | None]

    @classmethod
    def of(cls, calls: list[Call]) -> "Healing":
        """Note where all legs are now."""
        legs = [call.leg.leg for call in calls]
        owed = sum(leg.ring.head - leg.acked for leg in legs)
        now = asyncio.get_running_loop().time()
        return cls(now, [leg.ring.head for leg in legs], owed / RATE_HZ, [None] * len(calls))

    async def watch(self, r: Rig, calls: list[Call]) -> None:
        """Wait until the core has decoded of every leg what was heard during the cut."""
        clock = asyncio.get_running_loop().time
        while None in self.caught_up:
            await asyncio.sleep(PACKET_S)
            for number, call in enumerate(calls):
                held = r.core.legs.get(call.leg.leg.opening.session)
                is_there = call.leg.is_over.is_set() if held is None else held.leg.is_complete
                if held is not None:
                    is_there |= held.leg.done >= self.heads[number] - RATE_HZ
                if is_there and self.caught_up[number] is None:
                    self.caught_up[number] = clock() - self.at

    def figures(self, calls: list[Call], rate: float) -> dict[str, Any]:
        """Return how soon the legs were live and caught up, and what is asked of them."""
        first, live = list[float](), list[float]()
        for call, head in zip(calls, self.heads, strict=True):
            later = [(at - self.at, n) for at, n in call.acked if at > self.at]
            first += [at for at, _ in later[:1]]
            live += [at for at, n in later if n > head][:1]
        bound_s = LIVE_WITHIN_S + self.backlog_s / rate
        caught_up_s = p95([at for at in self.caught_up if at is not None])
        return {
            "first_ack_s": p95(first),
            "new_audio_acked_s": p95(live),
            "never_acked": len(calls) - len(live),
            "backlog_s": round(self.backlog_s, 1),
            "catch_up_rate": round(rate, 1),
            "words_caught_up_s": caught_up_s,
            "words_bound_s": round(bound_s, 2),
            "is_within_bound": caught_up_s is not None and caught_up_s <= bound_s,
        }


async def cut(
    seconds: float, legs: int, folder: Path, rate: float, between: Namespaces | None
) -> dict[str, Any]:
    """Cut the link in mid-sentence; what was lost, and how soon it was live again."""
    async with rig(
        timing=Timing(),
        delay_s=DELAY_S,
        loss=LOSS,
        spill=folder,
        memory_ms=MEMORY_MS,
        slots=legs + 16,
        between=between,
    ) as r:
        calls = calls_of(r, legs, BEFORE_S + seconds + AFTER_S)
        async with fed(calls):
            await asyncio.sleep(BEFORE_S)
            r.link.cut()
            await asyncio.sleep(seconds)
            healing = Healing.of(calls)
            r.link.heal()
            watching = asyncio.create_task(healing.watch(r, calls))
            await ended(calls, 120 + 2 * seconds)
            ended_s = asyncio.get_running_loop().time() - healing.at
            await watching
        return {
            "cut_s": seconds,
            "legs": legs,
            "words": sum(len(call.text.split()) for call in calls),
            "words_lost": sum(call.lost_words() for call in calls),
            **healing.figures(calls, rate),
            "all_ended_s": round(ended_s, 2),
            "spilled_samples_lost": sum(r.node.losses.values()),
        }


def p95(values: list[float]) -> float | None:
    """Return the 95th percentile; None of nothing."""
    return round(sorted(values)[int(0.95 * (len(values) - 1))], 3) if values else None
