"""One call: audio through a socket at its due times, whatever comes back measured.

Does: open ahead of time, send open loop, hand arrivals to the tally; end within bounded time.
Does not know: languages of servers (a Wire speaks them), other calls, processes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from clients.lag import LagMeter, Schedule
from clients.load.plan import Call
from clients.load.tally import Ended, Tally
from clients.load.wires import WIRES
from clients.load.wires.base import Event, Failed, Over, Progress, Spoken, Wire, Words, samples_of

OPEN_AHEAD_S = 0.5
"""The handshake is over when the first packet is due, unless the server is slow."""
PATIENCE_S = 10.0
"""After the last packet; a final that takes longer is counted as missing."""


class CallFailed(Exception):
    """The call cannot go on; one short reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which server, in which language."""

    url: str
    wire: str = "rivulet"
    token: str | None = None


@dataclass(slots=True)
class Caller:
    """One call in progress."""

    target: Target
    call: Call
    pcm: bytes
    zero_s: float
    tally: Tally
    _texts: list[str] = field(default_factory=list)
    _final_s: float | None = None
    _is_over: bool = False

    async def run(self) -> None:
        """Make the call; how it went is in the tally."""
        wire = WIRES[self.target.wire](self.call.latency)
        schedule = self.call.schedule(self.zero_s)
        failure = ""
        try:
            async with asyncio.timeout_at(schedule.end_s + PATIENCE_S):
                await self._talk(wire, schedule)
        except TimeoutError:
            failure = f"not over {PATIENCE_S:.0f} s after the last packet"
        except CallFailed as failed:
            failure = str(failed)
        self._end(wire, schedule, failure)

    async def _talk(self, wire: Wire, schedule: Schedule) -> None:
        async with connected(self.target, wire) as socket:
            arrived = asyncio.Event()
            sender = asyncio.create_task(self._send(socket, wire, schedule, arrived))
            try:
                await self._hear(socket, wire, schedule, arrived)
            finally:
                sender.cancel()
                await asyncio.wait([sender])

    async def _send(
        self, socket: ClientConnection, wire: Wire, schedule: Schedule, arrived: asyncio.Event
    ) -> None:
        size = 2 * self.call.packet_samples
        with contextlib.suppress(ConnectionClosed):  # who hears finds the same, and says why
            for number in range(schedule.packets):
                due = schedule.due_s(number)
                if (wait_s := due - _now()) > 0:
                    await asyncio.sleep(wait_s)
                    self.tally.late.add(due - self.zero_s, _now() - due)
                packet = self.pcm[number * size : min((number + 1) * size, 2 * self.call.samples)]
                while not wire.is_open or wire.room_bytes < len(packet):
                    arrived.clear()
                    await arrived.wait()
                for payload in wire.audio(packet):
                    await socket.send(payload)
            for payload in wire.goodbye():
                await socket.send(payload)

    async def _hear(
        self, socket: ClientConnection, wire: Wire, schedule: Schedule, arrived: asyncio.Event
    ) -> None:
        meter: LagMeter | None = None
        while not self._is_over:
            try:
                message = await socket.recv()
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else 1006
                if code == 1000 and wire.ends_with_close:
                    self._take(Over(), meter, schedule, _now())
                    return
                raise CallFailed(f"closed with {code} before the end") from closed
            now = _now()
            events = read(wire, message)
            arrived.set()
            for payload in wire.answer():
                await socket.send(payload)
            if meter is None and wire.chunk_ms:
                meter = LagMeter(schedule, samples_of(wire.chunk_ms))
            for event in events:
                self._take(event, meter, schedule, now)

    def _take(self, event: Event, meter: LagMeter | None, schedule: Schedule, now: float) -> None:
        match event:
            case Progress(samples, is_cumulative) if meter is not None:
                known = len(meter.lags_s)
                (meter.ack if is_cumulative else meter.seen)(samples, now)
                series = self.tally.lags[self.call.latency]
                for due, lag in zip(meter.dues_s[known:], meter.lags_s[known:], strict=True):
                    series.add(due - self.zero_s, lag)
            case Words(end_ms):
                due = schedule.completed_s(min(samples_of(end_ms), schedule.total_samples))
                self.tally.words[self.call.latency].add(due - self.zero_s, now - due)
            case Spoken(text):
                self._texts.append(text)
                self._final_s = now
            case Over():
                self._is_over = True
                if self._final_s is None or self._final_s < schedule.end_s:
                    self._final_s = now  # no words were due: being done is the answer
            case Failed(reason):
                raise CallFailed(reason)
            case _:
                pass

    def _end(self, wire: Wire, schedule: Schedule, failure: str) -> None:
        latency, end_s = self.call.latency, schedule.end_s
        if not failure and self._final_s is not None:
            self.tally.ends[latency].add(end_s - self.zero_s, self._final_s - end_s)
        self.tally.calls.append(
            Ended(
                voice=self.call.voice,
                latency=latency,
                text=" ".join(text.strip() for text in self._texts if text.strip()),
                is_whole=self.call.is_whole,
                chunk_ms=wire.chunk_ms or 0,
                end_s=end_s - self.zero_s,
                failure=failure,
            )
        )


@contextlib.asynccontextmanager
async def connected(target: Target, wire: Wire) -> AsyncIterator[ClientConnection]:
    """Open a socket and greet. Raises CallFailed."""
    headers = {"Authorization": f"Bearer {target.token}"} if target.token else None
    try:
        socket = await open_socket(
            target.url,
            subprotocols=[Subprotocol(name) for name in wire.subprotocols] or None,
            additional_headers=headers,
            compression=None,
            proxy=None,
            ping_interval=None,  # a server that is too busy to answer pings is what we measure
            open_timeout=PATIENCE_S,
            close_timeout=1,
            max_size=None,
        )
    except InvalidStatus as refused:
        raise CallFailed(f"HTTP {refused.response.status_code}") from refused
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise CallFailed(f"no connection ({type(error).__name__})") from error
    async with socket:
        with contextlib.suppress(ConnectionClosed):
            for payload in wire.hello():
                await socket.send(payload)
        yield socket


def read(wire: Wire, message: str | bytes) -> list[Event]:
    """Return what a message says. Raises CallFailed when it cannot be read."""
    try:
        return list(wire.receive(message))
    except (ValueError, TypeError, AttributeError) as error:
        raise CallFailed("a message that cannot be read") from error


def _now() -> float:
    return asyncio.get_running_loop().time()


async def check(target: Target, latency: str) -> None:
    """Open a conversation and leave it. Raises CallFailed with the reason it is refused."""
    wire = WIRES[target.wire](latency)
    async with connected(target, wire) as socket:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not wire.is_open:
                    events = read(wire, await socket.recv())
                    for event in events:
                        if isinstance(event, Failed):
                            raise CallFailed(event.reason)
                    for payload in wire.answer():
                        await socket.send(payload)
            with contextlib.suppress(ConnectionClosed):
                for payload in wire.goodbye():
                    await socket.send(payload)
        except TimeoutError as error:
            raise CallFailed(f"no answer within {PATIENCE_S:.0f} s") from error
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            raise CallFailed(f"closed with {code}") from closed
