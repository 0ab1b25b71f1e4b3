"""Sessions are admitted as long as nobody's words come late, by what steps cost while running."""

from dataclasses import replace
from typing import ClassVar

import msgspec
import pytest

from asr.interface import StepStats
from asr.scripted import ScriptedEngine, utter
from server.cost import MIN_STEPS
from server.place import Rules
from server.wire.errors import OverCapacity
from server.worker import link
from tests.unit.server.house import Client, House, opening

WORDS = utter("please thank you now we are here and there it is good")
PACKET = 5_120
"""Two chunks of look-ahead 1."""


class CostlyEngine(ScriptedEngine):
    """Steps that would take ``a + b * batch`` seconds, by look-ahead."""

    cost: ClassVar = {1: (0.010, 0.002), 13: (0.02, 0.005)}

    @property
    def last_step(self) -> StepStats | None:
        stats = super().last_step
        if stats is None or stats.seconds:
            return stats
        a, b = self.cost[stats.look_ahead]
        self._last_step = replace(stats, seconds=a + b * stats.batch)
        return self._last_step


async def costly(workers: int = 1, *, slots: int = 200, is_by_cost: bool = True) -> House:
    rules = Rules(is_by_cost=is_by_cost)
    return await House(workers=workers, slots=slots, make=_engine, rules=rules).open()


def _engine(slots: int) -> CostlyEngine:
    return CostlyEngine(slots=slots)


def attach(house: House, number: int, look_ahead: int = 1, channels: int = 1) -> None:
    one = msgspec.structs.replace(opening(number, channels), look_ahead=look_ahead)
    house.keeper.attach(one, Client())
    house.run()


def talk(house: House, numbers: range, packets: int = 6) -> None:
    """Let sessions send some audio, all at once."""
    for turn in range(packets):
        begin = turn * PACKET % (len(WORDS) - PACKET)
        packet = WORDS[begin : begin + PACKET].tobytes()
        for number in numbers:
            house.keeper.send(link.Audio(number, packet, 0.0), number)
        house.run()


async def fill(house: House, look_ahead: int = 1, most: int = 170) -> int:
    """Open sessions that talk until one is refused; return how many there are."""
    for number in range(most):
        if pace := house.manager._pace:  # a second passes
            for _ in range(10):
                pace.tick(number)
        try:
            attach(house, number, look_ahead)
        except OverCapacity:
            return number
        talk(house, range(max(0, number - 20), number + 1), 1 if number else MIN_STEPS)
    return most


async def test_sessions_are_refused_when_one_more_would_make_the_others_late() -> None:
    house = await costly()
    served = await fill(house)
    costs = house.manager._places[0].costs
    constant, slope = costs.line(1) or (0.0, 0.0)
    assert slope == pytest.approx(0.002, rel=0.05)
    for streams, rel in ((1, 0.1), (10, 0.05), (served, 0.02)):  # the prior pulls at the constant
        assert constant + slope * streams == pytest.approx(0.010 + 0.002 * streams, rel=rel)
    assert costs.allows({1: served})
    assert not costs.allows({1: served + 1})
    assert 40 < served < 70  # the engine is busy all the time with 80
    with pytest.raises(OverCapacity) as caught:
        attach(house, 999)
    assert caught.value.retry_after
    house.keeper.release(0)
    attach(house, 999)


async def test_where_slots_alone_count_all_of_them_are_given() -> None:
    assert await fill(await costly(slots=100, is_by_cost=False), most=90) == 88


async def test_a_longer_chunk_still_has_room() -> None:
    house = await costly()
    attach(house, 500, look_ahead=13)
    talk(house, range(500, 501), 7 * MIN_STEPS)
    house.keeper.release(500)
    served = await fill(house)
    attach(house, 500, look_ahead=13)
    assert house.manager.sessions == served + 1


async def test_a_session_that_comes_back_is_taken_though_others_will_be_late() -> None:
    house = await costly(workers=2)
    served = await fill(house)
    house.manager._restart = _never  # type: ignore[method-assign]
    house.living[0].kill()
    assert all(house.keeper.is_served(number) for number in range(served))
    with pytest.raises(OverCapacity):
        attach(house, 999)


async def _never(place: object, backoff_s: float) -> None: ...


async def test_an_empty_server_takes_a_session_however_late_the_one_before_was() -> None:
    house = await House(slots=9).open()
    attach(house, 1)
    for _ in range(20):
        house.keeper.lagged(1, 5.0)
    with pytest.raises(OverCapacity):
        attach(house, 2)
    house.keeper.release(1)
    attach(house, 3)


async def test_a_slow_engine_serves_one_session_rather_than_none() -> None:
    class SlowEngine(CostlyEngine):
        cost: ClassVar = {1: (3.0, 1.0)}

    house = await House(slots=9, make=lambda slots: SlowEngine(slots=slots)).open()
    attach(house, 1)
    talk(house, range(1, 2), MIN_STEPS + 2)
    with pytest.raises(OverCapacity):
        attach(house, 2)
    house.keeper.release(1)
    attach(house, 3)


async def test_of_two_workers_the_one_with_less_to_do_is_taken() -> None:
    house = await costly(workers=2)
    first, second = house.manager._places
    for number in range(20):
        attach(house, number, look_ahead=1 if number % 2 else 13)
    talk(house, range(20), 40)
    assert abs(first.busy() - second.busy()) < 0.15
    for _ in range(40):
        first.costs.heard(link.Step((), 1, 4, 0.09, 4, 4, frames=2))  # this one became slow
    before = first.streams
    for number in range(30, 36):
        attach(house, number)
    assert first.streams == before
