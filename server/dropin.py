"""The foreign wires of a server: which path speaks which, and the talks in progress.

Does: path, query and headers -> an adapter or a refusal; run talks; end them.
Does not know: what the wires say, how engines work.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from server.guard import Entrance, caller_of, query_of, refusal_of
from server.http import json_response
from server.inbox import messages_of
from server.keys import Account
from server.metrics import Conversation
from server.patience import RETRY_AFTER_S
from server.talk import House, Line, Talk
from server.wire.adapter import Adapter, Frame, Hello, Refused
from server.wire.assemblyai import AssemblyServer
from server.wire.deepgram import DeepgramServer
from server.wire.errors import WireError
from server.wire.flux import FluxServer
from server.wire.kyutai import KyutaiServer
from server.wire.nvidia_realtime import NvidiaServer, is_offered
from server.wire.openai_realtime import RealtimeServer
from server.wire.speechmatics import SpeechmaticsServer

logger = logging.getLogger(__name__)

MAX_HEARD = 4
"""Files that are decoded and heard at once: their audio waits in memory."""


def _realtime(hello: Hello) -> Adapter:
    """Return the wire of a client of ``/v1/realtime``: NVIDIA's shows a token of its own form."""
    return NvidiaServer(hello) if is_offered(hello) else RealtimeServer(hello)


WEBSOCKETS: Mapping[str, Callable[[Hello], Adapter]] = {
    "/v1/listen": DeepgramServer,
    "/v2/listen": FluxServer,
    "/v1/realtime": _realtime,
    "/api/asr-streaming": KyutaiServer,
    "/v3/ws": AssemblyServer,
    "/v2": SpeechmaticsServer,
}
_LANGUAGE_PATH = re.compile(r"/v2/[a-z]{2,3}(-[a-z]+)?/?")


class SocketLine:
    """A WebSocket (server.talk.Line)."""

    may_half_close = False

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield messages until the socket closes."""
        try:
            async for data in messages_of(self._socket):
                yield data
        except ConnectionClosed as closed:
            raise ConnectionError from closed

    async def send(self, frame: Frame) -> None:
        """Write a message."""
        try:
            await self._socket.send(frame)
        except ConnectionClosed as closed:
            raise ConnectionError from closed

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye."""
        await self._socket.close(code, reason)

    def abort(self) -> None:
        """Cut it off."""
        self._socket.transport.abort()


class DropIns:
    """Everything about foreign wires that one server holds."""

    def __init__(self, house: House, enter: Entrance) -> None:
        self._house = house
        self.enter = enter
        """Asked before a client is served; raises WireError."""
        self.hearing = asyncio.Semaphore(MAX_HEARD)
        """Held while a whole file is decoded and heard, over whatever wire it came."""
        self._talks: set[Talk] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def __len__(self) -> int:
        return len(self._talks)

    def conversations(self) -> list[Conversation]:
        """Return the figures of the sessions in progress."""
        return [figures for talk in self._talks if (figures := talk.conversation()) is not None]

    @property
    def has_room(self) -> bool:
        """Whether a session could be placed now."""
        return self._house.keeper.has_room

    def speaks(self, path: str) -> bool:
        """Whether a WebSocket at this path is a foreign wire."""
        return _wire_at(path) is not None

    def handshake(self, socket: ServerConnection, request: Request) -> Response | None:
        """Prepare the adapter of a socket; a response refuses it."""
        try:
            account = self.enter(caller_of(socket, request), "stream")
        except WireError as error:
            return refusal_of(error)
        path, _, query = request.path.partition("?")
        hello = self.hello(query, dict(request.headers.raw_items()))
        if (full := self.refusal(hello)) is not None:
            return full
        try:
            wire = _wire_at(path)
            assert wire is not None
            adapter = wire(hello)
        except Refused as refused:
            return json_response(refused.body, HTTPStatus(refused.status))
        socket.protocol.max_message_size = adapter.max_message_bytes
        socket.adapter, socket.account = adapter, account  # type: ignore[attr-defined]
        return None

    def hello(self, query: str, headers: Mapping[str, str]) -> Hello:
        """Return what is known of a client from its first line and headers."""
        model = self._house.keeper.model
        return Hello(
            name=_uuid(),
            born_s=int(time.time()),
            model=model.name if model else "",
            languages=model.languages if model else (),
            query={name: tuple(values) for name, values in query_of(query).items()},
            headers={name.lower(): value for name, value in headers.items()},
        )

    def refusal(self, hello: Hello) -> Response | None:
        """Return why nobody can be served now, as clients that retry on 503 read it."""
        if self.has_room:
            return None
        text = "every slot of this server is taken" if hello.model else "the model is loading"
        body = {"error": text, "err_msg": text, "request_id": hello.name}
        return json_response(
            body, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": str(round(RETRY_AFTER_S))}
        )

    async def serve_socket(self, socket: ServerConnection) -> bool:
        """Run the talk of a socket that has an adapter; whether it had one."""
        adapter = getattr(socket, "adapter", None)
        if not isinstance(adapter, Adapter):
            return False
        await self.serve(adapter, SocketLine(socket), getattr(socket, "account", None))
        return True

    async def serve(self, adapter: Adapter, line: Line, account: Account | None = None) -> None:
        """Run a talk to its end."""
        talk = Talk(adapter, line, self._house, account)
        self._talks.add(talk)
        self._is_empty.clear()
        try:
            await talk.run()
        except Exception:
            logger.exception("talk failed", extra={"wire": type(adapter).__name__})
            talk.abort()
        finally:
            self._talks.discard(talk)
            if not self._talks:
                self._is_empty.set()

    async def stop(self, *, flush_s: float) -> None:
        """Let every talk say its last words, then cut it off."""
        for talk in list(self._talks):
            talk.leave()
        try:
            async with asyncio.timeout(flush_s):
                await self._is_empty.wait()
        except TimeoutError:
            for talk in list(self._talks):
                talk.abort()


def _wire_at(path: str) -> Callable[[Hello], Adapter] | None:
    found = WEBSOCKETS.get(path.rstrip("/"))
    if found is None and _LANGUAGE_PATH.fullmatch(path):
        return SpeechmaticsServer  # their older clients put the language into the path
    return found


def subprotocols_of(socket: ServerConnection) -> tuple[str, ...]:
    """Return the subprotocols that the adapter of a socket answers to."""
    adapter = getattr(socket, "adapter", None)
    return adapter.subprotocols if isinstance(adapter, Adapter) else ()


def _uuid() -> str:
    digits = secrets.token_hex(16)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
