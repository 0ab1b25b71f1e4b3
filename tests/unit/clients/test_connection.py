"""The client connection against a scripted server on loopback."""

import asyncio
import socket as sockets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from clients import connection as under_test
from clients.connection import Connection, ConnectionLost, RivuletError, connect
from clients.demo import SAMPLES
from server.wire.conversation import Audio, State
from server.wire.errors import LocalProtocolError, OverCapacity
from server.wire.messages import (
    Ack,
    AudioFormat,
    ClientGap,
    Configure,
    Done,
    Error,
    Final,
    Finalize,
    Finalized,
    Lag,
    Limits,
    Partial,
    Pause,
    Ready,
    Resume,
    ServerMessage,
    Start,
    Turn,
)
from server.wire.native import NativeServer
from server.wire.native import Request as ClientRequest

pytestmark = pytest.mark.io
S16 = AudioFormat(encoding="pcm_s16le", rate=16_000)


class Peer:
    """The server's end of one connection, steered by a test."""

    def __init__(self, socket: ServerConnection, limits: Limits) -> None:
        self.socket = socket
        self.wire = NativeServer(limits=limits)

    async def hear(self) -> ClientRequest:
        """Return the next request."""
        while True:
            data = await self.socket.recv()
            heard = (
                self.wire.receive_text(data)
                if isinstance(data, str)
                else self.wire.receive_binary(data)
            )
            if heard:
                return heard[0]

    async def say(self, *messages: ServerMessage) -> None:
        for message in messages:
            await self.socket.send(self.wire.render(message))

    async def begin(self) -> Start:
        """Answer ``start`` with ``ready``."""
        start = await self.hear()
        assert isinstance(start, Start)
        await self.say(
            Ready(
                v=1,
                session="s",
                token="t",
                model="m",
                resumed=False,
                at=0,
                chunk_ms=160,
                limits=self.wire.limits,
            )
        )
        return start

    async def end(self) -> None:
        """Take everything up to ``stop`` and answer it."""
        while self.wire.state is not State.DRAINING:
            await self.hear()
        await self.say(Done(samples=self.wire.at, finals=0))

    def vanish(self) -> None:
        """Cut the line without a word."""
        self.socket.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script, **limits: int) -> AsyncIterator[str]:
    """Serve one scripted peer; fail if the script or the client leaves a task behind."""
    failures: list[BaseException] = []

    async def handle(socket: ServerConnection) -> None:
        try:
            await script(Peer(socket, Limits(**limits)))
        except ConnectionClosed:
            pass
        except BaseException as error:
            failures.append(error)
            raise

    before = asyncio.all_tasks()
    listener = await serve(
        handle, "127.0.0.1", 0, subprotocols=[Subprotocol("rivulet.v1")], compression=None
    )
    try:
        yield f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1/stream"
    finally:
        listener.close()
        await listener.wait_closed()
    assert not failures, failures
    assert asyncio.all_tasks() <= before


def final(number: int) -> Final:
    return Final(id=number, channel=0, text=f"w{number}", start_ms=0, end_ms=1, cause="endpoint")


def partial(rev: int, channel: int = 0) -> Partial:
    return Partial(id=0, channel=channel, rev=rev, stable="", text="", start_ms=0, end_ms=1)


async def over(connection: Connection) -> None:
    """Wait until all messages lie in the queue, unread."""
    async with connection._changed:
        await connection._changed.wait_for(lambda: connection._is_over)


async def rest_of(connection: Connection) -> list[ServerMessage]:
    return [message async for message in connection]


