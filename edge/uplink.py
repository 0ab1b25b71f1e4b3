"""The node's connection to a core: one socket, many legs, dialled again whenever it dies.

Does: dial (TLS or plain), say hello, reopen the legs, carry frames both ways fairly, heartbeat,
declare the link dead after a silence and begin anew with back-off.
Does not know: audio, words, adapters. One TCP connection is not enough for a cut: after healing its
own retransmission timer keeps it dead for seconds more (measured: 2 to 10 s), a new one is live
within one.
"""

import asyncio
import itertools
import logging
import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from edge import wire
from edge.leg import Leg
from edge.tls import Context
from edge.wire import (
    ANSWER,
    MAX_PAYLOAD_BYTES,
    Beat,
    Close,
    Frame,
    FrameError,
    FrameReader,
    Hello,
    Kind,
    Welcome,
    Where,
)

logger = logging.getLogger(__name__)

BEAT_S = 1.0
"""How often a heartbeat says how the node is doing."""
ANSWER_S = 5.0
"""The core answers a question within this, or is not reached."""
COALESCE_S = 0.003
"""Frames of several legs share a segment when they come this close together."""
TURN_BYTES = 32_768
LEG_TURN_BYTES = 8_000
"""Of one leg, before the next one has its turn."""
_UNSENT_BYTES = 65_536
"""What waits in our buffers delays live audio and is lost in a cut: little."""
_READ_BYTES = 65_536


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreAddress:
    """Where the core is; ``tls`` None: plain TCP, for loopback and private tunnels."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    name: str | None = None
    """The name its certificate must carry, when it is not ``host``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How soon a dead link is noticed and dialled again."""

    dial_s: float = 2.0
    """For one attempt, and for the first WELCOME of all."""
    again_s: float = 0.4
    """Another attempt begins beside one that has no answer: its first packet may be lost.

    A WELCOME may take four round trips, and this at least, once a round trip is known.
    """
    heartbeat_s: float = 0.25
    dead_s: float = 1.5
    idle_heartbeat_s: float = 1.0
    """While no leg owes audio to the core."""
    idle_dead_s: float = 4.0
    first_backoff_s: float = 0.1
    max_backoff_s: float = 1.0
    turned_away_s: float = 10.0


class Dead(Exception):
    """Nothing was heard for too long."""


class TurnedAway(Exception):
    """The core will not have us."""


@dataclass(slots=True)
class LinkState:
    """What the status page tells of the link."""

    is_up: bool = False
    connections: int = 0
    reason: str = "not dialled yet"
    rtt_ms: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    since: float = 0.0
    heard: float = 0.0
    """When the core was last heard."""


@dataclass(slots=True)
class Uplink:
    """Run ``run`` as a task; call ``changed`` when a leg has something to send."""

    address: CoreAddress
    hello: Callable[[int], Hello]
    """Who we are, for the connection of this epoch."""
    beat: Callable[[], Beat] | None = None
    """How we are doing."""
    on_news: Callable[[Leg], None] = lambda _: None
    """A leg received a frame."""
    legs: dict[int, Leg] = field(default_factory=dict)
    state: LinkState = field(default_factory=LinkState)
    first_epoch: int = 0
    timing: Timing = Timing()
    rng: random.Random = field(default_factory=random.Random)
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _writer: asyncio.StreamWriter | None = None
    _turn: int = 0
    _rtt_s: float | None = None
    _reached: str = ""
    """The address that the core had last: a cut may have taken the resolver along."""
    _asked: dict[str, asyncio.Future[Where]] = field(default_factory=dict)

    @property
    def silent_s(self) -> float:
        """How long the core was not heard."""
        return asyncio.get_running_loop().time() - self.state.heard

    def add(self, leg: Leg) -> None:
        """Take a leg on."""
        self.legs[leg.number] = leg
        if self._writer is not None and self.state.is_up:
            self._write([leg.open_frame(is_fresh=False)])
        self.changed()

    def give_up(self, leg: Leg) -> None:
        """Have the core forget a leg that failed here, once it has the finals that there are.

        Without a connection it forgets the leg by itself.
        """
        if self.legs.pop(leg.number, None) is not None:
            self._write([*leg.frames_to_send(MAX_PAYLOAD_BYTES), leg.goodbye()])

    def changed(self) -> None:
        """Look at the legs again."""
        self._more.set()

    async def where(self, session: str, secret: str) -> Where:
        """Ask the core which node has a session. Raises TimeoutError."""
        asked = Where(session=session, secret=secret)
        future = asyncio.get_running_loop().create_future()
        self._asked[session] = future
        try:
            async with asyncio.timeout(ANSWER_S):
                self._write([Frame(Kind.MOVE, payload=asked.pack())])
                return await future
        finally:
            self._asked.pop(session, None)

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        epoch, failures, timing = self.first_epoch, 0, self.timing
        while True:
            epoch += 1
            begun = self.state.connections
            try:
                await self._connection(epoch)
            except TurnedAway as error:
                self._down(str(error))
                await asyncio.sleep(self.timing.turned_away_s)
                continue
            except (OSError, EOFError, FrameError, Dead) as error:
                self._down(str(error) or type(error).__name__)
                is_paced = self.state.connections > begun or isinstance(error, TimeoutError)
                failures = 0 if is_paced else failures + 1
            wait_s = min(timing.max_backoff_s, timing.first_backoff_s * 2 ** min(failures, 8))
            await asyncio.sleep(wait_s * self.rng.uniform(0.5, 1.0))

    def _down(self, reason: str) -> None:
        if self.state.is_up or self.state.reason != reason:
            logger.warning("uplink down", extra={"reason": reason, "legs": len(self.legs)})
        self.state.is_up, self.state.reason, self.state.rtt_ms = False, reason, None

    # ---- one connection

    async def _connection(self, epoch: int) -> None:
        clock = asyncio.get_running_loop().time
        reader, writer = await self._dialled()
        try:
            _tune(writer)
            writer.write(Frame(Kind.HELLO, payload=self.hello(epoch).pack()).pack())
            frames = FrameReader()
            async with asyncio.timeout(self._welcome_s):
                first = await self._welcome(reader, frames)
            self._reached = writer.get_extra_info("peername")[0]
            self._writer, self.state.since, self.state.heard = writer, clock(), clock()
            self.state.is_up, self.state.reason = True, ""
            self.state.connections += 1
            self._write([leg.open_frame() for leg in self.legs.values() if not leg.is_over])
            self._receive(first)
            await self._both(reader, frames)
        finally:
            self._writer = None
            writer.transport.abort()  # a close would wait for the dead peer

    @property
    def _welcome_s(self) -> float:
        """How long a connection may stay without a word: a middle box may have answered it."""
        timing, known = self.timing, self._rtt_s
        return (
            timing.dial_s if known is None else min(timing.dial_s, max(timing.again_s, 4 * known))
        )

    async def _dialled(self) -> Streams:
        """Return a connection. Attempts that have no answer overlap: a cut swallows them.

        Raises OSError, Dead: an attempt was refused.
        """
        attempts = set[asyncio.Task[Streams | None]]()
        hosts = itertools.cycle(filter(None, (self._reached, self.address.host)))
        try:
            while True:
                attempts.add(asyncio.create_task(self._attempt(next(hosts))))
                again_s = self.timing.again_s * self.rng.uniform(0.5, 1.0)
                done, attempts = await asyncio.wait(
                    attempts, timeout=again_s, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if (streams := task.result()) is not None:
                        attempts |= done - {task}
                        return streams
        finally:
            for task in attempts:
                task.cancel()
            for late in await asyncio.gather(*attempts, return_exceptions=True):
                if isinstance(late, tuple):
                    late[1].transport.abort()

    async def _attempt(self, host: str) -> Streams | None:
        """Dial once; None: no answer. Raises OSError, Dead."""
        address = self.address
        if isinstance(address.tls, Context):
            address.tls.refresh()
            if address.tls.is_expired():
                raise Dead("our certificate has expired; it is read again once it is renewed")
        try:
            async with asyncio.timeout(self.timing.dial_s):
                return await asyncio.open_connection(
                    host,
                    address.port,
                    ssl=address.tls,
                    server_hostname=(address.name or address.host) if address.tls else None,
                )
        except TimeoutError:
            return None
        except socket.gaierror:
            if not self._reached:
                raise
            await asyncio.sleep(self.timing.dial_s)  # beside the attempts that need no resolver
            return None
        except OSError:
            if host == self._reached:
                self._reached = ""  # the core is elsewhere: its name will say where
            raise

    async def _welcome(self, reader: asyncio.StreamReader, frames: FrameReader) -> list[Frame]:
        while True:
            found = frames.feed(await self._read(reader))
            if not found:
                continue
            if found[0].kind is Kind.CLOSE:
                told = wire.body_of(found[0], Close)
                raise TurnedAway(f"{told.reason}: {told.text}")
            if found[0].kind is not Kind.WELCOME:
                raise FrameError(f"{found[0].kind.name} before WELCOME")
            wire.body_of(found[0], Welcome)
            return found[1:]

    async def _both(self, reader: asyncio.StreamReader, frames: FrameReader) -> None:
        tasks = [
            asyncio.create_task(self._hear(reader, frames)),
            asyncio.create_task(self._speak()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        data = await reader.read(_READ_BYTES)
        if not data:
            raise EOFError("the core closed the connection")
        self.state.bytes_down += len(data)
        return data

    async def _hear(self, reader: asyncio.StreamReader, frames: FrameReader) -> None:
        while True:
            self._receive(frames.feed(await self._read(reader)))

    def _receive(self, frames: list[Frame]) -> None:
        now = asyncio.get_running_loop().time()
        self.state.heard = now
        for frame in frames:
            if frame.kind is Kind.PING:
                if frame.flags & ANSWER:
                    self._rtt_s = max(0.0, now - frame.offset / 1_000_000)
                    self.state.rtt_ms = self._rtt_s * 1000
            elif frame.kind is Kind.MOVE:
                found = wire.body_of(frame, Where)
                if (future := self._asked.pop(found.session, None)) and not future.done():
                    future.set_result(found)
            elif frame.leg == 0 and frame.kind is Kind.CLOSE:
                told = wire.body_of(frame, Close)
                raise TurnedAway(f"{told.reason}: {told.text}")
            elif leg := self.legs.get(frame.leg):
                leg.receive(frame)
                if leg.is_over:
                    self._write([leg.goodbye()])
                    del self.legs[leg.number]
                self.on_news(leg)
        self._more.set()

    async def _speak(self) -> None:
        assert self._writer is not None
        clock = asyncio.get_running_loop().time
        pinged, told = clock(), -BEAT_S
        while True:
            beat_s, dead_s = self._rhythm()
            if clock() - self.state.heard > dead_s:
                raise Dead(f"the core was silent for {dead_s:g} s")
            if clock() - pinged >= beat_s:
                pinged, payload = clock(), b""
                if self.beat is not None and pinged - told >= BEAT_S:
                    told, payload = pinged, self.beat().pack()
                self._write([Frame(Kind.PING, 0, round(pinged * 1_000_000), payload)])
            self._more.clear()
            self._write(self._next_frames())
            await self._pause(max(0.0, pinged + beat_s - clock()))

    async def _pause(self, at_most_s: float) -> None:
        """Wait until there is more to send and room for it, or the next heartbeat."""
        assert self._writer is not None
        try:
            async with asyncio.timeout(at_most_s):
                is_full = self._more.is_set()  # the turn was: there is more to send at once
                await self._writer.drain()
                await self._more.wait()
                await asyncio.sleep(0 if is_full else COALESCE_S)
        except TimeoutError:
            return

    def _rhythm(self) -> tuple[float, float]:
        if any(leg.policy != "edge" for leg in self.legs.values()):
            return self.timing.heartbeat_s, self.timing.dead_s
        return self.timing.idle_heartbeat_s, self.timing.idle_dead_s

    def _next_frames(self) -> list[Frame]:
        """Take a turn of frames from the legs, beginning where the last turn ended."""
        assert self._writer is not None
        room = _UNSENT_BYTES - self._writer.transport.get_write_buffer_size()
        room = min(room, TURN_BYTES)
        order = [*self.legs.values()]
        frames = [f for leg in order for f in leg.frames_ahead(LEG_TURN_BYTES)]
        used = sum(len(frame.payload) for frame in frames)
        for step in range(len(order)):
            if used >= room:
                self._turn += step
                self._more.set()
                return frames
            leg = order[(self._turn + step) % len(order)]
            given = list(leg.frames_to_send(LEG_TURN_BYTES))
            size = sum(len(frame.payload) for frame in given)
            if size >= LEG_TURN_BYTES:
                self._more.set()
            frames, used = frames + given, used + size
        return frames

    def _write(self, frames: list[Frame]) -> None:
        if frames and self._writer is not None and not self._writer.transport.is_closing():
            data = b"".join(frame.pack() for frame in frames)
            self.state.bytes_up += len(data)
            self._writer.write(data)


def _tune(writer: asyncio.StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(high=_UNSENT_BYTES, low=_UNSENT_BYTES // 2)
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _UNSENT_BYTES)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # else new audio waits behind what the kernel holds
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
