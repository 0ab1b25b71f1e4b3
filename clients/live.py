"""One source of audio through one live session at the pace of speech, with captions as they come.

Does: send packets on an absolute schedule, hand words on, measure chunk lag and finalize delay.
Does not know: terminals, files, microphones; the clock is the event loop's.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from clients.connection import Connection, RivuletError, connect
from clients.errors import CommandError
from clients.lag import LagMeter, Schedule
from server.wire.messages import (
    Ack,
    AudioFormat,
    Chunk,
    Done,
    Final,
    LatencyClass,
    Meeting,
    Partial,
    Readable,
)

Latency = LatencyClass | Chunk | None


class Captions(Protocol):
    """Where the words go."""

    def partial(self, name: str, text: str) -> None:
        """Show the open text of a channel."""

    def final(self, name: str, text: str) -> None:
        """Show a finished segment of a channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Where to connect and what to ask for."""

    url: str
    audio: AudioFormat
    latency: Latency = None
    language: str | None = None
    token: str | None = None
    come_back_s: float = 30.0
    """A broken connection is dialled again for so long."""
    meeting: Meeting | None = None
    readable: Readable | None = None
    """What the server adds to the text."""
    names: tuple[str, ...] = ("",)
    """A name for each channel, in front of its captions."""
    on_line: Callable[[bool], None] = lambda _: None
    """Told that the connection broke (False) and that the session goes on (True)."""


@dataclass(slots=True)
class Heard:
    """What came of a source; filled while it runs, so that an interrupted one keeps its words."""

    finals: list[Final] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    finalize_delay_s: float | None = None
    """Last final after ``stop`` (or ``done``), less the due time of the last sample."""
    late_s: float = 0.0
    """Most that a packet left after its due time: lag of this program, not of the server."""
    first_words_s: float | None = None
    """When the first word was seen, on the loop's clock."""
    error: str = ""

    def text(self, channel: int | None = None) -> str:
        """All finals in the order of speech, of one channel or of all."""
        chosen = [f for f in self.finals if channel is None or f.channel == channel]
        ordered = sorted(chosen, key=lambda f: (f.start_ms, f.channel, f.id))
        return " ".join(f.text.strip() for f in ordered if f.text.strip())


async def stream_file(
    packets: Iterable[bytes], total_samples: int, session: Session, captions: Captions
) -> Heard:
    """Stream a recording; errors of the session are in ``Heard.error``."""
    heard, clock = Heard(), asyncio.get_running_loop().time
    try:
        async with _open(session) as connection:
            ahead = iter(packets)
            first = next(ahead, b"")
            schedule = Schedule(
                started_s=clock(),
                rate=session.audio.rate,
                packet_samples=max(1, len(first) // session.audio.frame_bytes),
                total_samples=total_samples,
            )
            chunk_samples = connection.ready.chunk_ms * session.audio.rate // 1000
            meter = LagMeter(schedule, chunk_samples, heard.lags_s)
            await both(
                _send(connection, _chain(first, ahead), schedule, heard),
                _measure(connection, meter, heard, session, captions),
            )
    except RivuletError as error:
        heard.error = str(error)
    return heard


async def stream_live(
    packets: AsyncIterator[bytes],
    session: Session,
    captions: Captions,
    *,
    heard: Heard,
    until: asyncio.Event,
) -> None:
    """Stream a source without an end; ``until`` flushes it. Raises RivuletError, CommandError."""
    async with _open(session) as connection:
        await converse(connection, packets, until, _show_all(connection, heard, session, captions))


async def converse(
    connection: Connection,
    packets: AsyncIterator[bytes],
    until: asyncio.Event,
    hearing: Coroutine[None, None, None],
) -> None:
    """Send a source and hear it to the end; one that breaks off is heard so far, then it raises."""
    broken: CommandError | None = None

    async def whole() -> AsyncIterator[bytes]:
        nonlocal broken
        try:
            async for packet in packets:
                yield packet
        except CommandError as error:
            broken = error

    await both(_send_until(connection, whole(), until), hearing)
    if broken is not None:
        raise broken


async def both(sending: Coroutine[None, None, None], hearing: Coroutine[None, None, None]) -> None:
    """Run both to the end; the first failure ends the other."""
    tasks = [asyncio.create_task(hearing), asyncio.create_task(sending)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _measure(
    connection: Connection, meter: LagMeter, heard: Heard, session: Session, captions: Captions
) -> None:
    clock = asyncio.get_running_loop().time
    async for message in connection:
        now = clock()
        if isinstance(message, Ack):
            meter.ack(message.done, now)
        elif isinstance(message, Final | Done) and now >= meter.schedule.end_s:
            _time_end(heard, message, now - meter.schedule.end_s)
        show(message, heard, session, captions)


async def _show_all(
    connection: Connection, heard: Heard, session: Session, captions: Captions
) -> None:
    async for message in connection:
        show(message, heard, session, captions)


def _open(session: Session) -> AbstractAsyncContextManager[Connection]:
    return connect(
        session.url,
        audio=session.audio,
        latency=session.latency,
        language=session.language,
        token=session.token,
        come_back_s=session.come_back_s,
        meeting=session.meeting,
        readable=session.readable,
        on_line=session.on_line,
        words=True,
    )


def show(message: object, heard: Heard, session: Session, captions: Captions) -> None:
    """Hand the words of a message on and keep the finals."""
    if isinstance(message, Partial | Final):
        name = session.names[min(message.channel, len(session.names) - 1)]
        if message.text.strip() and heard.first_words_s is None:
            heard.first_words_s = asyncio.get_running_loop().time()
        if isinstance(message, Partial):
            captions.partial(name, message.text)
        else:
            heard.finals.append(message)
            captions.final(name, message.text)


def _time_end(heard: Heard, message: Final | Done, delay_s: float) -> None:
    """Keep the last final after the end; without one, ``done`` says that nothing was due."""
    if isinstance(message, Final) or heard.finalize_delay_s is None:
        heard.finalize_delay_s = delay_s


async def _send(
    connection: Connection, packets: Iterable[bytes], schedule: Schedule, heard: Heard
) -> None:
    clock: Callable[[], float] = asyncio.get_running_loop().time
    for number, packet in enumerate(packets):
        due = schedule.due_s(number)
        await asyncio.sleep(max(0.0, due - clock()))
        heard.late_s = max(heard.late_s, clock() - due)
        await connection.send(packet)
    await connection.stop()


async def _send_until(
    connection: Connection, packets: AsyncIterator[bytes], until: asyncio.Event
) -> None:
    """Send packets until the source or ``until`` ends it, then stop."""
    over = asyncio.create_task(until.wait())
    try:
        while (packet := await _next_or(packets, over)) is not None:
            await connection.send(packet)
        await connection.stop()
    finally:
        over.cancel()


async def _next_or(packets: AsyncIterator[bytes], over: asyncio.Task[bool]) -> bytes | None:
    """Return the next packet; None when the source ended or ``over`` is done first."""
    taken = asyncio.ensure_future(anext(packets, None))
    await asyncio.wait([taken, over], return_when=asyncio.FIRST_COMPLETED)
    if not taken.done():
        taken.cancel()
        with suppress(asyncio.CancelledError):
            await taken
        return None
    return taken.result()


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest
