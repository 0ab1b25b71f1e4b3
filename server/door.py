"""The first bytes on our port: a WebSocket handshake, or a plain request with a body.

Does: tell them apart, read head and body within bounds of size and time, write an answer, close.
Does not know: what a request means (``Posts``), WebSocket frames (websockets).

``websockets`` drops a POST without an answer: here its parser never sees one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from websockets.asyncio.server import ServerConnection

from server.wire.adapter import Frame
from server.wire.errors import BadRequest, MessageTooBig, RemoteProtocolError
from server.wire.rest import Head, json_answer, read_head

OPEN_S = 10.0
BODY_S = 120.0
"""For a body, and as much again for each further 64 MiB."""
CLOSE_S = 10.0
MAX_HEAD_BYTES = 32 * 1024
_METHODS = (b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ")

_TOO_BIG = "a body has {} bytes at most"

Answering = Callable[["Door", Head], Awaitable[None]]


def door(answering: Answering, opening: "set[asyncio.Task[Any]]") -> type["Door"]:
    """Return the kind of connection that has its requests answered by this.

    ``opening`` holds the tasks of those that are no WebSocket (yet): a server that goes ends them.
    """

    class Ours(Door):
        async def handshake(self, *args: Any, **options: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            opening.add(task)
            try:
                await super().handshake(*args, **options)
            except asyncio.CancelledError:
                self.transport.abort()
                raise
            finally:
                opening.discard(task)

        async def answer(self, head: Head) -> None:
            await answering(self, head)

    return Ours


class Door(ServerConnection):
    """A connection that is either."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._first = b""
        self._decided: asyncio.Future[bool] = self.loop.create_future()
        """Whether it is a request with a body."""
        self._reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES, loop=self.loop)
        self.extra: Mapping[str, str] = {}
        """Headers of the answer beside its own, until it is begun."""

    # ---- what asyncio calls

    def data_received(self, data: bytes) -> None:
        """Hand bytes to whom they belong."""
        if not self._decided.done():
            data = self._first + data
            if any(len(data) < len(m) and m.startswith(data) for m in _METHODS):
                self._first = data
                return
            self._decided.set_result(data.startswith(_METHODS))
            if self._decided.result():
                self._reader.set_transport(self.transport)
        if self._decided.result():
            self._reader.feed_data(data)
        else:
            super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Go on writing to a client that has only ended its request."""
        if self._decided.done() and self._decided.result():
            self._reader.feed_eof()
            return True
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever reads."""
        self._reader.feed_eof()
        super().connection_lost(exc)

    # ---- what websockets calls

    async def handshake(self, *args: Any, **options: Any) -> None:
        """Answer a request whole, or shake hands."""
        async with asyncio.timeout(OPEN_S):
            waited: list[asyncio.Future[Any]] = [self._decided, self.connection_lost_waiter]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not self._decided.done():
                return
            if not self._decided.result():
                await super().handshake(*args, **options)
                return
        await self._request()

    # ---- requests with a body

    def size_of(self, head: Head, *, most: int) -> int:
        """Return how long a body may be; raises BadRequest."""
        return most if "transfer-encoding" in head.headers else min(most, _length(head))

    async def answer(self, head: Head) -> None:
        """Answer a request."""
        raise NotImplementedError

    async def body(self, head: Head, *, most: int) -> bytes:
        """Read the body of a request; raises RemoteProtocolError, ConnectionError."""
        coding = head.headers.get("transfer-encoding", "").lower()
        if (length := 0 if coding else _length(head)) > most:
            raise MessageTooBig(_TOO_BIG.format(most))
        if head.headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(BODY_S * max(1, most >> 26)):
                if coding == "chunked":
                    return await self._chunks(most)
                if coding:
                    raise BadRequest("this transfer-encoding is not taken")
                return await self._reader.readexactly(length)
        except TimeoutError as error:
            raise BadRequest("the body did not come in time") from error
        except asyncio.IncompleteReadError as error:
            raise ConnectionError from error
        except (asyncio.LimitOverrunError, ValueError) as error:
            raise BadRequest("the body cannot be read") from error

    async def write(self, data: bytes) -> None:
        """Write; raises ConnectionError when nobody reads."""
        if self.transport.is_closing():
            raise ConnectionError
        if self.extra:
            first, _, rest = data.partition(b"\r\n")
            lines = [f"{name}: {value}\r\n" for name, value in self.extra.items()]
            data = b"%b\r\n%b%b" % (first, "".join(lines).encode("latin-1"), rest)
            self.extra = {}
        self.transport.write(data)
        await self.drain()

    async def finish(self) -> None:
        """Close behind what was written."""
        self.transport.close()
        await asyncio.wait([self.connection_lost_waiter], timeout=CLOSE_S)
        self.transport.abort()

    async def gone(self) -> None:
        """Wait until the connection is no more."""
        await asyncio.wait([self.connection_lost_waiter])

    async def _request(self) -> None:
        try:
            async with asyncio.timeout(OPEN_S):
                raw = await self._reader.readuntil(b"\r\n\r\n")
            await self.answer(read_head(raw[:-4]))
        except RemoteProtocolError as error:
            await self._refuse(413 if isinstance(error, MessageTooBig) else 400, error.message)
        except asyncio.LimitOverrunError:
            await self._refuse(431, "the head is too long")
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            self.transport.abort()

    async def _refuse(self, status: int, text: str) -> None:
        self.transport.write(json_answer(status, {"error": text}))
        await self.finish()

    async def _chunks(self, most: int) -> bytes:
        body = bytearray()
        while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            if size < 0 or len(body) + size > most:
                raise MessageTooBig(_TOO_BIG.format(most))
            body += (await self._reader.readexactly(size + 2))[:-2]
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers say nothing to us
        return bytes(body)


def _length(head: Head) -> int:
    text = head.headers.get("content-length", "0")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise BadRequest("content-length is no number")
    return int(text)


class PostLine:
    """A request that is being answered (server.talk.Line)."""

    may_half_close = False

    def __init__(self, door: Door) -> None:
        self._door = door

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield nothing, until the client is gone."""
        await self._door.gone()
        nothing: tuple[Frame, ...] = ()
        for frame in nothing:
            yield frame

    async def send(self, frame: Frame) -> None:
        """Write a piece of the answer."""
        await self._door.write(frame if isinstance(frame, bytes) else frame.encode())

    async def close(self, code: int, reason: str) -> None:
        """End the answer."""
        await self._door.finish()

    def abort(self) -> None:
        """Cut it off."""
        self._door.transport.abort()
