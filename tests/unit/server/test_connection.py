"""A connection over a socket that the test plays."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosedError

from asr.events import Final
from server.config import ServerConfig
from server.connection import Connection
from server.keeper import Keeper
from server.manager import Manager
from server.metrics import Metrics
from server.rooms import Rooms
from server.session import Identity, Session
from server.store.base import Kept, Outcome, Store
from server.store.memory import MemoryStore
from server.ticket import Ticket
from server.wire.messages import Ready
from server.worker import link
from server.worker.handle import OnExit, OnReport

MODEL = link.Model("m", "f", (6, 1), 4, "fp32", "rnnt", 0, ("en",))
START = '{"type":"start","v":1,"audio":{"encoding":"pcm_s16le","rate":16000}}'


class Socket:
    """Takes texts while ``may_send`` is set; ends when aborted."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.sent: list[str] = []
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.is_aborted = False
        self.closed_with: int | None = None
        self.close_code: int | None = None
        self.transport = SimpleNamespace(abort=self.abort)

    def abort(self) -> None:
        self.is_aborted, self.close_code = True, 1006
        self.incoming.put_nowait(None)

    async def send(self, text: str) -> None:
        await self.may_send.wait()
        self.sent.append(text)

    async def close(self, code: int) -> None:
        self.closed_with = self.close_code = code
        self.incoming.put_nowait(None)

    def __aiter__(self) -> "Socket":
        return self

    async def __anext__(self) -> str | bytes:
        data = await self.incoming.get()
        if data is None:
            if self.is_aborted:
                raise ConnectionClosedError(None, None)
            raise StopAsyncIteration
        return data


class Silent:
    """A worker that takes everything."""

    queued_bytes = 0

    def __init__(self) -> None:
        self.commands: asyncio.Queue[link.Command] = asyncio.Queue()

    async def start(self, on_report: OnReport, on_exit: OnExit) -> None:
        self.report = on_report
        on_report(link.Ready(MODEL))

    def send(self, command: link.Command) -> None:
        self.commands.put_nowait(command)

    def kill(self) -> None: ...

    async def close(self) -> None: ...


async def connected(
    *, start: str = START, store: Store | None = None, **settings: Any
) -> tuple[Connection, Socket, Silent, Manager]:
    """A connection whose session is open."""
    config, metrics, worker = ServerConfig(**settings), Metrics(), Silent()
    manager = Manager(lambda _: worker, 1, observer=metrics)
    await manager.start()
    loop = asyncio.get_running_loop()
    session = Session(
        Identity(number=1, name="s", token=Ticket.new("s").token), config, now=loop.time()
    )
    socket = Socket()
    keeper = Keeper(manager, store or MemoryStore())
    connection = Connection(
        cast(ServerConnection, socket),
        session,
        config=config,
        keeper=keeper,
        metrics=metrics,
        rooms=Rooms(),
    )
    socket.incoming.put_nowait(start)
    return connection, socket, worker, manager


async def test_a_reader_that_stalls_is_dropped_and_its_slot_is_free() -> None:
    connection, socket, worker, manager = await connected(stalled_reader_s=0.01)
    socket.may_send.clear()
    running = asyncio.create_task(connection.run())
    await worker.commands.get()
    assert manager.sessions == 1
    connection.opened()
    await running
    assert socket.is_aborted
    assert await worker.commands.get() == link.Checkpoint(1)
    worker.report(link.Saved(1, 0, (b"all",)))
    assert await worker.commands.get() == link.Drop(1)
    assert manager.sessions == 0


async def test_the_slot_is_free_before_the_last_words_are_read() -> None:
    connection, socket, worker, manager = await connected()
    running = asyncio.create_task(connection.run())
    await worker.commands.get()
    connection.logged()
    socket.may_send.clear()
    connection.happened(0, Final(0, "", 0, 0, 0.5, "stop", ()))
    connection.failed("internal", "because")
    assert manager.sessions == 0
    socket.may_send.set()
    await running
    assert [text.split(",")[0] for text in socket.sent] == [
        '{"type":"ready"', '{"type":"final"', '{"type":"error"',
    ]  # fmt: skip
    assert socket.closed_with == 1011


async def test_an_answer_the_protocol_forbids_ends_that_connection_with_1011() -> None:
    connection, socket, worker, manager = await connected()
    running = asyncio.create_task(connection.run())
    await worker.commands.get()
    connection.logged()
    connection.logged()  # a second ready
    await running
    assert (socket.closed_with, manager.sessions) == (1011, 0)


async def opened(worker: Silent) -> None:
    """Have the worker take the session."""
    opening = await worker.commands.get()
    assert isinstance(opening, link.Open)
    worker.report(link.Opened(opening.session))


class SlowToBegin(MemoryStore):
    """A store that writes no new session down before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_create = threading.Event()

    def create(self, *values: Any) -> Outcome:
        self.may_create.wait(10)
        return super().create(*values)


async def test_audio_is_heard_and_nothing_is_said_while_the_store_has_no_session() -> None:
    store = SlowToBegin()
    connection, socket, worker, _ = await connected(store=store)
    running = asyncio.create_task(connection.run())
    await opened(worker)
    socket.incoming.put_nowait(b"\0" * 640)
    assert isinstance(await worker.commands.get(), link.Audio)
    assert not socket.sent
    store.may_create.set()
    while not socket.sent:  # noqa: ASYNC110 - a list has no event
        await asyncio.sleep(0)
    ready = msgspec.json.decode(socket.sent[0], type=Ready)
    socket.abort()
    await running
    ticket = Ticket.read(ready.token)
    assert ticket is not None
    assert store.acquire(ticket.name, ticket.hash, b"new") is not None


async def test_who_is_cut_off_before_it_knows_its_token_is_forgotten() -> None:
    store = SlowToBegin()
    connection, socket, worker, manager = await connected(store=store)
    running = asyncio.create_task(connection.run())
    await opened(worker)
    socket.abort()
    await running
    store.may_create.set()
    await connection._keeper.close()
    assert (manager.sessions, connection._keeper.away, store._sessions) == (0, 0, {})


async def test_a_store_that_does_not_answer_ends_the_opening_by_name() -> None:
    store = SlowToBegin()
    connection, socket, worker, manager = await connected(store=store, start_timeout_s=0.05)
    running = asyncio.create_task(connection.run())
    await opened(worker)
    await running
    store.may_create.set()
    (error,) = socket.sent
    assert '"code":"internal"' in error and "store of sessions" in error
    assert (socket.closed_with, manager.sessions) == (1011, 0)


async def test_a_client_that_vanishes_ends_the_writer_too() -> None:
    connection, socket, worker, manager = await connected()
    running = asyncio.create_task(connection.run())
    await worker.commands.get()
    socket.abort()
    await running
    assert manager.sessions == 0


async def test_who_comes_back_while_the_store_is_slow_is_not_told_of_an_idle_connection() -> None:
    class Slow(MemoryStore):
        is_answering = threading.Event()

        def acquire(self, *values: Any) -> Kept | None:
            self.is_answering.wait()
            return super().acquire(*values)

    start = START.replace("}}", '},"resume":{"token":"x.y","have":[-1]}}')
    connection, socket, _, _ = await connected(start=start, store=Slow(), start_timeout_s=0.0)
    running = asyncio.create_task(connection.run())
    await asyncio.sleep(0)
    while connection._timer is not None:  # noqa: ASYNC110 - a timer has no event
        await asyncio.sleep(0)
    Slow.is_answering.set()
    await running
    (error,) = [text for text in socket.sent if '"type":"error"' in text]
    assert '"code":"resume_unknown"' in error
