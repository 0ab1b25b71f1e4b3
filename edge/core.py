"""The core's side of the uplink: nodes dial in, their legs become ordinary sessions of a server.

Does: accept nodes (certificate, join token), fence older connections and older owners of a leg,
keep legs over cuts, acknowledge, end those whose node does not come back.
Does not know: how a leg is recognised (edge.coreleg), engines, adapters.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field

from edge import wire
from edge.coreleg import Adopt, CoreLeg, OnFinal
from edge.registry import Registry, TokenRefused
from edge.tls import peer_name, renew
from edge.wire import (
    ANSWER,
    Beat,
    Close,
    CloseReason,
    Frame,
    FrameError,
    FrameReader,
    Hello,
    Kind,
    Open,
    Where,
)

logger = logging.getLogger(__name__)

HELLO_S = 5.0
SILENT_S = 6.0
"""A connection that said nothing for so long is dead: nodes send a heartbeat each second."""
ACK_S = 0.1
RUN_OUT_S = 60.0
"""What was heard of a leg that expired becomes words within this: a window takes less."""
_READ_BYTES = 65_536
_MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""A node that does not read is dropped; it finds its results when it comes back."""
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 48_000
NEWER = "a newer connection of this node is here; two nodes need two names (--name)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreConfig:
    """Settings of the core's side."""

    url: str
    """Stream URL of the server that recognises."""
    key: str = ""
    """Of that server, where it asks for one."""
    host: str = "127.0.0.1"
    port: int = 8770
    tls: ssl.SSLContext | None = None
    tokens: frozenset[str] = frozenset()
    """Join tokens, each for one node; none: whoever gets through TLS may join."""
    window_ms: int = 60_000
    linger_s: float = 600.0
    max_legs: int = 1_000


class Refused(Exception):
    """The node is told why and let go."""

    def __init__(self, reason: CloseReason, text: str) -> None:
        super().__init__(text)
        self.reason: CloseReason = reason