async def test_a_whole_session_yields_typed_messages_and_ends_with_done() -> None:
    said: list[ServerMessage] = [
        Turn(event="start", turn=0, channel=0, at_ms=80),
        partial(1),
        final(0),
    ]

    async def script(peer: Peer) -> None:
        start = await peer.begin()
        assert (start.audio, start.latency, start.words) == (S16, "low", True)
        assert await peer.hear() == Audio(b"1234")
        await peer.say(*said)
        await peer.end()

    async with (
        serving(script) as url,
        connect(url, audio=S16, latency="low", words=True) as connection,
    ):
        assert connection.ready.model == "m"
        await connection.send(b"1234")
        assert connection.sent == 2
        await connection.stop()
        await connection.stop()
        assert await rest_of(connection) == [*said, Done(samples=2, finals=0)]
        assert await rest_of(connection) == []


async def test_requests_reach_the_server_with_fresh_names() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        assert await peer.hear() == Configure(req="r1", partials="stable")
        assert await peer.hear() == Finalize(req="r2")
        await peer.say(Finalized(req="r2", at=0))
        assert await peer.hear() == ClientGap(samples=5)
        assert await peer.hear() == Pause()
        assert await peer.hear() == Resume()
        await peer.end()

    async with serving(script) as url, connect(url, audio=S16) as connection:
        assert await connection.configure(partials="stable") == "r1"
        assert await connection.finalize() == "r2"
        await connection.gap(5)
        await connection.pause()
        with pytest.raises(LocalProtocolError, match="paused"):
            await connection.send(b"12")
        await connection.resume()
        await connection.stop()
        assert await rest_of(connection) == [
            Finalized(req="r2", at=0),
            Done(samples=5, finals=0),
        ]


async def test_the_handshake_carries_token_and_subprotocol_and_no_compression() -> None:
    async def script(peer: Peer) -> None:
        request = peer.socket.request
        assert request is not None
        assert request.headers["Authorization"] == "Bearer sesame"
        assert "Sec-WebSocket-Extensions" not in request.headers
        assert peer.socket.subprotocol == "rivulet.v1"
        await peer.begin()
        await peer.end()

    async with serving(script) as url, connect(url, token="sesame", audio=S16) as connection:
        await connection.stop()
        await rest_of(connection)


# ---- the window


async def test_send_waits_while_the_window_is_full_and_goes_on_after_an_ack() -> None:
    may_ack = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.begin()
        while peer.wire.at < 1_500:  # room for 100 more, which are not worth a message
            await peer.hear()
        await peer.say(Lag(ms=100, level="warn"))
        await may_ack.wait()
        await peer.say(Ack(at=1_500, done=1_000, durable=0))
        while peer.wire.at < 2_500:
            await peer.hear()
        await peer.say(Ack(at=2_500, done=2_500, durable=0))
        await peer.end()

    async with (
        serving(script, window_ms=100, frame_bytes=1_001) as url,
        connect(url, audio=S16) as connection,
    ):
        sender = asyncio.create_task(connection.send(bytes(2 * 3_000)))
        assert await anext(connection) == Lag(ms=100, level="warn")
        assert not sender.done()
        assert (connection.sent, connection.done) == (1_500, 0)
        may_ack.set()
        await sender
        await connection.stop()
        assert (await rest_of(connection))[-1] == Done(samples=3_000, finals=0)


async def test_half_a_sample_is_refused_before_anything_is_sent() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.end()

    async with serving(script) as url, connect(url, audio=S16) as connection:
        with pytest.raises(ValueError, match="3 bytes"):
            await connection.send(b"123")
        await connection.stop()
        assert await rest_of(connection) == [Done(samples=0, finals=0)]


async def test_leaving_wakes_a_sender_that_waits_for_the_window() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        while peer.wire.at < 1_600:
            await peer.hear()
        await peer.say(Lag(ms=100, level="warn"))
        await peer.socket.wait_closed()

    async with serving(script, window_ms=100) as url:
        async with connect(url, audio=S16) as connection:
            sender = asyncio.create_task(connection.send(bytes(2 * 3_000)))
            await anext(connection)
        with pytest.raises(ConnectionLost, match="left"):
            await sender
        with pytest.raises(ConnectionLost, match="left"):
            await rest_of(connection)


