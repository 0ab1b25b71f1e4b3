"""One live session with a rivulet server: audio in, typed messages out.

Does: open the socket, wait for ``ready``, keep the flow window, end on ``done``; where asked, come
back by itself when the connection breaks: nothing said twice, nothing lost.
Does not know: files, microphones, captions, how words were found.

    async with connect(url, audio=AudioFormat(encoding="pcm_s16le", rate=16000)) as connection:
        await connection.send(pcm)
        await connection.stop()
        async for message in connection:
            ...
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NotRequired, Required, TypedDict, Unpack

import msgspec
from websockets.exceptions import ConnectionClosed

from clients.dial import Address, ConnectionLost, Line, RivuletError, dial, lost, receive, refusal
from clients.journal import Journal
from server.wire.conversation import State
from server.wire.errors import LocalProtocolError
from server.wire.messages import (
    Ack,
    AudioFormat,
    Boosts,
    Chunk,
    ClientGap,
    ClientMessage,
    Configure,
    Configured,
    Done,
    Endpointing,
    Error,
    Final,
    Finalize,
    Finalized,
    GoAway,
    Lag,
    Language,
    LatencyClass,
    Meeting,
    Partial,
    PartialsMode,
    Pause,
    Readable,
    Ready,
    Resume,
    ResumeFrom,
    ServerMessage,
    Start,
    Stop,
)

__all__ = ["Connection", "ConnectionLost", "RivuletError", "connect"]

MAX_WAITING = 10_000
"""Messages kept for a caller who does not read; partials, acks and lags replace each other."""
LONGEST_PAUSE_S = 2.0
"""Between two tries to come back; many clients must not come at once."""
ATTACHED_ELSEWHERE = 4409
_FOR_GOOD = {
    "resume_unknown",
    "bad_request",
    "unauthorized",
    "forbidden_origin",
    "session_limit",
    "quarantined",
}


class StartOptions(TypedDict):
    """What a session may ask for; see PROTOCOL.md, ``start``."""

    audio: Required[AudioFormat]
    latency: NotRequired[LatencyClass | Chunk | None]
    flexible: NotRequired[bool]
    language: NotRequired[Language | None]
    partials: NotRequired[PartialsMode | None]
    words: NotRequired[bool]
    boost: NotRequired[Boosts | None]
    endpointing: NotRequired[Endpointing | None]
    meeting: NotRequired[Meeting | None]
    readable: NotRequired[Readable | None]
    meta: NotRequired[dict[str, Any] | None]
    resume: NotRequired[ResumeFrom | None]


class Changes(TypedDict, total=False):
    """What ``configure`` may change while audio flows."""

    boost: Boosts
    endpointing: Endpointing
    partials: PartialsMode
    language: Language


class Connection:
    """A started session. Iterate for messages; ``done`` is the last one."""

    def __init__(
        self,
        line: Line,
        address: Address,
        start: Start,
        come_back_s: float,
        on_line: Callable[[bool], None],
    ) -> None:
        self.ready: Ready = line.ready
        """The server's answer to ``start``: session, model, limits; after a return, the newest."""
        self.returns = 0
        """How often the connection broke and the session went on."""
        self._line = line
        self._address = address
        self._start = start
        self._come_back_s = come_back_s
        self._on_line = on_line
        audio = start.audio
        self._journal = Journal(audio.rate, audio.frame_bytes)
        self._journal.end = line.ready.at  # not 0 where another connection began the session
        self._finals = [0] * audio.channels
        self._waiting: OrderedDict[object, ServerMessage] = OrderedDict()
        self._failure: RivuletError | None = None
        self._is_over = False
        self._is_paused = self._is_stopped = False
        self._changed = asyncio.Condition()
        self._telling = asyncio.Lock()
        self._catching_up: asyncio.Task[None] | None = None
        self._requests = 0

    @property
    def sent(self) -> int:
        """Samples per channel sent so far."""
        return self._line.wire.sent

    @property
    def done(self) -> int:
        """Samples per channel decoded so far."""
        return self._line.wire.done

    async def send(self, audio: bytes) -> None:
        """Send whole sample frames, in pieces, as fast as the flow window allows."""
        if len(audio) % self._start.audio.frame_bytes:
            raise ValueError(f"{len(audio)} bytes are no whole number of sample frames")
        self._check()
        if audio:
            self._journal.audio(bytes(audio))
        await self._tell()

    async def gap(self, samples: int) -> None:
        """Say that samples per channel were lost before they could be sent."""
        await self._say(ClientGap(samples=samples))

    async def configure(self, **changes: Unpack[Changes]) -> str:
        """Change settings; the answer is a ``configured`` with the returned ``req``."""
        req = self._next_request()
        await self._say(Configure(req=req, **changes))
        return req

    async def finalize(self) -> str:
        """Ask for all words so far; the answer is a ``finalized`` with the returned ``req``."""
        req = self._next_request()
        await self._say(Finalize(req=req))
        return req

    async def pause(self) -> None:
        """Stop the media clock until ``resume``."""
        await self._say(Pause())

    async def resume(self) -> None:
        """Go on after ``pause``."""
        await self._say(Resume())

    async def stop(self) -> None:
        """End the audio; the remaining messages follow, ``done`` last."""
        if not self._is_stopped and self._line.wire.state is not State.CLOSED:
            await self._say(Stop())

    def __aiter__(self) -> AsyncIterator[ServerMessage]:
        """Yield messages up to ``done``; raise RivuletError when the session fails."""
        return self

    async def __anext__(self) -> ServerMessage:
        """Return the next message."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._is_over)
        if self._waiting:
            return self._waiting.popitem(last=False)[1]
        if self._failure is not None:
            raise self._failure
        raise StopAsyncIteration

    async def read(self) -> None:
        """Take messages off the socket until the session is over: a task of ``connect``."""
        failure: RivuletError | None = ConnectionLost("the session was left")
        try:
            is_done = False
            while not is_done:
                try:
                    message = await receive(self._line.socket, self._line.wire)
                except ConnectionLost as broken:
                    await self._come_back(broken)
                    continue
                async with self._changed:
                    self._take(message)
                    self._changed.notify_all()
                is_done = isinstance(message, Done)
            failure = None
        except RivuletError as error:
            failure = error
        finally:
            async with self._changed:
                self._failure = failure
                self._is_over = True
                self._changed.notify_all()

    async def close(self) -> None:
        """Close the socket politely."""
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.wait([self._catching_up])
        await self._line.socket.close()

    # ---- what comes

    def _take(self, message: ServerMessage | None) -> None:
        if message is None:
            return
        if isinstance(message, Error) and message.fatal:
            raise refusal(message)
        if isinstance(message, Final):
            if message.id < self._finals[message.channel]:
                return  # told again after a return
            self._finals[message.channel] = message.id + 1
        elif isinstance(message, Ack):
            self._journal.safe(message.durable)
        elif isinstance(message, Configured | Finalized):
            self._journal.answered(message.req)
        elif isinstance(message, GoAway):
            self.ready = msgspec.structs.replace(self.ready, token=message.token)
        key = _slot(message)
        self._waiting.pop(key, None)
        self._waiting[key] = message
        if len(self._waiting) > MAX_WAITING:
            raise RivuletError("internal", f"{MAX_WAITING} messages were not read")

    # ---- what goes

    async def _say(self, message: ClientMessage) -> None:
        self._check()
        self._journal.request(message)
        if isinstance(message, Pause | Resume):
            self._is_paused = isinstance(message, Pause)
        elif isinstance(message, Stop):
            self._is_stopped = True
        await self._tell()

    async def _tell(self) -> None:
        """Tell the server all that is due, in order."""
        async with self._telling:
            while (due := self._journal.next()) is not None:
                line = self._line
                try:
                    if isinstance(due, bytes):
                        await self._tell_audio(due, line)
                    else:
                        text = line.wire.send(due)
                        self._journal.told()
                        await line.socket.send(text)
                except LocalProtocolError:
                    self._journal.told()  # the caller's mistake: nothing to be tried again
                    raise
                except ConnectionClosed as closed:
                    await self._wait_for_return(line, closed)

    async def _tell_audio(self, due: bytes, line: Line) -> None:
        async with self._changed:
            await self._changed.wait_for(
                lambda: line.wire.has_room(len(due)) or self._is_over or self._line is not line
            )
        self._check()
        if self._line is not line:
            return
        piece = line.wire.send_audio(due[: line.wire.room_bytes])
        self._journal.told(len(piece) // self._start.audio.frame_bytes)
        await line.socket.send(piece)

    async def _wait_for_return(self, line: Line, closed: ConnectionClosed) -> None:
        """Go on when the reader has found the server again; it knows what there is to tell."""
        async with self._changed:  # the reader still finds the message that explains it
            await self._changed.wait_for(lambda: self._is_over or self._line is not line)
        if self._is_over:
            raise self._failure or lost(closed) from closed

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _next_request(self) -> str:
        self._requests += 1
        return f"r{self._requests}"

    # ---- coming back

    async def _come_back(self, broken: ConnectionLost) -> None:
        """Dial again until the session goes on; raises what ended it for good."""
        if broken.close_code == ATTACHED_ELSEWHERE:
            raise broken
        loop = asyncio.get_running_loop()
        until, pause_s = loop.time() + self._come_back_s, 0.1
        if self._come_back_s:
            self._on_line(False)
        while loop.time() < until:
            have = tuple(self._finals)
            resume = ResumeFrom(token=self.ready.token, finals=have)
            try:
                line = await dial(
                    self._address, msgspec.structs.replace(self._start, resume=resume)
                )
            except RivuletError as error:
                if error.code in _FOR_GOOD:
                    raise
                await asyncio.sleep(random.uniform(0.0, max(pause_s, error.retry_after_s or 0.0)))
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                continue
            await self._go_on(line)
            self._on_line(True)
            return
        raise broken

    async def _go_on(self, line: Line) -> None:
        async with self._changed:
            self._line, self.ready = line, line.ready
            self.returns += 1
            self._journal.rewind(line.ready.at)
            if self._is_stopped:
                self._journal.request(Stop())
            elif self._is_paused:
                self._journal.request(Pause())
            self._changed.notify_all()
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        """Tell again what is due, though nobody may be sending."""
        try:
            await self._tell()
        except RivuletError:
            return  # the reader tells it


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    timeout_s: float = 20.0,
    come_back_s: float = 0.0,
    on_line: Callable[[bool], None] = lambda _: None,
    **options: Unpack[StartOptions],
) -> AsyncIterator[Connection]:
    """Open a session at ``ws://host:port/v1/stream`` and wait for ``ready``.

    A broken connection is dialled again for ``come_back_s`` and the session goes on; 0: it is lost.
    ``on_line`` is called with False when it broke and with True when the session goes on.
    Raises ConnectionLost when there is no server, RivuletError when it refuses,
    LocalProtocolError when an option is out of range (nothing is opened then).
    """
    start, address = Start(v=1, **options), Address(url, token, timeout_s)
    line = await dial(address, start)
    connection = Connection(line, address, start, come_back_s, on_line)
    reader = asyncio.create_task(connection.read())
    try:
        yield connection
    finally:
        reader.cancel()
        await asyncio.wait([reader])
        await connection.close()


def _slot(message: ServerMessage) -> object:
    """Return the place in the queue: equal places replace each other."""
    if isinstance(message, Partial):
        return Partial, message.channel
    if isinstance(message, Ack | Lag):
        return type(message)
    return object()
