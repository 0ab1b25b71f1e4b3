"""Measured step cost, held against a simulation of the scheduler."""

import heapq
import random
from collections.abc import Mapping

import pytest

from asr.schedule import Limits, Ready, plan_step
from server.cost import MAX_ROWS, MIN_STEPS, Costs, StepCost, period_s
from server.worker import link


def step(look_ahead: int, batch: int, seconds: float, *, chunks: int = 1) -> link.Step:
    frames = chunks * (look_ahead + 1)
    return link.Step((), look_ahead, batch, seconds, batch, batch, frames=frames)


def known(costs: Mapping[int, tuple[float, float]]) -> Costs:
    """What is known of a worker whose steps cost exactly this."""
    found, rng = Costs(), random.Random(1)
    for look_ahead, (a, b) in costs.items():
        for _ in range(300):
            batch = rng.randint(1, MAX_ROWS)
            found.heard(step(look_ahead, batch, a + b * batch))
    return found


def simulated_lag_s(
    streams: Mapping[int, int], costs: Mapping[int, tuple[float, float]], seconds: float = 12.0
) -> float:
    """The 99th percentile of the chunk lag of the most urgent streams, random phases."""
    rng, limits = random.Random(3), Limits()
    looks = [look for look, count in streams.items() for _ in range(count)]
    arrivals = [(rng.uniform(0, period_s(look)), n) for n, look in enumerate(looks)]
    heapq.heapify(arrivals)
    waiting = dict[int, list[float]]()
    now, lags = 0.0, list[float]()
    while now < seconds:
        while arrivals[0][0] <= now:
            at, n = heapq.heappop(arrivals)
            waiting.setdefault(n, []).append(at)
            heapq.heappush(arrivals, (at + period_s(looks[n]), n))
        ready = [Ready(n, looks[n], len(w), w[0] + period_s(looks[n])) for n, w in waiting.items()]
        plan = plan_step(ready, limits)
        if plan is None:
            now = arrivals[0][0]
            continue
        a, b = costs[plan.look_ahead]
        now += a + b * len(plan.streams) * plan.chunks
        for n in plan.streams:
            done, left = waiting[n][: plan.chunks], waiting[n][plan.chunks :]
            waiting[n] = left
            if not left:
                del waiting[n]
            if looks[n] == min(looks) and now > seconds / 4:
                lags += [now - at for at in done]
    return sorted(lags)[len(lags) * 99 // 100]


@pytest.mark.parametrize(
    ("look_ahead", "cost"),
    [(0, (0.005, 0.001)), (1, (0.010, 0.002)), (6, (0.020, 0.002)), (13, (0.030, 0.006))],
)
def test_as_many_are_admitted_as_the_scheduler_bears_and_no_more(
    look_ahead: int, cost: tuple[float, float]
) -> None:
    costs, limit = known({look_ahead: cost}), min(0.2, period_s(look_ahead))
    admitted = 1
    while costs.allows({look_ahead: admitted + 1}):
        admitted += 1
    lag_s = simulated_lag_s({look_ahead: admitted}, {look_ahead: cost})
    assert lag_s <= limit
    assert lag_s == pytest.approx(costs.lag_s({look_ahead: admitted}), rel=0.25)
    most = admitted
    while simulated_lag_s({look_ahead: most + 4}, {look_ahead: cost}, 6.0) <= limit:
        most += 4
    assert admitted >= 0.8 * most


def test_with_two_classes_the_urgent_one_stays_in_time() -> None:
    cost = {1: (0.008, 0.0015), 6: (0.012, 0.0025)}
    costs, each = known(cost), 1
    while costs.allows({1: each + 1, 6: each + 1}):
        each += 1
    assert each > 30
    assert simulated_lag_s({1: each, 6: each}, cost) <= period_s(1) * 1.05


def test_a_fit_finds_the_line_behind_noisy_steps() -> None:
    cost, rng = StepCost(), random.Random(2)
    for number in range(400):
        batch = rng.randint(1, 24)
        seconds = (0.010 + 0.002 * batch) * rng.uniform(0.95, 1.05)
        cost.add(batch, seconds if number % 20 else 1.0)  # now and then somebody else has the core
    a, b = cost.line()
    assert b == pytest.approx(0.002, rel=0.4)
    assert cost.of(12) == pytest.approx(0.034, rel=0.2)
    assert a >= 0


def test_a_device_that_becomes_slower_is_noticed() -> None:
    cost, rng = StepCost(), random.Random(2)
    for factor in (1, 3):
        for _ in range(500):
            batch = rng.randint(1, 24)
            cost.add(batch, factor * (0.010 + 0.002 * batch))
    assert cost.of(12) == pytest.approx(3 * 0.034, rel=0.1)


def test_nobody_is_refused_while_nothing_is_known() -> None:
    costs = Costs()
    for _ in range(MIN_STEPS - 1):
        costs.heard(step(6, 1, 10.0))
    assert costs.allows({6: 1_000})
    costs.heard(step(6, 1, 10.0))
    assert not costs.allows({6: 1_000})


def test_lone_streams_do_not_make_a_device_look_full() -> None:
    costs = Costs()
    for _ in range(100):
        costs.heard(step(6, 1, 0.012))
    assert costs.allows({6: 40})


def test_passes_that_catch_up_are_no_measure_of_live_streams() -> None:
    costs = known({6: (0.01, 0.001)})
    before = costs.line(6)
    for _ in range(100):
        costs.heard(step(6, 1, 5.0, chunks=8))
    assert costs.line(6) == before


def test_an_unknown_class_is_judged_by_the_nearest_known_one() -> None:
    costs = known({1: (0.01, 0.002)})
    assert costs.line(6) == pytest.approx((0.01, 0.007), rel=0.05)
    assert Costs().line(6) is None


def test_a_scripted_engine_costs_nothing() -> None:
    assert known({1: (0.0, 0.0)}).allows({1: 100_000})
