"""Placement, admission, death and return of workers, with workers that the test plays."""

import asyncio
import random
from collections.abc import Mapping, Sequence

import pytest

from asr.events import Event, Progress
from server.lobby import Claim
from server.manager import CATCH_UP_S, FAULT, Manager
from server.metrics import Metrics
from server.place import PATIENTS, Rules
from server.wire.errors import OverCapacity
from server.worker import link
from server.worker.handle import OnExit, OnReport
from server.worker.heart import SILENT_TICKS

MODEL = link.Model("m", "f", (6, 1), 4, "fp32", "rnnt", 0, ("en",))


class FakeWorker:
    """Records commands; the test says what it reports."""

    def __init__(self, started: "asyncio.Queue[FakeWorker]") -> None:
        self._started = started
        self.commands: list[link.Command] = []
        self.queued_bytes = 0
        self.is_closed = self.is_killed = False
        self.report: OnReport = lambda _: None
        self.exit: OnExit = lambda _: None

    async def start(self, on_report: OnReport, on_exit: OnExit) -> None:
        self.report, self.exit = on_report, on_exit
        self._started.put_nowait(self)

    def send(self, command: link.Command) -> None:
        self.commands.append(command)

    def kill(self) -> None:
        self.is_killed = True

    async def close(self) -> None:
        self.is_closed = True


