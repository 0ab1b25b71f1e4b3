"""NVIDIA Riva's gRPC on a port of its own; needs the package ``grpcio``.

Does: calls -> talks, byte for byte; statuses.
Does not know: what the messages mean (``server.wire.riva``): they stay bytes, no generated code.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from websockets.datastructures import Headers

from server import media
from server.config import ServerConfig
from server.dropin import DropIns
from server.guard import Caller
from server.keys import Account, Scope
from server.wire import protobuf as pb
from server.wire.adapter import Frame
from server.wire.errors import RemoteProtocolError, WireError
from server.wire.rest import Recording
from server.wire.riva import (
    INVALID_ARGUMENT,
    REQUEST_ID,
    RESOURCE_EXHAUSTED,
    RivaFile,
    RivaServer,
    configurations,
    read_config,
)

SERVICE = "nvidia.riva.asr.RivaSpeechRecognition"
SHORTEST_PING_MS = 1_000
"""How often a client may ask whether we are there while neither says anything; gRPC's five minutes
would end the calls of clients that do so every few seconds."""
_MOST_MESSAGE_BYTES = 2**31 - 1
"""gRPC knows no larger ones."""
_CONTAINERS = (b"RIFF", b"fLaC", b"OggS")
_DENIED: dict[str, grpc.StatusCode] = {
    "unauthorized": grpc.StatusCode.UNAUTHENTICATED,
    "rate_limited": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_STATUSES = {code.value[0]: code for code in grpc.StatusCode}


class CallLine:
    """A call under way (server.talk.Line)."""

    may_half_close = True

    def __init__(self, requests: AsyncIterator[bytes], context: Any) -> None:
        self._requests = requests
        self._context = context
        self._status = (0, "")

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield requests."""
        async for request in self._requests:
            yield request

    async def send(self, frame: Frame) -> None:
        """Write a response."""
        await self._context.write(frame)

    async def close(self, code: int, reason: str) -> None:
        """Keep the status for the end of the call."""
        self._status = (code, reason)

    def abort(self) -> None:
        """Cut it off."""
        self._status = (_unavailable(), "the server gives up")

    async def finish(self) -> None:
        """End the call with its status."""
        code, reason = self._status
        if code:
            await self._context.abort(_STATUSES.get(code, grpc.StatusCode.UNAVAILABLE), reason)


class GrpcPort:
    """The listener."""

    def __init__(self, config: ServerConfig, dropins: DropIns) -> None:
        self._config = config
        self._dropins = dropins
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Listen; raises OSError."""
        most = min(self._config.file_mb << 20, _MOST_MESSAGE_BYTES)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", most),
                ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_MS),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
            maximum_concurrent_rpcs=self._config.max_connections,
        )
        methods = {
            "StreamingRecognize": grpc.stream_stream_rpc_method_handler(self._stream),
            "Recognize": grpc.unary_unary_rpc_method_handler(self._file),
            "GetRivaSpeechRecognitionConfig": grpc.unary_unary_rpc_method_handler(self._about),
        }
        handler = grpc.method_handlers_generic_handler(SERVICE, methods)
        self._server.add_generic_rpc_handlers((handler,))
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        try:
            self.port = self._server.add_insecure_port(f"{host}:{self._config.grpc_port}")
        except RuntimeError as error:
            raise OSError(None, f"gRPC: {error}") from error
        await self._server.start()

    async def stop(self) -> None:
        """Take no more calls; those under way are ended by their owner."""
        if self._server is not None:
            await self._server.stop(grace=None)

    async def _admit(self, context: Any, scope: Scope) -> Account | None:
        shown = [(k, v) for k, v in context.invocation_metadata() or () if k == "authorization"]
        try:
            return self._dropins.enter(
                Caller(Headers(shown), address=_host_of(context.peer())), scope
            )
        except WireError as error:
            status = _DENIED.get(error.code, grpc.StatusCode.UNAVAILABLE)
            await context.abort(status, error.message)
            raise

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        account = await self._admit(context, "stream")
        if not self._dropins.has_room:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "every slot is taken")
        line = CallLine(requests, context)
        await self._dropins.serve(RivaServer(self._dropins.hello("", {})), line, account)
        await line.finish()

    async def _file(self, request: bytes, context: Any) -> bytes:
        account = await self._admit(context, "files")
        if not self._dropins.has_room:
            await context.abort(_STATUSES[RESOURCE_EXHAUSTED], "every slot is taken")
        line = _Whole()
        async with self._dropins.hearing:
            try:
                adapter = await self._heard(request)
            except RemoteProtocolError as error:
                await context.abort(_STATUSES[INVALID_ARGUMENT], error.message)
                raise
            await self._dropins.serve(adapter, line, account)
        if line.status[0]:
            await context.abort(_STATUSES[line.status[0]], line.status[1])
        return line.answer

    async def _about(self, request: bytes, context: Any) -> bytes:
        await self._admit(context, "stream")
        hello = self._dropins.hello("", {})
        if not hello.model:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the model is loading")
        try:
            return configurations(request, hello)
        except RemoteProtocolError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            raise

    async def _heard(self, request: bytes) -> RivaFile:
        fields = pb.Fields(request)
        config = read_config(fields.message(1))
        data = fields.data(2)
        if data.startswith(_CONTAINERS):
            channels: media.Channels = "keep" if config.has_channels else "mix"
            recording = await asyncio.to_thread(media.decode, data, channels)
        else:
            audio = config.audio
            recording = Recording(audio, data[: len(data) // audio.frame_bytes * audio.frame_bytes])
        request_id = fields.data(REQUEST_ID)
        return RivaFile(self._dropins.hello("", {}), recording, config, request_id)


class _Whole:
    """A call with one request and one response (server.talk.Line)."""

    may_half_close = True

    def __init__(self) -> None:
        self.answer = b""
        self.status = (0, "")

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield nothing: the request is known."""
        nothing: tuple[Frame, ...] = ()
        for frame in nothing:
            yield frame

    async def send(self, frame: Frame) -> None:
        """Keep the response."""
        self.answer = frame if isinstance(frame, bytes) else frame.encode()

    async def close(self, code: int, reason: str) -> None:
        """Keep the status."""
        self.status = (code, reason)

    def abort(self) -> None:
        """Cut it off."""
        self.status = (_unavailable(), "the server gives up")


def _unavailable() -> int:
    return int(grpc.StatusCode.UNAVAILABLE.value[0])


def _host_of(peer: str) -> str:
    """Return the address in ``ipv4:127.0.0.1:50000``."""
    return peer.partition(":")[2].rpartition(":")[0]
