"""One socket to a rivulet server: open it, say ``start``, read messages; failures by name.

Does: handshakes, the wait for ``ready``, text to typed messages, closes and refusals to errors.
Does not know: flow windows, queues, coming back.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from server.wire.errors import LocalProtocolError, RemoteProtocolError
from server.wire.messages import SUBPROTOCOL, Error, Ready, ServerMessage, Start
from server.wire.native import NativeClient

MAX_MESSAGE_BYTES = 1_048_576
_CODES = {401: "unauthorized", 403: "forbidden_origin", 429: "rate_limited", 503: "over_capacity"}


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

    def __init__(self, message: str, *, close_code: int = 1006) -> None:
        super().__init__("connection_lost", message)
        self.close_code = close_code


@dataclass(frozen=True, slots=True)
class Line:
    """An open socket with the protocol's state."""

    socket: ClientConnection
    wire: NativeClient
    ready: Ready


@dataclass(frozen=True, slots=True)
class Address:
    """Whom to dial."""

    url: str
    token: str | None
    timeout_s: float


async def dial(address: Address, start: Start) -> Line:
    """Open a socket and a session on it. Raises RivuletError, LocalProtocolError."""
    _check(address.url)
    wire = NativeClient()
    text = wire.send(start)
    try:
        socket = await open_socket(
            address.url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {address.token}"}
            if address.token
            else None,
            compression=None,
            open_timeout=address.timeout_s,
            ping_interval=20,
            ping_timeout=20,
            close_timeout=5,
            max_size=MAX_MESSAGE_BYTES,
        )
    except InvalidStatus as refused:
        raise _http_refusal(refused) from refused
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise ConnectionLost(f"cannot connect: {str(error) or type(error).__name__}") from error
    try:
        async with asyncio.timeout(address.timeout_s):
            ready = await _begin(socket, wire, text)
    except TimeoutError as error:
        await socket.close()
        raise ConnectionLost(f"no 'ready' within {address.timeout_s:g} s") from error
    except BaseException:
        await socket.close()
        raise
    return Line(socket, wire, ready)


def _check(url: str) -> None:
    try:
        parse_uri(url)
    except (InvalidURI, ValueError) as error:  # a port may be no number
        text = f"{url!r} is no address of a WebSocket: ws://HOST:PORT/v1/stream, or wss://"
        raise LocalProtocolError(text) from error


async def receive(socket: ClientConnection, wire: NativeClient) -> ServerMessage | None:
    """Return the next message; None for one that this version does not know."""
    try:
        text = await socket.recv()
    except ConnectionClosed as closed:
        raise lost(closed) from closed
    if isinstance(text, bytes):
        return None
    try:
        return wire.receive_text(text)
    except RemoteProtocolError as error:
        raise RivuletError("internal", f"the server broke the protocol: {error}") from error


def refusal(error: Error) -> RivuletError:
    """Return the error that a fatal message means."""
    return RivuletError(
        error.code, error.message, param=error.param, retry_after_s=error.retry_after
    )


def lost(closed: ConnectionClosed) -> ConnectionLost:
    """Return the error that a close before ``done`` means."""
    code = closed.rcvd.code if closed.rcvd else 1006
    text = f"the server closed the socket with {code} before 'done'"
    return ConnectionLost(text, close_code=code)


async def _begin(socket: ClientConnection, wire: NativeClient, start: str) -> Ready:
    """Send the text of ``start`` and return the answer."""
    with suppress(ConnectionClosed):  # what the server said first explains the close
        await socket.send(start)
    while True:
        message = await receive(socket, wire)
        if isinstance(message, Ready):
            return message
        if isinstance(message, Error):
            raise refusal(message)


def _http_refusal(refused: InvalidStatus) -> RivuletError:
    response = refused.response
    code = _CODES.get(response.status_code)
    if code is None:
        text = f"HTTP {response.status_code} instead of a stream: its address ends in /v1/stream"
        return ConnectionLost(text)
    after = response.headers.get("Retry-After", "")
    seconds = float(after) if after.isdecimal() else None
    return RivuletError(code, f"HTTP {response.status_code}", retry_after_s=seconds)
