"""Which of several devices take a session: by what an hour of audio costs there."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.lobby import Claim
from server.manager import Listener, Manager
from server.metrics import Metrics
from server.place import PATIENTS, Place, preferred
from server.wire.errors import OverCapacity
from server.worker import link
from server.worker.engines import EngineSpec
from server.worker.handle import OnExit, OnReport

GPU, CPU = link.Device("cuda:0", 1.0), link.Device("cpu", 4.0)
WARM = 64
"""Steps after which a cost is known."""


@dataclass
class Worker:
    """Takes every command."""

    queued_bytes: int = 0
    is_killed: bool = False

    async def start(self, on_report: OnReport, on_exit: OnExit) -> None:
        self.report, self.exit = on_report, on_exit

    def send(self, command: link.Command) -> None: ...

    def kill(self) -> None: ...

    async def close(self) -> None: ...


class Session:
    """Listens to nothing."""

    def invited(self) -> None: ...

    def lost(self) -> None: ...


@dataclass
class Fleet:
    """Workers on devices of all sorts, four streams each unless said."""

    devices: list[link.Device]
    streams: int = 4
    numbers: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manager = Manager(
            lambda _: Worker(), len(self.devices), observer=Metrics(), rng=random.Random(1)
        )

    async def open(self) -> "Fleet":
        for place, device in zip(self.manager._places, self.devices, strict=True):
            await self.manager._start(place)
            model = link.Model("m", "f", (6, 1), self.streams, "fp32", "rnnt", 0, ("en",))
            cast(Worker, place.worker).report(link.Ready(model, device))
        return self

    def attach(self, session: int, claim: Claim = Claim.NEW) -> link.Device:
        opening = opening_of(session)
        self.manager.attach(opening, cast(Listener, Session()), claim)
        return self.manager._home[session].device

    def step(self, worker: int, seconds: float) -> None:
        """A worker measures what a step of one stream takes."""
        steps = link.Step((), 6, 1, seconds, 1, 1, frames=7)
        for _ in range(WARM):
            self.manager._places[worker].costs.heard(steps)


def opening_of(session: int, channels: int = 1) -> link.Open:
    return link.Open(session, "mulaw", 8_000, channels, 6, None, link.Turns(), "all", words=False)


async def test_the_processor_takes_what_is_too_much_for_the_gpu() -> None:
    fleet = await Fleet([CPU, GPU]).open()
    assert [fleet.attach(n).name for n in range(8)] == ["cuda:0"] * 4 + ["cpu"] * 4
    with pytest.raises(OverCapacity):
        fleet.attach(8)
    fleet.manager.release(0)
    assert fleet.attach(9).name == "cuda:0"


async def test_a_cheap_worker_that_would_be_late_is_passed_over_though_it_has_slots() -> None:
    fleet = await Fleet([CPU, GPU], streams=64).open()
    fleet.step(1, seconds=0.15)  # two streams of it are late: the limit is 0.2 s
    assert fleet.attach(1).name == "cuda:0"
    assert fleet.attach(2).name == "cpu"


async def test_a_session_whose_worker_died_goes_where_it_is_in_time_before_where_it_is_cheap() -> (
    None
):
    fleet = await Fleet([CPU, GPU], streams=64).open()
    fleet.step(1, seconds=0.15)
    fleet.attach(1)
    assert fleet.attach(2, Claim.RESCUE).name == "cpu"
    fleet.step(0, seconds=0.15)
    assert fleet.attach(3, Claim.RESCUE).name in ("cpu", "cuda:0")  # late is better than lost


async def test_what_a_session_at_rest_gathered_is_decoded_on_the_dear_device() -> None:
    fleet = await Fleet([CPU, GPU]).open()
    assert fleet.attach(1, Claim.AIR).name == "cpu"
    assert fleet.attach(2, Claim.RETURN).name == "cuda:0"


async def test_workers_of_one_cost_share_sessions_evenly() -> None:
    fleet = await Fleet([GPU, GPU, CPU]).open()
    for session in range(6):
        fleet.attach(session)
    assert [place.streams for place in fleet.manager.status()] == [3, 3, 0]


async def test_status_and_figures_tell_device_and_cost_of_workers_that_are_there() -> None:
    fleet = Fleet([GPU, CPU])
    assert "audio_hour_cost" not in fleet.manager.status()[0].as_told()
    await fleet.open()
    fleet.attach(1)
    status = fleet.manager.status()
    assert status[1].as_told() == {
        "worker": 1, "state": "ready", "reason": "", "device": "cpu", "audio_hour_cost": 4.0
    }  # fmt: skip
    figures = Metrics().render(status, [], connections=0).decode()
    assert 'rivulet_worker_audio_hour_cost{device="cuda:0",worker="0"} 1.0' in figures
    assert 'rivulet_worker_streams{worker="0"} 1.0' in figures
    assert 'rivulet_worker_streams{worker="1"} 0.0' in figures


def test_a_cost_that_nobody_states_is_that_of_the_kind() -> None:
    assert EngineSpec(device="cuda:1").cost < EngineSpec(device="cpu:0").cost
    assert EngineSpec(device="cuda:1", audio_hour_cost=0.0).cost == 0.0


COSTS = st.sampled_from([0.5, 1.0, 4.0])
MOVES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([Claim.NEW, Claim.RETURN, Claim.AIR]), st.integers(1, 2)),
        st.tuples(st.none(), st.integers(0, 30)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(costs=st.lists(COSTS, min_size=1, max_size=5), streams=st.integers(2, 6), moves=MOVES)
def test_nobody_is_on_a_device_while_a_better_one_has_room(
    costs: list[float], streams: int, moves: list[tuple[Claim | None, int]]
) -> None:
    async def play() -> None:
        devices = [link.Device("cpu", cost) for cost in costs]
        fleet = await Fleet(devices, streams).open()
        manager, live = fleet.manager, list[int]()
        for session, (claim, number) in enumerate(moves):
            if claim is None:
                if live:
                    manager.release(live.pop(number % len(live)))
                continue
            may_come = {
                place.number
                for place in manager._places
                if place.free() >= number
                and (claim is not Claim.AIR or len(place.patient) < PATIENTS)
            }
            try:
                manager.attach(opening_of(session, number), cast(Listener, Session()), claim)
            except OverCapacity:
                assert not may_come
                continue
            live.append(session)
            taken = manager._home[session].device.cost
            had_room = [costs[place] for place in may_come]
            assert taken == (max(had_room) if claim is Claim.AIR else min(had_room))

    asyncio.run(play())


@given(costs=st.lists(COSTS, max_size=6), claim=st.sampled_from(Claim))
def test_those_preferred_are_among_those_asked_and_of_one_cost(
    costs: list[float], claim: Claim
) -> None:
    places = [Place(n, Worker(), device=link.Device("cpu", cost)) for n, cost in enumerate(costs)]
    found = preferred(places, opening_of(1), claim)
    assert [place for place in places if place in found] == found
    assert len({place.device.cost for place in found}) <= 1
    if claim is not Claim.RESCUE:
        assert bool(found) == bool(places)
