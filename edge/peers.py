"""Nodes among themselves: a session moves with its state, straight from one to the other.

Does: a door where a node asks for a session by its secret; asking. A session that the
other side did not take goes on where it was.
Does not know: what a handover holds, how a leg goes on (edge.moves). Audio of the policy ``edge``
passes no core on its way.
"""

import asyncio
import contextlib
import hmac
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from edge import handover, wire
from edge.handover import Ahead, Assembly
from edge.moves import Moves, NotMovable
from edge.node import Node, NodeLeg
from edge.tls import Context, renew
from edge.uplink import Uplink
from edge.wire import ANSWER, Close, Frame, FrameError, FrameReader, Kind, Where

logger = logging.getLogger(__name__)

TALK_S = 10.0
"""From the question to the last byte."""
TRIES, TRY_AGAIN_S = 4, 0.1
_READ_BYTES = 65_536


class NotGiven(Exception):
    """The other node did not hand the session over."""


class _Line:
    """Frames over a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._frames, self._found = FrameReader(), list[Frame]()

    async def next(self) -> Frame:
        """Return the next frame. Raises EOFError, FrameError, OSError."""
        while not self._found:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise EOFError("the other node left")
            self._found += self._frames.feed(data)
        return self._found.pop(0)

    async def say(self, frame: Frame) -> None:
        """Send a frame."""
        self.writer.write(frame.pack())
        await self.writer.drain()

    async def say_state(self, data: bytes) -> None:
        """Send a part of a handover."""
        for frame in handover.frames(1, data):
            await self.say(frame)

    async def state(self) -> bytes:
        """Return a part of a handover. Raises NotGiven, EOFError, FrameError, OSError."""
        assembly, whole = Assembly(), None
        while whole is None:
            frame = await self.next()
            if frame.kind is not Kind.STATE:
                raise NotGiven("the other node does not give it")
            whole = assembly.take(frame)
        return whole


@dataclass(slots=True)
class PeerDoor:
    """Where other nodes ask for sessions of ours."""

    node: Node
    moves: Moves
    _talks: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def open(
        self, host: str, port: int, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[int]:
        """Listen for the time of the block; gives the port. Raises OSError."""
        server = await asyncio.start_server(self._serve, host, port, ssl=tls)
        renewing = asyncio.create_task(renew(tls))
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            renewing.cancel()
            server.close()
            for talk in self._talks:
                talk.cancel()
            await asyncio.gather(*self._talks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            async with asyncio.timeout(TALK_S):
                await self._answer(_Line(reader, writer))
        except (OSError, EOFError, FrameError, TimeoutError) as error:
            logger.info("peer left", extra={"reason": type(error).__name__})
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _answer(self, line: _Line) -> None:
        asked = wire.body_of(await line.next(), Where)
        leg = self.node.find(asked.session)
        if leg is None or not _is_secret(leg, asked.secret):
            await self._refuse(line, "no such session here")
            return
        try:
            ahead = await self.moves.ahead(leg)
            await line.say_state(ahead.pack())
            if (await line.next()).kind is not Kind.MOVE:
                return  # it does not want it any more
            given = await self.moves.give(leg)
        except NotMovable as error:
            await self._refuse(line, str(error))
            return
        is_taken = False
        try:
            await line.say_state(ahead.taken_from(given).pack())
            answer = await line.next()
            is_taken = answer.kind is Kind.MOVE and bool(answer.flags & ANSWER)
        finally:
            if is_taken:
                self.moves.gave(leg)
            else:
                await asyncio.shield(self.moves.take_back(leg, given))

    async def _refuse(self, line: _Line, text: str) -> None:
        close = Close(reason="refused", text=text)
        await line.say(Frame(Kind.CLOSE, payload=close.pack()))


def _is_secret(leg: NodeLeg, given: str) -> bool:
    return hmac.compare_digest(leg.leg.opening.secret.encode(), given.encode())


async def fetch(
    moves: Moves, where: Where, secret: str, tls: ssl.SSLContext | None = None
) -> NodeLeg:
    """Take a session over from another node; it goes on here. Raises NotGiven, TooManyLegs."""
    host, _, port = where.peer.rpartition(":")
    if isinstance(tls, Context):
        tls.refresh()
    try:
        async with asyncio.timeout(TALK_S):
            reader, writer = await asyncio.open_connection(
                host, int(port), ssl=tls, server_hostname=where.node if tls else None
            )
            try:
                return await _take(moves, _Line(reader, writer), where.session, secret)
            finally:
                writer.close()
    except (OSError, EOFError, FrameError, TimeoutError, ValueError) as error:
        raise NotGiven(f"the other node did not answer: {type(error).__name__}") from error


def fetching(
    moves: Moves, uplink: Uplink, tls: ssl.SSLContext | None = None
) -> Callable[[str, str], Awaitable[NodeLeg]]:
    """Return what takes a session over, from whichever node the core says has it."""

    async def found(session: str, secret: str) -> Where:
        try:
            where = await uplink.where(session, secret)
        except TimeoutError as error:
            raise NotGiven("the core does not say who has the session") from error
        if not where.peer:
            raise NotGiven("no node that can be asked has the session")
        return where

    async def fetched(session: str, secret: str) -> NodeLeg:
        where = await found(session, secret)
        for _ in range(TRIES):
            try:
                return await fetch(moves, where, secret, tls)
            except NotGiven:  # it may just have moved there from the node that the core knows
                await asyncio.sleep(TRY_AGAIN_S)
                where = await found(session, secret)
        return await fetch(moves, where, secret, tls)

    return fetched


async def _take(moves: Moves, line: _Line, session: str, secret: str) -> NodeLeg:
    asked = Where(session=session, secret=secret)
    await line.say(Frame(Kind.MOVE, payload=asked.pack()))
    ahead = Ahead.read(await line.state())
    await line.say(Frame(Kind.MOVE))  # from here on it may be fenced
    given = ahead.put_into(handover.read(await line.state()))
    leg = await moves.take(given)
    await line.say(Frame(Kind.MOVE, flags=ANSWER))
    return leg
