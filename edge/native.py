"""Clients of ``rivulet.v1`` at a node: each is a leg, and may take its session to another node.

Does: sockets of clients, legs for them, resuming here or moving here; a client that vanished may
come back within ``LINGER_S``.
Does not know: messages (edge.adapters.native), the link.
"""

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from edge.adapters.native import Begin, Event, Heard, NativeFeed, Over, Token
from edge.node import Caller, EventKind, Node, NodeLeg, TooManyLegs
from edge.peers import NotGiven
from edge.wire import Close, Result
from server.wire.errors import (
    InternalError,
    OverCapacity,
    ResumeUnknown,
    UnsupportedAudio,
    WireError,
)

logger = logging.getLogger(__name__)

LINGER_S = 600.0
PLACE_S = 10.0
"""A core that does not say where a moved session stands within this is not reached."""
ACK_S = 0.25


Fetch = Callable[[str, str], Awaitable[NodeLeg]]
"""Session, secret -> the leg that goes on here; raises NotGiven."""


@dataclass(slots=True)
class NativeClients:
    """All of a node."""

    node: Node
    fetch: Fetch | None = None
    """Takes a session over from another node that recognises itself."""
    clients: "dict[str, _Client]" = field(default_factory=dict)
    """By session; the newest wins."""

    async def serve(self, socket: ServerConnection) -> None:
        """Serve one socket."""
        await _Client(self, socket).run()


class _Client:
    """One socket."""

    def __init__(self, all_clients: NativeClients, socket: ServerConnection) -> None:
        self._all, self._node, self._socket = all_clients, all_clients.node, socket
        self._feed = NativeFeed()
        self._leg: NodeLeg | None = None
        self._wake = asyncio.Event()
        self._unacked_s = 0.0
        self._has_stopped = False

    async def run(self) -> None:
        """Read and write until either ends."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done() and not tasks[1].done() and self._feed.close_code is not None:
                await tasks[1]
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionClosed):
                    logger.info("client dropped", extra={"reason": type(outcome).__name__})
            self._left()

    def fence(self) -> None:
        """End: the session goes on over another socket."""
        self._feed.fenced()
        self._leg = None
        self._wake.set()

    # ---- reading

    async def _read(self) -> None:
        while self._feed.close_code is None:
            async with asyncio.timeout(self._feed.patience_s):
                message = await self._socket.recv()
            if isinstance(message, str):
                events = self._feed.receive_text(message)
            else:
                events = self._feed.receive_binary(message)
            try:
                for event in events:
                    await self._take(event)
            except WireError as error:
                self._feed.fail(error)
            except TooManyLegs as error:
                self._feed.fail(OverCapacity(str(error), retry_after=5.0))
            self._wake.set()

    async def _take(self, event: Event) -> None:
        match event:
            case Begin():
                await self._begin(event)
            case Heard(samples=samples, data=data) if self._leg is not None:
                self._leg.append(samples, data)
                self._unacked_s += samples / self._leg.leg.opening.rate
                if self._unacked_s >= ACK_S:
                    self._acknowledge()
            case Over() if self._leg is not None:
                self._has_stopped = True
                self._leg.end()

    def _acknowledge(self) -> None:
        assert self._leg is not None
        self._unacked_s = 0.0
        self._feed.taken(self._leg.leg.covered)

    # ---- beginning

    async def _begin(self, begin: Begin) -> None:
        if begin.token is None:
            leg = self._node.open(Caller(encoding=begin.encoding, rate=begin.rate))
        else:
            leg = self._known(begin.token) or await self._move_here(begin, begin.token)
        opening = leg.leg.opening
        older = self._all.clients.get(opening.session)
        if older is not None:
            older.fence()
        self._all.clients[opening.session] = self
        self._leg, leg.on_event = leg, self._hear
        if (begin.encoding, begin.rate) != (opening.encoding, opening.rate):
            text = f"this session is {opening.encoding} at {opening.rate} Hz"
            raise UnsupportedAudio(text, param="audio")
        token = Token(opening.session, opening.secret, opening.epoch)
        self._feed.ready(token, leg.leg.ring.head, is_resumed=begin.token is not None)
        first = leg.leg.transcript.first
        for result in leg.leg.transcript.finals[max(0, begin.finals - first) :]:
            self._feed.final(result)

    def _known(self, token: Token) -> NodeLeg | None:
        leg = self._node.find(token.session)
        if leg is None:
            return None
        if not hmac.compare_digest(leg.leg.opening.secret.encode(), token.secret.encode()):
            raise ResumeUnknown("the token names no session of this node")
        if token.epoch > leg.leg.opening.epoch:  # another node had it since, and we were cut off
            fenced = Close(reason="fenced", text="another node goes on with this session")
            self._node.over(leg, fenced)
            return None
        return leg

    async def _move_here(self, begin: Begin, token: Token) -> NodeLeg:
        """Go on with a session of another node: the core says from where."""
        if self._node.config.policy == "edge":
            return await self._fetch(token)
        if self._node.uplink is None:
            raise ResumeUnknown("this node has no core that knows sessions of others")
        leg = self._node.open(
            Caller(
                encoding=begin.encoding,
                rate=begin.rate,
                session=token.session,
                secret=token.secret,
                epoch=token.epoch + 1,
                finals=begin.finals,
            )
        )
        placed = asyncio.create_task(leg.is_placed.wait())
        over = asyncio.create_task(leg.is_over.wait())
        try:
            await asyncio.wait((placed, over), timeout=PLACE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            placed.cancel()
            over.cancel()
        if leg.is_over.is_set():
            raise ResumeUnknown("the core does not know this session by this token")
        if not leg.is_placed.is_set():  # it goes on where it was, or comes again
            self._node.over(leg, Close(reason="failed", text="the core is not reached"))
            raise InternalError("the core is not reached", retry_after=1.0)
        return leg

    async def _fetch(self, token: Token) -> NodeLeg:
        """Go on with a session that another node recognised, state and all."""
        if self._all.fetch is None:
            raise ResumeUnknown("sessions of other nodes cannot move to this one")
        try:
            return await self._all.fetch(token.session, token.secret)
        except NotGiven as error:
            raise ResumeUnknown(str(error)) from error

    # ---- writing

    def _hear(self, kind: EventKind, result: Result | None) -> None:
        leg = self._leg
        if leg is None:
            return
        if kind == "final" and result is not None:
            self._feed.final(result)
        elif kind in ("partial", "provisional"):
            shown = result or leg.leg.transcript.partial
            if shown is not None:
                self._feed.partial(shown)
        elif kind == "closed":
            self._closed(leg)
        self._wake.set()

    def _closed(self, leg: NodeLeg) -> None:
        closed = leg.leg.closed
        if closed is None or closed.reason == "done":
            self._feed.done()
        elif closed.reason == "fenced":
            self._feed.fenced()
        else:
            self._feed.fail(InternalError(f"the core ended the session: {closed.reason}"))

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for text in self._feed.texts_to_send():
                await self._socket.send(text)
            if self._feed.close_code is not None:
                with contextlib.suppress(ConnectionClosed):
                    await self._socket.close(self._feed.close_code)
                return

    def _left(self) -> None:
        """Note that the socket is gone: the leg waits for its client, or is over."""
        leg = self._leg
        if leg is None:
            return
        leg.on_event = None
        session = leg.leg.opening.session

        def give_up() -> None:
            if self._all.clients.get(session) is self:
                del self._all.clients[session]
                leg.end()

        if self._has_stopped or leg.is_over.is_set():
            give_up()
        else:
            asyncio.get_running_loop().call_later(LINGER_S, give_up)