# ---- reading


async def test_unknown_types_and_binary_messages_of_a_newer_server_are_skipped() -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.send('{"type":"weather"}')
        await peer.begin()
        await peer.socket.send('{"type":"weather","sun":true}')
        await peer.socket.send(b"picture")
        await peer.end()

    async with serving(script) as url, connect(url, audio=S16) as connection:
        await connection.stop()
        assert await rest_of(connection) == [Done(samples=0, finals=0)]


async def test_a_slow_reader_misses_partials_and_acks_but_no_final() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        for n in range(3):
            await peer.say(Ack(at=n, done=n, durable=0), partial(n + 1), partial(n + 1, 1))
            await peer.say(final(n), Lag(ms=n, level="ok"))
        await peer.say(Finalized(at=0))
        await peer.end()

    async with serving(script) as url, connect(url, audio=S16) as connection:
        await connection.stop()
        await over(connection)
        assert await rest_of(connection) == [
            final(0),
            final(1),
            Ack(at=2, done=2, durable=0),
            partial(3),
            partial(3, 1),
            final(2),
            Lag(ms=2, level="ok"),
            Finalized(at=0),
            Done(samples=0, finals=0),
        ]


async def test_a_caller_who_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MAX_WAITING", 3)

    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.say(*map(final, range(4)))
        await peer.socket.wait_closed()

    async with serving(script) as url, connect(url, audio=S16) as connection:
        await over(connection)
        with pytest.raises(RivuletError, match="3 messages were not read"):
            await rest_of(connection)


# ---- failures


async def test_nobody_listening_is_a_lost_connection() -> None:
    with sockets.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{free.getsockname()[1]}/v1/stream"
    with pytest.raises(ConnectionLost, match="cannot connect"):
        async with connect(url, audio=S16):
            pass


async def test_a_server_without_tls_is_a_lost_connection_with_a_reason() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionLost, match=r"cannot connect: \w"):
            async with connect(f"wss://127.0.0.1:{port}/v1/stream", audio=S16):
                pass


async def test_an_error_before_ready_names_code_and_when_to_try_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.hear()
        error = OverCapacity("every slot is taken", retry_after=5)
        await peer.say(error.to_message())
        await peer.socket.close(error.close_code)

    async with serving(script) as url:
        with pytest.raises(RivuletError, match="every slot is taken") as caught:
            async with connect(url, audio=S16):
                pass
    assert (caught.value.code, caught.value.retry_after_s) == ("over_capacity", 5)


async def test_a_close_before_ready_is_a_lost_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.close(1001)

    async with serving(script) as url:
        with pytest.raises(ConnectionLost, match="1001"):
            async with connect(url, audio=S16):
                pass


async def test_a_server_that_never_says_ready_is_given_up() -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.wait_closed()

    async with serving(script) as url:
        with pytest.raises(ConnectionLost, match="no 'ready' within"):
            async with connect(url, timeout_s=0.2, audio=S16):
                pass


@pytest.mark.parametrize(
    ("status", "after", "code", "seconds"),
    [
        (HTTPStatus.UNAUTHORIZED, None, "unauthorized", None),
        (HTTPStatus.SERVICE_UNAVAILABLE, "7", "over_capacity", 7.0),
        (HTTPStatus.TOO_MANY_REQUESTS, "soon", "rate_limited", None),
        (HTTPStatus.NOT_FOUND, None, "connection_lost", None),
    ],
)
async def test_a_refused_handshake_is_named(
    status: HTTPStatus, after: str | None, code: str, seconds: float | None
) -> None:
    def refuse(socket: ServerConnection, request: Request) -> Response:
        response = socket.respond(status, "no")
        if after is not None:
            response.headers["Retry-After"] = after
        return response

    async def never(socket: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=refuse) as listener:
        url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        with pytest.raises(RivuletError) as caught:
            async with connect(url, audio=S16):
                pass
    assert (caught.value.code, caught.value.retry_after_s) == (code, seconds)


