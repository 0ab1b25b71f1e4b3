"""One live session with a rivulet server: audio in, typed messages out.

Does: open the socket, wait for ``ready``, keep the flow window, end on ``done``.
Does not know: files, microphones, captions, resuming, how words were found.

    async with connect(url, audio=AudioFormat(encoding="pcm_s16le", rate=16000)) as connection:
        await connection.send(pcm)
        await connection.stop()
        async for message in connection:
            ...
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NotRequired, Required, TypedDict, Unpack

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from server.wire.conversation import State
from server.wire.errors import RemoteProtocolError
from server.wire.messages import (
    SUBPROTOCOL,
    Ack,
    AudioFormat,
    Boosts,
    Chunk,
    ClientGap,
    ClientMessage,
    Configure,
    Done,
    Endpointing,
    Error,
    Finalize,
    Lag,
    Language,
    LatencyClass,
    Partial,
    PartialsMode,
    Pause,
    Ready,
    Resume,
    ServerMessage,
    Start,
    Stop,
)
from server.wire.native import NativeClient

MAX_WAITING = 10_000
"""Messages kept for a caller who does not read; partials, acks and lags replace each other."""
MAX_MESSAGE_BYTES = 1_048_576
_CODES = {401: "unauthorized", 403: "forbidden_origin", 429: "rate_limited", 503: "over_capacity"}


class StartOptions(TypedDict):
    """What a session may ask for; see PROTOCOL.md, ``start``."""

    audio: Required[AudioFormat]
    latency: NotRequired[LatencyClass | Chunk | None]
    language: NotRequired[Language | None]
    partials: NotRequired[PartialsMode | None]
    words: NotRequired[bool]
    boost: NotRequired[Boosts | None]
    endpointing: NotRequired[Endpointing | None]
    meta: NotRequired[dict[str, Any] | None]


class Changes(TypedDict, total=False):
    """What ``configure`` may change while audio flows."""

    boost: Boosts
    endpointing: Endpointing
    partials: PartialsMode
    language: Language


class RivuletError(Exception):
    """The server refused or ended the session: ``code`` is one of PROTOCOL.md's."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class ConnectionLost(RivuletError):
    """The socket could not be opened, or closed before ``done``."""

    def __init__(self, message: str) -> None:
        super().__init__("connection_lost", message)


class Connection:
    """A started session. Iterate for messages; ``done`` is the last one."""

    def __init__(self, socket: ClientConnection, wire: NativeClient, ready: Ready) -> None:
        self.ready = ready
        """The server's answer to ``start``: session, model, limits."""
        self._socket = socket
        self._wire = wire
        self._waiting: OrderedDict[object, ServerMessage] = OrderedDict()
        self._failure: RivuletError | None = None
        self._is_over = False
        self._changed = asyncio.Condition()
        self._requests = 0

    @property
    def sent(self) -> int:
        """Samples per channel sent so far."""
        return self._wire.sent

    @property
    def done(self) -> int:
        """Samples per channel decoded so far."""
        return self._wire.done

    async def send(self, audio: bytes) -> None:
        """Send whole sample frames, in pieces, as fast as the flow window allows."""
        start = self._wire.start
        if start is None or len(audio) % start.audio.frame_bytes:
            raise ValueError(f"{len(audio)} bytes are no whole number of sample frames")
        rest = memoryview(audio)
        while rest:
            await self._wait_for_room()
            piece = self._wire.send_audio(bytes(rest[: self._wire.room_bytes]))
            rest = rest[len(piece) :]
            await self._write(piece)

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
        if self._wire.state not in (State.DRAINING, State.CLOSED):
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
                message = await _receive(self._socket, self._wire)
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

    def _take(self, message: ServerMessage | None) -> None:
        if message is None:
            return
        if isinstance(message, Error) and message.fatal:
            raise _refusal(message)
        key = _slot(message)
        self._waiting.pop(key, None)
        self._waiting[key] = message
        if len(self._waiting) > MAX_WAITING:
            raise RivuletError("internal", f"{MAX_WAITING} messages were not read")

    async def _wait_for_room(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._wire.room_bytes or self._is_over)
        self._check()

    async def _say(self, message: ClientMessage) -> None:
        self._check()
        await self._write(self._wire.send(message))

    async def _write(self, data: str | bytes) -> None:
        try:
            await self._socket.send(data)
        except ConnectionClosed as closed:
            async with self._changed:  # the reader still finds the message that explains it
                await self._changed.wait_for(lambda: self._is_over)
            raise self._failure or _lost(closed) from closed

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _next_request(self) -> str:
        self._requests += 1
        return f"r{self._requests}"


