"""What it costs to move a session that is recognised on a node, state and all.

Does: a caller at the pace of speech whose leg goes to and fro between two nodes.
Does not know: the report (tests.bench.edge).
"""

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Any

from edge.node import NodeLeg
from edge.uplink import Timing
from tests.edge_rig import (
    PACKET,
    RATE_HZ,
    EdgeNode,
    another_edge_node,
    heard,
    rig,
    sentences,
    spoken,
)

PACKET_S = PACKET / RATE_HZ
CHUNK_MS = 160
"""Of the latency ``low``; a gap is the hand-over, the replay and the rest of a chunk."""


@dataclass(slots=True)
class Speaker:
    """A caller at the pace of speech, whose leg is now here and now there."""

    leg: NodeLeg
    audio: bytes
    at: int = 0

    async def speak(self) -> None:
        """Feed what is due, to whoever has the leg."""
        clock = asyncio.get_running_loop().time
        born = clock()
        while self.at < len(self.audio):
            due = min(len(self.audio), int((clock() - born) * RATE_HZ) // PACKET * PACKET)
            while self.at < due:
                packet = self.audio[self.at : self.at + PACKET]
                self.leg.append(len(packet), packet)
                self.at += len(packet)
            await asyncio.sleep(PACKET_S / 4)
        self.leg.end()

    def moved(self, leg: NodeLeg) -> None:
        """Go on at another node: what it does not have is said again."""
        self.leg = leg
        rest = self.audio[leg.leg.ring.head : self.at]
        leg.append(len(rest), rest)


async def state_handovers(count: int, *, has_model: bool = False) -> dict[str, Any]:
    """Move one session that is recognised on a node to another, every second.

    Gap: from the fence of the first node until the second one has decoded all that the first had
    heard: transfer, replay and the wait for the rest of a chunk are in it. Handed over: until the
    second node has all of it; the snapshot went before the fence.
    """
    gaps, handed, clock, fences = list[float](), list[float](), time.monotonic, list[float]()
    async with (
        rig("edge", timing=Timing(), has_model=has_model, is_apart=True) as r,
        another_edge_node(r, "n2", has_model=has_model, timing=Timing()) as second,
    ):
        nodes = [EdgeNode(r.node, r.moves, r.uplink), second]
        for node in nodes:
            _note_fences(node, fences)
        texts = sentences(max(3, round(count / 1.2)))
        caller = Speaker(r.open(), spoken(texts))
        speaking = asyncio.create_task(caller.speak())
        await r.until(lambda: second.uplink.state.is_up and bool(r.core.legs))
        for number in range(count):
            await heard(caller.leg, max(PACKET, caller.leg.leg.ring.head))
            leg = await nodes[(number + 1) % 2].fetch(caller.leg)
            handed.append(clock() - fences[-1])
            known = leg.leg.ring.head
            caller.moved(leg)
            await heard(leg, known)
            gaps.append(clock() - fences[-1])
        await speaking
        await caller.leg.is_over.wait()
        text = caller.leg.leg.transcript.final_text()
    return {
        "handovers": count,
        "engine": "embedded model" if has_model else "scripted",
        "gap_p50_ms": round(statistics.median(gaps) * 1000, 1),
        "handed_over_p50_ms": round(statistics.median(handed) * 1000, 1),
        "chunk_ms": CHUNK_MS,
        "gap_p99_ms": round(sorted(gaps)[-1 - count // 100] * 1000, 1),
        "is_text_identical": None if has_model else text == " ".join(texts),
    }


def _note_fences(node: EdgeNode, fences: list[float]) -> None:
    keeper = node.moves._keeper
    assert keeper is not None
    move_out = keeper.move_out

    async def noted(token: str) -> Any:
        fences.append(time.monotonic())
        return await move_out(token)

    keeper.move_out = noted  # type: ignore[method-assign]
