"""Wires that cannot share our port: each listens on its own, when it is asked to.

Does: open and close those listeners; a connection becomes a talk.
Does not know: what the wires say.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from server.config import ServerConfig
from server.dropin import DropIns, SocketLine
from server.guard import Caller, caller_of, refusal_of
from server.inbox import MAX_FRAMES
from server.wire.adapter import Adapter, Frame, Hello
from server.wire.errors import WireError
from server.wire.sherpa import SherpaServer
from server.wire.vosk import VoskServer
from server.wire.wyoming import WyomingServer

if TYPE_CHECKING:
    from server.announce import Announcement
    from server.grpc_port import GrpcPort

READ_BYTES = 65_536
CLOSE_S = 5.0
PING_S = 20.0


class ListenError(Exception):
    """A port that is not to be had; the text is one sentence."""


@contextlib.contextmanager
def listening(config: ServerConfig, name: str) -> Iterator[None]:
    """Say which port it is that an OSError is about; raises ListenError."""
    try:
        yield
    except OSError as error:
        where, why = f"{config.host}:{getattr(config, name)}", error.strerror or error
        option = name.replace("_", "-")
        text = f"cannot listen on {where}: {why}; choose another --host or --{option}"
        raise ListenError(text) from error


class StreamLine:
    """A TCP connection (server.talk.Line)."""

    may_half_close = True

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield bytes as they come."""
        while data := await self._reader.read(READ_BYTES):
            yield data

    async def send(self, frame: Frame) -> None:
        """Write bytes."""
        self._writer.write(frame if isinstance(frame, bytes) else frame.encode())
        await self._writer.drain()

    async def close(self, code: int, reason: str) -> None:
        """Close; the wire has no codes."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Cut it off."""
        self._writer.transport.abort()


class Ports:
    """The listeners beside our main port."""

    def __init__(self, config: ServerConfig, dropins: DropIns) -> None:
        self._config = config
        self._dropins = dropins
        self._servers = dict[str, Server | asyncio.Server]()
        self._grpc: GrpcPort | None = None
        self._announcement: Announcement | None = None

    def port_of(self, wire: str) -> int:
        """Return the port a wire listens on."""
        if wire == "grpc" and self._grpc is not None:
            return int(self._grpc.port)
        port: int = next(iter(self._servers[wire].sockets)).getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen; raises ListenError."""
        config = self._config
        if config.wyoming_port is not None:
            with listening(config, "wyoming_port"):
                self._servers["wyoming"] = await asyncio.start_server(
                    self._serve_stream,
                    config.host,
                    config.wyoming_port,
                    reuse_port=config.gateway is not None,
                )
        if config.vosk_port is not None:
            with listening(config, "vosk_port"):
                self._servers["vosk"] = await self._websocket(VoskServer, config.vosk_port)
        if config.sherpa_port is not None:
            with listening(config, "sherpa_port"):
                self._servers["sherpa"] = await self._websocket(SherpaServer, config.sherpa_port)
        if config.grpc_port is not None:
            await self._start_grpc()
        if config.announce:
            await self._announce()

    async def end(self) -> None:
        """End what outlives its talks."""
        if self._announcement is not None:
            await self._announcement.stop()
        if self._grpc is not None:
            await self._grpc.stop()

    def close(self) -> None:
        """Listen no more; the talks are ended by their owner."""
        for server in self._servers.values():
            if isinstance(server, Server):
                server.close(close_connections=False)
            else:
                server.close()

    async def _start_grpc(self) -> None:
        try:
            from server.grpc_port import GrpcPort  # grpcio is needed by nobody else
        except ModuleNotFoundError as error:
            raise ListenError("the gRPC port needs the package grpcio") from error
        self._grpc = GrpcPort(self._config, self._dropins)
        with listening(self._config, "grpc_port"):
            await self._grpc.start()

    async def _announce(self) -> None:
        try:
            from server.announce import WYOMING, Announcement  # zeroconf is needed by nobody else
        except ModuleNotFoundError as error:
            raise ListenError("announcing needs the package zeroconf") from error
        self._announcement = Announcement(WYOMING, self._config.host, self.port_of("wyoming"))
        try:
            await self._announcement.start()
        except OSError as error:
            raise ListenError(f"cannot announce: {error.strerror or error}") from error

    def _refusal(self) -> Response | None:
        return self._dropins.refusal(self._dropins.hello("", {}))

    async def _websocket(self, wire: Callable[[Hello], Adapter], port: int) -> Server:
        async def run(socket: ServerConnection) -> None:
            adapter = wire(self._dropins.hello("", {}))
            account = getattr(socket, "account", None)
            await self._dropins.serve(adapter, SocketLine(socket), account)

        def check(socket: ServerConnection, request: Request) -> Response | None:
            try:
                account = self._dropins.enter(caller_of(socket, request), "stream")
            except WireError as error:
                return refusal_of(error)
            socket.account = account  # type: ignore[attr-defined]
            return self._refusal()

        return await serve(
            run,
            self._config.host,
            port,
            compression=None,
            max_queue=MAX_FRAMES,
            close_timeout=CLOSE_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            process_request=check,
            server_header=None,
            reuse_port=self._config.gateway is not None,
            logger=logging.getLogger("server.websockets"),
        )

    async def _serve_stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line = StreamLine(reader, writer)
        address = (writer.get_extra_info("peername") or ("",))[0]
        try:
            self._dropins.enter(Caller(address=address), "stream")
            is_welcome = self._refusal() is None
        except WireError:
            is_welcome = False
        if not is_welcome:
            line.abort()  # it has no words before 'describe'; Home Assistant tries again
            return
        await self._dropins.serve(WyomingServer(self._dropins.hello("", {})), line)