@asynccontextmanager
async def connect(
    url: str, *, token: str | None = None, timeout_s: float = 20.0, **options: Unpack[StartOptions]
) -> AsyncIterator[Connection]:
    """Open a session at ``ws://host:port/v1/stream`` and wait for ``ready``.

    Raises ConnectionLost when there is no server, RivuletError when it refuses,
    LocalProtocolError when an option is out of range (nothing is opened then).
    """
    wire = NativeClient()
    start = wire.send(Start(v=1, **options))
    try:
        socket = await open_socket(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {token}"} if token else None,
            compression=None,
            open_timeout=timeout_s,
            ping_interval=20,
            ping_timeout=20,
            close_timeout=5,
            max_size=MAX_MESSAGE_BYTES,
        )
    except InvalidStatus as refused:
        raise _http_refusal(refused) from refused
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise ConnectionLost(f"cannot connect: {error or type(error).__name__}") from error
    async with socket:
        try:
            async with asyncio.timeout(timeout_s):
                ready = await _begin(socket, wire, start)
        except TimeoutError as error:
            raise ConnectionLost(f"no 'ready' within {timeout_s:g} s") from error
        connection = Connection(socket, wire, ready)
        reader = asyncio.create_task(connection.read())
        try:
            yield connection
        finally:
            reader.cancel()
            await asyncio.wait([reader])


async def _begin(socket: ClientConnection, wire: NativeClient, start: str) -> Ready:
    """Send the text of ``start`` and return the answer."""
    with suppress(ConnectionClosed):  # what the server said first explains the close
        await socket.send(start)
    while True:
        message = await _receive(socket, wire)
        if isinstance(message, Ready):
            return message
        if isinstance(message, Error):
            raise _refusal(message)


async def _receive(socket: ClientConnection, wire: NativeClient) -> ServerMessage | None:
    """Return the next message; None for one that this version does not know."""
    try:
        text = await socket.recv()
    except ConnectionClosed as closed:
        raise _lost(closed) from closed
    if isinstance(text, bytes):
        return None
    try:
        return wire.receive_text(text)
    except RemoteProtocolError as error:
        raise RivuletError("internal", f"the server broke the protocol: {error}") from error


def _slot(message: ServerMessage) -> object:
    """Return the place in the queue: equal places replace each other."""
    if isinstance(message, Partial):
        return Partial, message.channel
    if isinstance(message, Ack | Lag):
        return type(message)
    return object()


def _refusal(error: Error) -> RivuletError:
    return RivuletError(
        error.code, error.message, param=error.param, retry_after_s=error.retry_after
    )


def _http_refusal(refused: InvalidStatus) -> RivuletError:
    response = refused.response
    code = _CODES.get(response.status_code)
    if code is None:
        return ConnectionLost(f"the server answered HTTP {response.status_code}")
    after = response.headers.get("Retry-After", "")
    seconds = float(after) if after.isdecimal() else None
    return RivuletError(code, f"HTTP {response.status_code}", retry_after_s=seconds)


def _lost(closed: ConnectionClosed) -> ConnectionLost:
    code = closed.rcvd.code if closed.rcvd else 1006
    return ConnectionLost(f"the server closed the socket with {code} before 'done'")