class Heard:
    """A session that remembers."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def opened(self) -> None:
        self.heard.append("opened")

    def stepped(self, events: Sequence[tuple[int, Event]], records: Mapping[int, bytes]) -> None:
        self.heard += events
        self.heard += records.items()

    def saved(self, report: link.Saved) -> None:
        self.heard.append(report)

    def failed(self, code: link.FailureCode, message: str) -> None:
        self.heard.append((code, message))

    def lost(self) -> None:
        self.heard.append("lost")

    def invited(self) -> None:
        self.heard.append("invited")


class House:
    """A manager with its fake workers and a clock that the test lets go."""

    def __init__(self, workers: int = 2, standby: int = 0) -> None:
        self.launched: list[FakeWorker] = []
        self.started: asyncio.Queue[FakeWorker] = asyncio.Queue()
        self.waits: list[float] = []
        self.go_on = asyncio.Event()
        self.manager = Manager(
            self.launch,
            workers,
            observer=Metrics(),
            rules=Rules(standby=standby),
            rng=random.Random(1),
            sleep=self.sleep,
        )

    def launch(self, _: int) -> FakeWorker:
        self.launched.append(FakeWorker(self.started))
        return self.launched[-1]

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.go_on.wait()

    async def open(self) -> "House":
        await self.manager.start()
        for worker in self.launched:
            worker.report(link.Ready(MODEL))
        return self

    def attach(self, session: int, channels: int = 1) -> Heard:
        heard = Heard()
        self.manager.attach(opening(session, channels), heard)
        return heard

    def streams(self) -> list[int]:
        return [place.streams for place in self.manager.status()]


def opening(session: int, channels: int) -> link.Open:
    return link.Open(
        session, "mulaw", 8_000, channels, 6, None, link.Turns(), partials="all", words=False
    )


async def test_sessions_are_spread_and_refused_when_all_is_full() -> None:
    house = await House().open()
    for session in range(8):
        house.attach(session)
        assert abs(house.streams()[0] - house.streams()[1]) <= 1
    with pytest.raises(OverCapacity) as caught:
        house.attach(8)
    assert caught.value.retry_after
    house.manager.release(3)
    house.attach(9)


async def test_two_channels_take_two_streams_of_one_worker() -> None:
    house = await House(workers=1).open()
    house.attach(1, channels=2)
    house.attach(2)
    with pytest.raises(OverCapacity):
        house.attach(3, channels=2)
    assert house.streams() == [3]


async def test_a_release_drops_the_session_once() -> None:
    house = await House(workers=1).open()
    house.attach(1)
    house.manager.release(1)
    house.manager.release(1)
    assert house.launched[0].commands[1:] == [link.Drop(1)]
    assert house.streams() == [0]


async def test_reports_reach_their_session_and_no_other() -> None:
    house = await House(workers=1).open()
    first, second = house.attach(1), house.attach(2)
    event = link.happened(1, 0, Progress(5))
    house.launched[0].report(link.Opened(1))
    record = link.Record(1, 0, b"state")
    house.launched[0].report(link.Step((event,), 6, 1, 0.1, 2, 2, (record,)))
    house.launched[0].report(link.Saved(1, 5, (b"all",)))
    house.launched[0].report(link.Failed(2, "bad_request", "no"))
    saved = link.Saved(1, 5, (b"all",))
    assert first.heard == ["opened", (0, Progress(5)), (0, b"state"), saved]
    assert second.heard == [("bad_request", "no")]
    assert house.manager.slots_in_use == 2
    assert house.streams() == [1]


async def test_a_fault_of_ours_in_one_session_ends_that_one_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = await House(1).open()
    faulty, other = house.attach(1), house.attach(2)

    def stepped(_: object, __: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(faulty, "stepped", stepped)
    events = tuple(link.happened(session, 0, Progress(80)) for session in (1, 2))
    house.launched[0].report(link.Step(events, 6, 2, 0.01, 2, 2))
    assert faulty.heard == [("internal", FAULT)]
    assert other.heard == [(0, Progress(80))]
    assert house.launched[0].commands[-1] == link.Drop(1)
    assert house.streams() == [1]


async def test_a_fault_of_ours_when_a_worker_dies_leaves_no_other_session_untold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = await House(workers=1).open()
    faulty, other = house.attach(1), house.attach(2)

    def lost() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(faulty, "lost", lost)
    house.launched[0].exit("killed")
    assert faulty.heard == [("internal", FAULT)]
    assert other.heard == ["lost"]


async def test_a_worker_that_dies_is_told_to_its_sessions_and_comes_back_after_a_while() -> None:
    house = await House(workers=1).open()
    heard = house.attach(1)
    house.launched[0].exit("an engine process ended by signal 9")
    assert heard.heard == ["lost"]
    assert house.manager.sessions == 0
    assert not house.manager.is_ready
    assert house.manager.status()[0].reason == "an engine process ended by signal 9"
    with pytest.raises(OverCapacity, match="no engine is ready"):
        house.attach(2)
    house.go_on.set()
    for number in range(2):
        assert await house.started.get() is house.launched[number]
    house.launched[1].report(link.Ready(MODEL))
    await house.manager.ready()
    house.attach(2)
    assert house.launched[0].is_closed


async def test_a_worker_that_dies_again_and_again_waits_longer_each_time() -> None:
    house = await House(workers=1).open()
    house.go_on.set()
    for _ in range(8):
        worker = await house.started.get()
        worker.exit("it ended")
    await house.started.get()
    assert house.waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


async def test_a_worker_without_a_model_is_not_started_again() -> None:
    house = House(workers=1)
    await house.manager.start()
    ready = asyncio.create_task(house.manager.ready())
    await asyncio.sleep(0)
    house.launched[0].report(link.Unfit("there is no such model"))
    house.launched[0].exit("an engine process ended with status 2")
    with pytest.raises(RuntimeError, match="there is no such model"):
        await ready
    assert house.waits == []


async def test_no_session_is_placed_where_the_queue_is_long() -> None:
    house = await House().open()
    house.launched[0].queued_bytes = 1 << 30
    for session in range(4):
        house.attach(session)
    assert house.streams() == [0, 4]


async def test_closing_ends_every_worker_and_waiting_restarts() -> None:
    house = await House().open()
    house.launched[0].exit("it ended")
    await asyncio.sleep(0)
    await house.manager.close()
    assert [worker.is_closed for worker in house.launched] == [True, True]
    assert len(house.launched) == 2


async def test_a_standby_takes_no_new_session_and_replaces_a_worker_that_died() -> None:
    house = await House(workers=1, standby=1).open()
    for session in range(4):
        house.attach(session)
    assert house.streams() == [4, 0]
    assert not house.manager.has_room
    house.launched[0].exit("it ended")
    house.manager.attach(opening(9, 1), Heard(), Claim.RESCUE)
    house.attach(10)  # it is a worker like any other now
    assert house.streams() == [0, 2]


async def test_sessions_that_come_back_have_the_room_before_new_ones() -> None:
    house = await House(workers=1).open()
    for session in range(4):
        house.attach(session)
    waiting = Heard()
    with pytest.raises(OverCapacity):
        house.manager.attach(opening(9, 1), waiting, Claim.RESCUE)
    house.manager.await_room(waiting)
    house.manager.release(0)
    assert waiting.heard == ["invited"]
    house.manager.await_room(waiting)
    with pytest.raises(OverCapacity):
        house.attach(10)
    house.manager.wait_no_more(waiting)
    house.attach(10)


async def test_who_may_wait_takes_slots_a_few_at_a_time_and_no_share_of_the_engine() -> None:
    house = await House(workers=1).open()
    place = house.manager._places[0]
    for session in range(PATIENTS):
        house.manager.attach(opening(session, 1), Heard(), Claim.AIR)
    assert (place.streams, place.load.total()) == (PATIENTS, 0)
    with pytest.raises(OverCapacity):
        house.manager.attach(opening(9, 1), Heard(), Claim.AIR)
    house.manager.hurry(0)
    house.manager.hurry(0)
    assert (place.streams, place.load.total()) == (PATIENTS, 1)
    house.manager.attach(opening(9, 1), Heard(), Claim.AIR)
    for session in (*range(PATIENTS), 9):
        house.manager.release(session)
    assert (place.streams, place.load.total(), place.patient) == (0, 0, {})


async def test_a_worker_that_was_well_is_started_again_at_once() -> None:
    house = await House(workers=1).open()
    house.manager._places[0].ready_s -= 60
    house.launched[0].exit("it ended")
    await asyncio.sleep(0)
    assert house.waits == [0.0]


async def test_a_worker_whose_sessions_catch_up_elsewhere_is_started_when_they_have() -> None:
    house = await House(workers=1, standby=1).open()
    for place in house.manager._places:
        place.ready_s -= 60
    house.attach(1)
    house.launched[0].exit("it ended")
    await asyncio.sleep(0)
    assert house.waits == [CATCH_UP_S]


async def test_a_worker_that_hangs_is_killed_and_its_sessions_are_told_once() -> None:
    house = await House(workers=1).open()
    worker, heard = house.launched[0], house.attach(1)
    worker.report(link.Pulse("working", 1))
    killed = list[bool]()
    for _ in range(SILENT_TICKS + 2):
        house.manager.tick()
        killed.append(worker.is_killed)
    assert killed == [False] * SILENT_TICKS + [True] * 2
    assert heard.heard == ["lost"]
    worker.report(link.Step((), 6, 1, 0.1, 4, 1))  # what it had said before
    assert house.manager.slots_in_use == 0
    assert "no sign of life" in house.manager.status()[0].reason
    house.go_on.set()
    await house.started.get()
    assert (await house.started.get()) is house.launched[1]
    house.launched[1].report(link.Ready(MODEL))
    house.manager.tick()
    house.attach(2)
