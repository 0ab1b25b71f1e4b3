"""Links between machines: nobody reads them or gets in between, strangers keep no worker out."""

import asyncio
import contextlib
import os
import re
import secrets
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from asr.scripted import ScriptedEngine
from server.app import StartError, running
from server.worker import external, join, link, tls
from server.worker.engines import EngineSpec
from server.worker.external import Registry
from server.worker.handshake import HandshakeError
from server.worker.join import Address, JoinError
from server.worker.line import Line
from server.worker.mailbox import SocketMailbox
from server.worker.registration import Register
from server.worker.tcp import dial, wait_for_gateway
from server.worker.tls import Identity, TlsPeer, dialling
from tests.io.serving import config

pytestmark = pytest.mark.io

SECRET = secrets.token_bytes(32)
ABOUT = Register("p", "machine", "cpu", "a model", "f" * 64)
AUDIO = secrets.token_bytes(32_000)
WORDS = b"turn on the kitchen light please thank you" * 70_000
"""As many bytes as a snapshot has: 2.9 MB."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Between:
    """Somebody between two machines, who sees all bytes."""

    port: int
    seen: bytearray


@contextlib.asynccontextmanager
async def between(
    port: int,
    enter: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None,
    onward: ssl.SSLContext | None = None,
) -> AsyncIterator[Between]:
    """Pass bytes on to a port, in clear, or with TLS of one's own on both sides."""
    found = Between(0, bytearray())
    ended = list[asyncio.Task[None]]()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                found.seen += data
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if enter is not None:
            await enter(writer)
        there = await asyncio.open_connection("127.0.0.1", port, ssl=onward)
        ended.extend(
            asyncio.create_task(pump(*way)) for way in ((reader, there[1]), (there[0], writer))
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in ended:
            task.cancel()


@contextlib.asynccontextmanager
async def waiting() -> AsyncIterator[Registry]:
    registry = Registry(SECRET)
    await registry.open("127.0.0.1", 0)
    try:
        yield registry
    finally:
        await registry.close()


def work(port: int, commands: int, secret: bytes = SECRET) -> list[link.Command]:
    """Be an engine process that joins, hears so many commands and says some words."""
    with join._registered(Address("127.0.0.1", port), secret, ABOUT) as peer:
        return talk(peer, commands)


def talk(peer: TlsPeer, commands: int) -> list[link.Command]:
    heard = list[link.Command]()
    with SocketMailbox(peer) as mailbox:
        mailbox.send(link.Saved(1, 5, (WORDS,)))
        while len(heard) < commands:
            heard += mailbox.receive(may_wait=True)
        mailbox.flush()
    return heard


async def hold(line: Line, commands: int) -> list[link.Report]:
    """Be the gateway on a link until it ends: audio goes out while words come in."""
    heard = list[link.Report]()
    for _ in range(commands):
        line.send(link.Audio(1, AUDIO, 0.0))
        await asyncio.sleep(0)
    await line.read(heard.append)
    return heard


async def test_a_worker_hears_that_it_has_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # for the main thread alone

    def leave() -> None:
        raise JoinError("it has joined")

    async with waiting() as registry:
        seat = asyncio.create_task(registry.seat())
        where, spec = Address("127.0.0.1", registry.port), EngineSpec(backend="scripted")
        serving = asyncio.to_thread(
            join.serve, ScriptedEngine(), spec, where, SECRET, on_joined=leave
        )
        with pytest.raises(JoinError, match="it has joined"):
            await serving
        assert (await seat).about.model == "scripted"


def assert_nothing_was_read(between: Between, commands: int) -> None:
    assert len(between.seen) > len(WORDS) + commands * len(AUDIO)
    assert b"kitchen" not in between.seen
    assert AUDIO[:64] not in between.seen


async def test_whoever_reads_the_link_of_an_external_worker_sees_neither_audio_nor_words() -> None:
    async with waiting() as registry, between(registry.port) as reader:
        seat = asyncio.create_task(registry.seat())
        worker = asyncio.create_task(asyncio.to_thread(work, reader.port, 100))
        reports = await hold((await seat).line, 100)
        assert reports == [link.Saved(1, 5, (WORDS,))]
        assert await worker == [link.Audio(1, AUDIO, 0.0)] * 100
        assert_nothing_was_read(reader, 100)


def listen(told: "asyncio.Future[int]", loop: asyncio.AbstractEventLoop) -> list[link.Command]:
    """Be an engine process of a cluster."""

    def tell(port: int) -> None:
        loop.call_soon_threadsafe(told.set_result, port)

    return talk(wait_for_gateway("127.0.0.1", SECRET, tell), 100)


async def test_whoever_reads_the_link_of_a_cluster_sees_neither_audio_nor_words() -> None:
    told = asyncio.get_running_loop().create_future()
    host = asyncio.create_task(asyncio.to_thread(listen, told, asyncio.get_running_loop()))
    async with between(await told) as reader:
        line = await dial("127.0.0.1", reader.port, SECRET)
        assert await hold(line, 100) == [link.Saved(1, 5, (WORDS,))]
        assert await host == [link.Audio(1, AUDIO, 0.0)] * 100
        assert_nothing_was_read(reader, 100)


async def test_somebody_in_between_who_passes_the_proofs_on_is_refused_by_both(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = Identity.fresh()
    async with (
        waiting() as registry,
        between(registry.port, lambda w: w.start_tls(own.context), dialling()) as thief,
    ):
        with pytest.raises(JoinError, match=r"refused this worker: .*not whom we reached"):
            await asyncio.to_thread(work, thief.port, 1)
        assert len(thief.seen) > 100  # the hello and the answer: only the proof was wrong
        (refused,) = [r for r in caplog.records if r.getMessage() == "worker refused"]
        assert "did not prove" in vars(refused)["reason"]


async def test_somebody_in_between_at_a_cluster_is_refused() -> None:
    own = Identity.fresh()
    told = asyncio.get_running_loop().create_future()
    host = asyncio.create_task(asyncio.to_thread(listen, told, asyncio.get_running_loop()))
    port = await told
    async with between(port, lambda w: w.start_tls(own.context), dialling()) as thief:
        with pytest.raises(HandshakeError, match="did not prove"):
            await dial("127.0.0.1", thief.port, SECRET)
    line = await dial("127.0.0.1", port, SECRET)  # it waits on for whom it belongs to
    assert len(await hold(line, 100)) == 1
    await host


async def test_another_secret_is_one_line_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    async with waiting() as registry:
        with pytest.raises(JoinError) as error:
            await asyncio.to_thread(work, registry.port, 1, bytes(32))
        line = rf"127.0.0.1:{registry.port} refused this worker: .*another secret[^\n]*"
        assert re.fullmatch(line, str(error.value))
        (refused,) = [r for r in caplog.records if r.getMessage() == "worker refused"]
        assert vars(refused)["reason"] == "an engine process did not prove that it is ours"


async def test_who_speaks_no_tls_is_refused_in_one_line_on_both_sides(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with waiting() as registry:
        reader, writer = await asyncio.open_connection("127.0.0.1", registry.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(100):
                pass
        writer.close()
        while not caplog.records:  # noqa: ASYNC110 - a log line
            await asyncio.sleep(0.01)
        assert vars(caplog.records[0])["reason"] == "it does not speak TLS"

    async def clear(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(32))  # as gateways before TLS did

    server = await asyncio.start_server(clear, "127.0.0.1", 0)
    with pytest.raises(JoinError, match=r"does not speak TLS"):
        await asyncio.to_thread(work, server.sockets[0].getsockname()[1], 1)
    server.close()


async def test_a_gateway_that_hangs_up_is_dialled_again() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    with pytest.raises(OSError):  # and no JoinError, which ends a worker
        await asyncio.to_thread(work, server.sockets[0].getsockname()[1], 1)
    server.close()


def test_a_name_of_many_gateways_is_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first = socket.create_server(("127.0.0.1", 0))
    port = first.getsockname()[1]
    second = socket.create_server(("127.0.0.2", port))
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (h, port)) for h in ("127.0.0.1", "127.0.0.2")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(found))

    def reached() -> str:
        with join._connected(Address("gateways", port)) as peer:
            return str(peer.getpeername()[0])

    monkeypatch.setattr(socket, "create_connection", _connect)
    assert {reached() for _ in range(40)} == {"127.0.0.1", "127.0.0.2"}
    first.close()
    assert {reached() for _ in range(10)} == {"127.0.0.2"}
    second.close()
    with pytest.raises(OSError):
        reached()


def _connect(address: tuple[str, int], timeout: float) -> socket.socket:
    """Be socket.create_connection, which would ask for addresses again."""
    plain = socket.socket()
    plain.settimeout(timeout)
    try:
        plain.connect(address)
    except OSError:
        plain.close()
        raise
    return plain


async def greeted(registry: Registry, strangers: int) -> None:
    while registry._greeted != strangers:  # noqa: ASYNC110 - a state
        await asyncio.sleep(0.001)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stranger is gone because time is out."""
    monkeypatch.setattr(external, "GREET_S", 600.0)


@pytest.mark.usefixtures("patient")
async def test_a_worker_comes_in_beside_as_many_silent_strangers_as_may_be() -> None:
    async with waiting() as registry, contextlib.AsyncExitStack() as stack:
        for _ in range(external.MAX_GREETED - 1):
            await stranger(registry, stack)
        await greeted(registry, external.MAX_GREETED - 1)
        assert external.MAX_GREETED > 1
        seat = asyncio.create_task(registry.seat())
        worker = asyncio.create_task(asyncio.to_thread(work, registry.port, 1))
        await hold((await seat).line, 1)
        await worker


@pytest.mark.usefixtures("patient")
async def test_a_stranger_too_many_is_turned_away_until_another_goes() -> None:
    async with waiting() as registry, contextlib.AsyncExitStack() as stack:
        silent = [await stranger(registry, stack) for _ in range(external.MAX_GREETED)]
        await greeted(registry, external.MAX_GREETED)
        turned_away, _ = await stranger(registry, stack)
        with contextlib.suppress(ConnectionResetError):
            assert await turned_away.read() == b""
        assert registry._greeted == external.MAX_GREETED
        silent[0][1].close()
        await greeted(registry, external.MAX_GREETED - 1)
        seat = asyncio.create_task(registry.seat())
        worker = asyncio.create_task(asyncio.to_thread(work, registry.port, 1))
        await hold((await seat).line, 1)
        await worker


async def stranger(registry: Registry, stack: contextlib.AsyncExitStack) -> Streams:
    """Dial and say nothing, not even TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", registry.port)
    stack.callback(writer.close)
    return reader, writer


def test_both_ends_may_write_at_once_whatever_the_sockets_hold() -> None:
    identity = Identity.fresh()
    here, there = socket.socketpair()
    ends = dict[str, ssl.SSLSocket]()
    shaking = threading.Thread(target=lambda: ends.update(a=tls.accepted(here, identity)))
    shaking.start()
    dialled = dialling().wrap_socket(there)
    shaking.join()
    assert tls.binding_of(dialled) == identity.binding
    peers = TlsPeer(ends["a"]), TlsPeer(dialled)
    data = os.urandom(1_000_000)
    unsent, got = [bytearray(data), bytearray(data)], [bytearray(), bytearray()]
    for peer in peers:
        peer.setblocking(False)
    while len(got[0]) + len(got[1]) < 2 * len(data):
        for number, peer in enumerate(peers):
            with contextlib.suppress(BlockingIOError):
                del unsent[number][: peer.send(unsent[number]) if unsent[number] else 0]
            with contextlib.suppress(BlockingIOError):
                got[number] += peer.recv(1 << 20)
    assert got == [data, data]
    for peer in peers:
        peer.close()


def test_each_listening_has_a_key_of_its_own() -> None:
    assert Identity.fresh().binding != Identity.fresh().binding


async def test_without_the_package_for_certificates_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RIVULET_WORKER_SECRET", "0123456789abcdef")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(StartError, match=r"cryptography: pip install"):
        async with running(config(external="127.0.0.1:0")):
            pass
