"""A session that is recognised on a node goes to another node, or to the core, with its state.

Does: have a fresh snapshot taken while the words go on, fence, hand everything over; take it in;
take it back when the other side did not. Relay legs need none of this: they resume.
Does not know: sockets between nodes (edge.peers), the link's frames.

Order of a move: snapshot -> it travels -> fence -> words and audio travel -> the other side replays
what came behind the snapshot and goes on.
What was said is in the log that moves along and is never decided twice.
"""

import asyncio
import contextlib
import logging

import msgspec

from edge import handover
from edge.handover import Ahead, Handover
from edge.leg import Leg
from edge.node import Node, NodeLeg
from edge.recogniser import Recogniser, Start
from edge.transcript import Transcript
from edge.uplink import Uplink
from edge.wire import Close
from server.keeper import Keeper

logger = logging.getLogger(__name__)

SNAPSHOT_S = 0.5
"""A snapshot that takes longer is not waited for: more audio is replayed instead."""
NOT_TAKEN = "the core does not take this leg"
AHEAD_S = 10.0
"""A snapshot that is not at the core by then travels behind the fence, with the rest."""


class NotMovable(Exception):
    """The session cannot move; the text says why."""


class Moves:
    """Sessions of one node that come and go."""

    def __init__(self, node: Node, keeper: Keeper | None) -> None:
        self._node, self._keeper = node, keeper
        self._moving = set[int]()

    async def ahead(self, leg: NodeLeg) -> Ahead:
        """Return a fresh snapshot, while the words go on. Raises NotMovable."""
        past = self._movable(leg).past
        written = self._keeper.write_down(past.token) if past and self._keeper else None
        if written is None:
            return Ahead(None)
        try:
            async with asyncio.timeout(SNAPSHOT_S):
                snapshot = await written
        except TimeoutError:
            return Ahead(None)
        return Ahead((snapshot.at, snapshot.entries, snapshot.blob))

    async def give(self, leg: NodeLeg) -> Handover:
        """Stop recognising here and return all of it. Raises NotMovable."""
        recogniser = self._movable(leg)
        self._moving.add(leg.leg.number)
        try:
            past, moved = recogniser.past, None
            if past is not None and self._keeper is not None:
                moved = await self._keeper.move_out(past.token)  # before its socket is closed
            await leg.stop_local()
            logger.info("leg given up", extra={"leg": leg.leg.number, "has_state": bool(moved)})
            return handover.of(leg.leg, moved, past, recogniser.safe)
        finally:
            self._moving.discard(leg.leg.number)

    def _movable(self, leg: NodeLeg) -> Recogniser:
        recogniser = leg.recogniser
        if leg.leg.policy != "edge" or recogniser is None or leg.leg.number in self._moving:
            raise NotMovable("this leg is not recognised here now")
        return recogniser

    def gave(self, leg: NodeLeg) -> None:
        """Note that the other side has it."""
        self._node.over(leg, Close(reason="fenced", text="another node goes on with this session"))

    async def take_back(self, leg: NodeLeg, given: Handover) -> None:
        """Go on here: the other side did not take it."""
        await self._go_on(leg, given)

    async def take(self, given: Handover) -> NodeLeg:
        """Go on with a session of another node. Raises TooManyLegs."""
        opening = msgspec.structs.replace(given.opening, policy=self._node.config.policy)
        number = self._node.next_number()
        ring = self._node.ring(opening)
        ring.begin_at(given.base)
        for samples, data in given.audio:
            ring.append(samples, data)
        if given.is_ended:
            ring.end()
        inner = Leg(
            number=number,
            opening=opening,
            ring=ring,
            transcript=Transcript(finals=list(given.finals)),
        )
        inner.covered = given.covered
        leg = self._node.admit(inner)
        await self._go_on(leg, given)
        return leg

    async def to_core(self, leg: NodeLeg) -> None:
        """Leave the words of a leg to the core, which hears its audio from now on.

        Raises NotMovable; then nothing has changed.
        """
        uplink = self._node.uplink
        if uplink is None or not uplink.state.is_up:
            raise NotMovable("the core is not reached")
        if leg.leg.is_over:
            raise NotMovable(NOT_TAKEN)
        ahead = await self.ahead(leg)
        await self._bring_ahead(leg, ahead, uplink)
        try:
            given = await self.give(leg)
        except NotMovable:
            leg.leg.send_ahead(b"")
            raise
        if not await leg.until_told():
            if not leg.is_over.is_set():
                await self.take_back(leg, given)
            raise NotMovable(NOT_TAKEN)
        state = msgspec.structs.replace(given, audio=())
        rest = ahead.taken_from(state).pack()
        leg.leg.give_up_to_core(state.pack(), given.covered, rest)
        uplink.add(leg.leg)

    async def _bring_ahead(self, leg: NodeLeg, ahead: Ahead, uplink: Uplink) -> None:
        """Wait until the core has the heavy part, not for ever."""
        leg.leg.send_ahead(ahead.pack())
        uplink.changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AHEAD_S):
                while not (leg.leg.is_ahead_there or leg.leg.is_over):
                    leg.stirred.clear()
                    await leg.stirred.wait()

    async def _go_on(self, leg: NodeLeg, given: Handover) -> None:
        past = given.past
        if given.moved is not None:
            if self._keeper is None:
                past = None
            else:
                await self._keeper.move_in(given.moved)
        leg.recognise(Start(given.covered, len(given.finals), past))


async def all_to_core(moves: Moves, node: Node) -> int:
    """Move every leg that can move; how many did."""
    moved = 0
    for leg in list(node.legs.values()):
        with contextlib.suppress(NotMovable):
            await moves.to_core(leg)
            moved += 1
        await asyncio.sleep(0)
    return moved
