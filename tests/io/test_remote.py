"""Engine processes over TCP: who starts them is a stand-in, the processes and links are real."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from server.app import Running, StartError, running
from server.worker.engines import EngineSpec
from server.worker.handshake import HandshakeError
from server.worker.process import command, environment
from server.worker.remote import PlacementError, RemoteWorker
from server.worker.tcp import dial
from tests.io.serving import (
    all_slots_free,
    config,
    figure,
    read_until,
    rest,
    speech,
    start,
    talk,
    transcript,
)
from tests.io.serving import (
    dial as connect,
)

pytestmark = pytest.mark.io

SPEC = EngineSpec(backend="scripted", slots=8)
TEXT = "turn on the kitchen light please thank you"


@dataclass(slots=True)
class LocalPost:
    process: "subprocess.Popen[bytes]"
    address: tuple[str, int]

    def remove(self) -> None:
        """Hang up as an actor does that ends: the process must end by itself."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    async def ended(self) -> int:
        """Wait for it; return its status."""
        return await asyncio.to_thread(self.process.wait)


@dataclass(slots=True)
class LocalPlaces:
    """Starts engine processes here, as a cluster would elsewhere."""

    posts: list[LocalPost] = field(default_factory=list)
    is_full: bool = False
    secret: bytes = b""

    async def start(self, spec: EngineSpec, secret: bytes) -> LocalPost:
        if self.is_full:
            raise PlacementError("there is no room")
        process = subprocess.Popen(  # noqa: ASYNC220 - as the actor does
            command(spec, "--listen", "127.0.0.1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(self.secret or secret)
        process.stdin.flush()
        port = int(await asyncio.to_thread(process.stdout.readline))
        self.posts.append(LocalPost(process, ("127.0.0.1", port)))
        return self.posts[-1]


@asynccontextmanager
async def serving(places: LocalPlaces, workers: int = 1) -> AsyncIterator[Running]:
    setup = config(workers=workers)
    async with running(setup, launch=lambda _: RemoteWorker(SPEC, places)) as server:
        yield server
    for post in places.posts:
        await post.ended()


async def all_ready(server: Running, workers: int) -> None:
    while await figure(server, "rivulet_workers_ready") < workers:  # noqa: ASYNC110 - a metric
        await asyncio.sleep(0.01)


async def reason(server: Running) -> str:
    while not (reason := server.manager.status()[0].reason):  # noqa: ASYNC110 - a state
        await asyncio.sleep(0.01)
    return reason


def home_of(server: Running, places: LocalPlaces) -> LocalPost:
    """Where the first session is."""
    worker = next(iter(server.manager._home.values())).worker
    assert isinstance(worker, RemoteWorker)
    return next(post for post in places.posts if post.address == worker.address)


async def test_words_come_over_tcp_and_the_process_ends_with_the_server() -> None:
    places = LocalPlaces()
    async with serving(places) as server:
        await server.manager.ready()
        assert transcript(await talk(server, speech(TEXT))) == TEXT
    assert [post.process.returncode for post in places.posts] == [0]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_session_goes_on_elsewhere(how: signal.Signals) -> None:
    places = LocalPlaces()
    async with serving(places, 2) as server:
        await all_ready(server, 2)
        await survive(server, places, how)


async def survive(server: Running, places: LocalPlaces, how: signal.Signals) -> None:
    said = speech(TEXT)
    async with connect(server) as socket:
        await socket.send(start())
        await read_until(socket, "ready")
        await socket.send(said[:40_000])
        await read_until(socket, "partial")
        lost = home_of(server, places)
        os.kill(lost.process.pid, how)
        for begin in range(40_000, len(said), 32_000):
            await socket.send(said[begin : begin + 32_000])
        await socket.send('{"type":"stop"}')
        assert transcript(await rest(socket)) == TEXT
        assert socket.close_code == 1000
        if how is signal.SIGSTOP:
            os.kill(lost.process.pid, signal.SIGCONT)  # it wakes up, and finds that it is nobody
        await lost.ended()
        await all_slots_free(server)


async def test_a_server_whose_places_are_full_tries_again() -> None:
    places = LocalPlaces(is_full=True)
    async with serving(places) as server:
        assert await reason(server) == "there is no room"
        places.is_full = False
        await server.manager.ready()
        assert transcript(await talk(server, speech("good day"))) == "good day"


async def test_a_process_with_another_secret_is_not_taken() -> None:
    places = LocalPlaces(secret=bytes(32))
    async with serving(places) as server:
        assert "did not prove" in await reason(server)


async def test_strangers_at_the_port_keep_no_gateway_out() -> None:
    places = LocalPlaces()
    secret = os.urandom(32)
    post = await places.start(SPEC, secret)
    _, silent = await asyncio.open_connection(*post.address)
    silent.close()
    _, rude = await asyncio.open_connection(*post.address)
    rude.write(bytes(200))
    rude.close()
    with pytest.raises(HandshakeError):
        await dial(*post.address, bytes(32))
    line = await dial(*post.address, secret)
    line.close()
    assert await post.ended() == 0
    post.remove()


async def test_a_process_whose_starter_is_gone_ends() -> None:
    places = LocalPlaces()
    post = await places.start(SPEC, os.urandom(32))
    post.remove()
    assert await post.ended() == 1


async def test_without_its_package_the_server_says_what_to_install() -> None:
    if "ray" in sys.modules:
        pytest.skip("ray is installed here")
    with pytest.raises(StartError, match="pip install"):
        async with running(config(cluster="auto")):
            pass