@dataclass(slots=True)
class _Held:
    """A leg and who owns it."""

    leg: CoreLeg
    node: str
    epoch: int
    connection: "_Connection | None" = None
    expiry: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Core:
    """All nodes and legs of one core."""

    config: CoreConfig
    on_final: OnFinal = lambda *_: None
    adopt: Adopt | None = None
    """Puts a session of a node where the server finds it; None: it begins anew there."""
    registry: Registry = field(init=False)
    legs: dict[str, _Held] = field(default_factory=dict)
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    _connections: dict[str, "_Connection"] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)
    _expired: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.registry = Registry(self.config.tokens)

    # ---- nodes

    def join(self, connection: "_Connection", hello: Hello) -> None:
        """Take a node's connection; an older one of the same node is fenced. Raises Refused."""
        if connection.certified not in (None, hello.node):
            raise Refused("unauthorized", "the certificate names another node")
        try:
            self.registry.admit(hello)
        except TokenRefused as refused:
            raise Refused("unauthorized", str(refused)) from refused
        older = self._connections.get(hello.node)
        if older is not None:
            if older.epoch >= hello.epoch and not older.is_stale():
                raise Refused("fenced", NEWER)
            older.drop("fenced", NEWER)
        connection.node, connection.epoch = hello.node, hello.epoch
        self._connections[hello.node] = connection
        self.registry.join(hello, now=connection.heard)
        logger.info("node joined", extra={"node": hello.node, "zone": hello.zone})

    def leave(self, connection: "_Connection") -> None:
        """Let a connection go; its legs wait for another one."""
        if self._connections.get(connection.node) is connection:
            del self._connections[connection.node]
            self.registry.leave(connection.node)
            busy = {held.node for held in self.legs.values()}
            self.registry.forget_old(now=connection.heard, busy=busy)
        for session, held in list(self.legs.items()):
            if held.connection is connection:
                held.leg.detach()
                held.connection = None
                self._expire_later(session, held)

    # ---- legs

    def open(self, connection: "_Connection", frame: Frame) -> CoreLeg:
        """Begin a leg or go on with it. Raises Refused, FrameError."""
        opening = wire.body_of(frame, Open)
        held = self.legs.get(opening.session)
        if held is None:
            held = self._begin(connection, opening, frame.offset)
        elif not held.leg.knows(opening.secret):
            raise Refused("unauthorized", "not the secret of this session")
        elif not _goes_on(held.leg.opening, opening):
            raise Refused("refused", "this session began with other audio, or is recognised here")
        elif opening.policy != "edge" and not held.leg.has_finals_from(opening.finals):
            raise Refused("failed", "finals that the node asks for are no longer here")
        elif held.leg.opening.policy == "edge" and opening.policy != "edge":
            self._switch(held, opening, frame.offset)
        else:
            self._take_over(connection, held, opening)
        if held.expiry is not None:
            held.expiry.cancel()
            held.expiry = None
        held.connection, held.node, held.epoch = connection, connection.node, opening.epoch
        held.leg.attach(frame.leg, opening, connection.send)
        return held.leg

    def _begin(self, connection: "_Connection", opening: Open, base: int) -> _Held:
        if len(self.legs) >= self.config.max_legs:
            raise Refused("refused", "this core has as many legs as it takes")
        if not MIN_RATE_HZ <= opening.rate <= MAX_RATE_HZ:
            raise Refused("refused", f"rate must be {MIN_RATE_HZ}..{MAX_RATE_HZ} Hz")
        held = _Held(self._leg(opening, base), connection.node, opening.epoch)
        self.legs[opening.session] = held
        return held

    def _leg(self, opening: Open, base: int, before: CoreLeg | None = None) -> CoreLeg:
        leg = CoreLeg(
            opening,
            base,
            url=self.config.url,
            key=self.config.key,
            window_ms=self.config.window_ms,
            on_final=self.on_final,
        )
        if opening.has_state:
            leg.wait_for_state(self.adopt, before)
        else:
            leg.start()
        return leg

    def _take_over(self, connection: "_Connection", held: _Held, opening: Open) -> None:
        """Decide between two who both think they own a leg: the higher epoch does."""
        if held.node != connection.node and opening.epoch <= held.epoch:
            raise Refused("fenced", "another node goes on with this session")
        if held.node != connection.node:
            held.leg.fence("another node goes on with this session")

    def _switch(self, held: _Held, opening: Open, base: int) -> None:
        """Recognise here what a node recognised until now."""
        if opening.epoch <= held.epoch:
            raise Refused("fenced", "another node goes on with this session")
        if opening.finals != held.leg.finals:
            raise Refused("failed", "finals of the node are missing here")
        self._end(self._closing, held.leg.close())
        held.leg = self._leg(opening, base, held.leg)

    def where(self, asked: Where) -> Where:
        """Say which node has a session, to whom knows its secret."""
        held = self.legs.get(asked.session)
        if held is None or not held.leg.knows(asked.secret) or held.connection is None:
            return Where(session=asked.session)
        node = self.registry.nodes[held.node]
        return Where(session=asked.session, peer=node.hello.peer, node=held.node)

    def _expire_later(self, session: str, held: _Held) -> None:
        loop = asyncio.get_running_loop()
        held.expiry = loop.call_later(self.config.linger_s, self._expire, session)

    def owns(self, connection: "_Connection", leg: CoreLeg) -> bool:
        """Whether the leg's audio comes over this connection."""
        held = self.legs.get(leg.opening.session)
        return held is not None and held.leg is leg and held.connection is connection

    def _expire(self, session: str) -> None:
        held = self.legs.get(session)
        if held is not None:
            logger.info("leg expired", extra={"session": session, "node": held.node})
            del self.legs[session]
            self._end(self._expired, held.leg.run_out(RUN_OUT_S))

    def forget(self, session: str) -> None:
        """End a leg. Idempotent."""
        held = self.legs.pop(session, None)
        if held is not None:
            if held.expiry is not None:
                held.expiry.cancel()
            self._end(self._closing, held.leg.close())

    def _end(self, tasks: set[asyncio.Task[None]], ending: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(ending)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def close(self) -> None:
        """End everything."""
        for connection in list(self._connections.values()):
            connection.abort()
        for held in self.legs.values():
            if held.expiry is not None:
                held.expiry.cancel()
        await asyncio.gather(*(held.leg.close() for held in self.legs.values()))
        for task in self._expired:
            task.cancel()
        await asyncio.gather(*self._closing)
        await asyncio.gather(*self._expired, return_exceptions=True)
        self.legs.clear()


class _Connection:
    """One node's socket."""

    def __init__(
        self, core: Core, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.node, self.epoch, self.address = "", 0, writer.get_extra_info("peername")
        self.certified = peer_name(writer.get_extra_info("peercert"))
        self._core, self._reader, self._writer = core, reader, writer
        self._legs, self._frames = dict[int, CoreLeg](), FrameReader()
        self.heard = asyncio.get_running_loop().time()

    def is_stale(self) -> bool:
        """Whether it was silent so long that it is probably dead."""
        return asyncio.get_running_loop().time() - self.heard > 1.0

    async def run(self) -> None:
        """Serve the node until it leaves."""
        acking: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(HELLO_S):
                first = await self._hello()
            acking = asyncio.create_task(self._acknowledge())
            self._receive(first)
            while True:
                async with asyncio.timeout(SILENT_S):
                    data = await self._reader.read(_READ_BYTES)
                if not data:
                    return
                self._receive(self._frames.feed(data))
        except Refused as refused:
            logger.warning("node refused", extra={"reason": str(refused), "address": self.address})
            self.drop(refused.reason, str(refused))
        except FrameError as error:
            logger.info("node dropped", extra={"node": self.node, "reason": str(error)})
            self.drop("bad_frame", str(error))
        except (OSError, TimeoutError):
            return
        finally:
            if acking is not None:
                acking.cancel()
                await asyncio.gather(acking, return_exceptions=True)
            self._core.leave(self)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._writer.drain()
            self.abort()

    def send(self, frame: Frame) -> None:
        """Hand a frame over; a node that does not read is dropped."""
        if self._writer.transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self.abort()
        elif not self._writer.transport.is_closing():
            self._writer.write(frame.pack())

    def drop(self, reason: CloseReason, text: str) -> None:
        """Tell the node why, then let it go."""
        self.send(Frame(Kind.CLOSE, payload=Close(reason=reason, text=text[:200]).pack()))
        self._writer.close()

    def abort(self) -> None:
        """Let the node go at once."""
        self._writer.transport.abort()

    async def _hello(self) -> list[Frame]:
        while True:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise OSError("the node left")
            if found := self._frames.feed(data):
                break
        if found[0].kind is not Kind.HELLO:
            raise FrameError(f"{found[0].kind.name} before HELLO")
        self._core.join(self, wire.body_of(found[0], Hello))
        config = self._core.config
        welcome = wire.Welcome(
            core=self._core.name,
            window_ms=config.window_ms,
            linger_ms=round(config.linger_s * 1000),
        )
        self.send(Frame(Kind.WELCOME, payload=welcome.pack()))
        return found[1:]

    def _receive(self, frames: list[Frame]) -> None:
        self.heard = asyncio.get_running_loop().time()
        for frame in frames:
            if frame.kind is Kind.PING:
                beat = wire.body_of(frame, Beat) if frame.payload else None
                self._core.registry.beat(self.node, beat, now=self.heard)
                self.send(frame._replace(payload=b"", flags=ANSWER))
            elif frame.kind is Kind.OPEN:
                self._open(frame)
            elif frame.kind is Kind.MOVE:
                found = self._core.where(wire.body_of(frame, Where))
                self.send(Frame(Kind.MOVE, payload=found.pack()))
            elif frame.leg in self._legs:
                self._of_leg(self._legs[frame.leg], frame)
            # else: the leg was refused while the frame was on its way

    def _of_leg(self, leg: CoreLeg, frame: Frame) -> None:
        is_goodbye = frame.kind is Kind.CLOSE and bool(frame.flags & ANSWER)
        if is_goodbye:
            del self._legs[frame.leg]
        if not self._core.owns(self, leg):
            return  # fenced: what an older owner still says changes nothing
        if is_goodbye:
            self._core.forget(leg.opening.session)
        else:
            leg.receive(frame)

    def _open(self, frame: Frame) -> None:
        try:
            self._legs[frame.leg] = self._core.open(self, frame)
        except Refused as refused:
            close = Close(reason=refused.reason, text=str(refused))
            self.send(Frame(Kind.CLOSE, frame.leg, 0, close.pack()))

    async def _acknowledge(self) -> None:
        while True:
            await asyncio.sleep(ACK_S)
            for leg in self._legs.values():
                leg.acknowledge()


def _goes_on(begun: Open, opening: Open) -> bool:
    """Whether an OPEN may go on with what another one began: offsets and bytes mean the same."""
    is_taken_back = opening.policy == "edge" and begun.policy != "edge"
    is_same = (opening.encoding, opening.rate) == (begun.encoding, begun.rate)
    return is_same and not is_taken_back


@contextlib.asynccontextmanager
async def accepting(core: Core) -> AsyncIterator[int]:
    """Listen for nodes; gives the port. Raises OSError."""
    serving = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # our end: nobody awaits this task
                await _Connection(core, reader, writer).run()
        finally:
            serving.discard(task)

    config = core.config
    server = await asyncio.start_server(
        serve, config.host, config.port, ssl=config.tls, limit=2 * _READ_BYTES
    )
    renewing = asyncio.create_task(renew(config.tls))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        renewing.cancel()
        server.close()
        await core.close()
        for task in serving:
            task.cancel()  # strangers who never said who they are
        await asyncio.gather(*serving, return_exceptions=True)
