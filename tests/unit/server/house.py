"""Keeper, manager and real engine hosts of a gateway that run when a test says so."""

import asyncio
from collections.abc import Callable

from asr.events import Event, Final
from asr.interface import StreamingEngine
from asr.scripted import ScriptedEngine
from server.keeper import Holder, Keeper
from server.manager import Manager
from server.metrics import Metrics
from server.place import Rules
from server.session import Session
from server.store.base import Store
from server.store.memory import MemoryStore
from server.ticket import Ticket
from server.worker import link
from server.worker.handle import OnExit, OnReport
from server.worker.loop import Host


class Worker:
    """An engine host that runs when the test says so, and can be killed between any two steps."""

    queued_bytes = 0

    def __init__(self, engine: StreamingEngine) -> None:
        self.engine = engine
        self.inbox = list[link.Command]()
        self.host: Host | None = None
        self.is_dead = False

    async def start(self, on_report: OnReport, on_exit: OnExit) -> None:
        self.report, self.exit = on_report, on_exit
        self.host = Host(self.engine, self, clock=lambda: 0.0)  # steps cost what the engine says
        self.send_ready()

    def send_ready(self) -> None:
        assert self.host is not None
        self.report(link.Ready(self.host._model()))

    # the host's mailbox and the manager's handle have one name for two things
    def send(self, value: link.Command | link.Report) -> None:
        if isinstance(value, link.Report):
            if not self.is_dead:
                self.report(value)
        else:
            self.inbox.append(value)

    def receive(self, *, may_wait: bool) -> list[link.Command]:
        raise AssertionError

    def run(self, turns: int = 1_000) -> None:
        while turns and not self.is_dead and self.host is not None:
            commands, self.inbox = self.inbox, []
            if not commands and not self.host._recognizer.is_ready():
                return
            self.host.turn(commands)
            turns -= 1

    def kill(self) -> None:
        self.is_dead = True
        self.exit("killed")

    async def close(self) -> None: ...


class Client(Holder):
    """A session as a connection has it; remembers what it would have said."""

    def __init__(self) -> None:
        self.events = list[tuple[int, Event]]()
        self.notes = list[object]()
        self.safe = 0
        self.logged_at: int | None = None
        """Events before it could have come back."""

    def opened(self) -> None:
        self.notes.append("opened")

    def happened(self, channel: int, event: Event) -> None:
        self.events.append((channel, event))

    def failed(self, code: link.FailureCode, message: str) -> None:
        self.notes.append((code, message))

    def kept(self, at: int) -> None:
        assert at >= self.safe
        self.safe = at

    def surrender(self) -> Session:
        self.notes.append("surrendered")
        return None  # type: ignore[return-value]  # the keeper does not look at it

    def fenced(self) -> None:
        self.notes.append("fenced")

    def logged(self) -> None:
        assert self.logged_at is None
        self.logged_at = len(self.events)

    def unlogged(self) -> None:
        self.notes.append("unlogged")

    def finals(self, channel: int = 0) -> list[Final]:
        found = [e for c, e in self.events if c == channel and isinstance(e, Final)]
        assert [f.id for f in found] == list(range(len(found))), "lost or repeated"
        return found


class House:
    """Keeper, manager and workers of one gateway."""

    def __init__(
        self,
        store: Store | None = None,
        workers: int = 1,
        slots: int = 4,
        *,
        rest_after_s: float = 0.0,
        make: Callable[[int], StreamingEngine] | None = None,
        rules: Rules | None = None,
    ) -> None:
        self.workers = list[Worker]()
        self.slots = slots
        self.make = make or (lambda slots: ScriptedEngine(slots=slots, delay_frames=1))
        self.manager = Manager(
            self._launch, workers, observer=Metrics(), rules=rules, sleep=self._sleep
        )
        self.store = store or MemoryStore()
        self.keeper = Keeper(self.manager, self.store, rest_after_s=rest_after_s)

    def _launch(self, _: int) -> Worker:
        self.workers.append(Worker(self.make(self.slots)))
        return self.workers[-1]

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    async def open(self) -> "House":
        await self.manager.start()
        return self

    def begin(self, client: Client, number: int = 1, *, channels: int = 1) -> Ticket:
        self.keeper.attach(opening(number, channels), client)
        self.run()
        ticket = Ticket.new(f"s{number}")
        self.keeper.log(number, ticket, b"{}", client)
        return ticket

    def run(self, turns: int = 1_000) -> None:
        for worker in list(self.workers):
            worker.run(turns)

    async def settle(self) -> None:
        """Let engines, store and restarts do all they have to do."""
        for _ in range(12):
            self.run()
            await self.settle_store()
            await asyncio.sleep(0)

    async def settle_store(self) -> None:
        """Let the store do what it was asked to."""
        if self.keeper._clerk is not None:
            await self.keeper._clerk.submit(lambda _: None)

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.is_dead]

    @property
    def slots_in_use(self) -> int:
        return sum(worker.engine.slots_in_use for worker in self.living)


def opening(number: int, channels: int = 1) -> link.Open:
    turns = link.Turns(silence_ms=300, eager_ms=160)
    return link.Open(
        number, "pcm_f32le", 16_000, channels, 1, None, turns, partials="all", words=True
    )