async def test_a_server_that_vanishes_fails_reading_and_writing() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.say(final(0))
        await peer.hear()
        peer.vanish()

    async with serving(script) as url, connect(url, audio=S16) as connection:
        await connection.send(b"12")
        assert await anext(connection) == final(0)
        with pytest.raises(ConnectionLost, match="before 'done'"):
            await anext(connection)
        with pytest.raises(ConnectionLost):
            await connection.send(b"12")
        with pytest.raises(ConnectionLost):
            await connection.finalize()


async def test_a_sender_alone_learns_why_the_server_closed() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.say(Error(code="session_limit", message="too old", fatal=True))
        await peer.socket.close(4408)

    async with serving(script) as url, connect(url, audio=S16) as connection:
        with pytest.raises(RivuletError, match="too old") as caught:
            while True:
                await connection.send(bytes(3_200))
    assert caught.value.code == "session_limit"


async def test_a_fatal_error_comes_after_the_messages_before_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.say(final(0), Error(code="rate_limited", message="slow", fatal=False))
        await peer.say(Error(code="internal", message="oh", fatal=True, param="p"))
        await peer.socket.close(1011)

    async with serving(script) as url, connect(url, audio=S16) as connection:
        assert await anext(connection) == final(0)
        assert isinstance(await anext(connection), Error)
        with pytest.raises(RivuletError) as caught:
            await anext(connection)
        assert (caught.value.code, caught.value.param) == ("internal", "p")


@pytest.mark.parametrize("text", ["{", '{"type":"done","samples":0,"finals":0}'])
async def test_a_server_that_breaks_the_protocol_is_named(text: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.socket.send(text)
        await peer.socket.wait_closed()

    async with serving(script) as url, connect(url, audio=S16) as connection:
        with pytest.raises(RivuletError, match="broke the protocol"):
            await rest_of(connection)


async def test_a_bad_option_is_refused_before_a_socket_is_opened() -> None:
    with pytest.raises(LocalProtocolError, match="Start"):
        async with connect("ws://nowhere.invalid/", audio=S16, language="not a tag"):
            pass


async def test_an_exception_of_the_caller_passes_through_and_leaves_no_task() -> None:
    async def script(peer: Peer) -> None:
        await peer.begin()
        await peer.socket.wait_closed()

    async with serving(script) as url:
        with pytest.raises(KeyError):
            async with connect(url, audio=S16):
                raise KeyError


def test_the_client_loads_no_engine() -> None:
    code = "import sys, clients.connection; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "asr", "server.session"} & set(ran.stdout.split())


# ---- what is said while the connection is away


def lost_once() -> Script:
    """Vanish behind ``ready``; the second time, hear the rest."""
    begun = list[Start]()

    async def script(peer: Peer) -> None:
        begun.append(await peer.begin())
        if len(begun) == 1:
            peer.vanish()
        else:
            await peer.end()

    return script


async def test_a_caller_is_told_that_the_connection_broke_and_that_it_is_back() -> None:
    told = list[bool]()
    async with (
        serving(lost_once()) as url,
        connect(url, audio=S16, come_back_s=20, on_line=told.append) as connection,
    ):
        await connection.send(b"1234")
        await connection.stop()
        assert await rest_of(connection) == [Done(samples=2, finals=0)]
    assert told == [False, True]


@pytest.mark.parametrize("verb", ["captions", "meeting", "assistant"])
async def test_who_sits_before_a_terminal_is_told_too(verb: str) -> None:
    file = str(SAMPLES / "02-timer.ogg")
    more = {"assistant": ["--run", "cat"]}.get(verb, [])
    async with serving(lost_once()) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "clients", verb, file, "--url", url, *more,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await process.communicate()
    said = err.decode().splitlines()
    assert said[-2:] == ["connection lost, trying again", "the connection is back"]
