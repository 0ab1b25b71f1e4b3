"""Devices, headroom and money from what a step costs."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clients.plan.sizing import (
    LAG_S,
    MOST_LOAD,
    Demand,
    Device,
    PlanError,
    Recovery,
    devices_for,
    lag_s,
    mean_share,
    plan,
    recovery_s,
    streams_of,
)

DEVICE = Device(a_s=0.02, b_s=0.0035, price=0.5)
DEVICES = st.builds(
    Device, a_s=st.floats(0, 0.05), b_s=st.floats(0.0001, 0.02), price=st.floats(0, 9)
)


@given(DEVICES, st.sampled_from([0.08, 0.16, 0.56, 1.12]))
def test_a_full_device_keeps_its_lag_and_one_stream_more_breaks_it(
    device: Device, chunk_s: float
) -> None:
    try:
        streams = streams_of(device, chunk_s)
    except PlanError:
        assume(False)
    limit = min(chunk_s, LAG_S)
    assert lag_s(device, streams, chunk_s) <= limit * 1.0001
    more = streams + 1
    assert lag_s(device, more, chunk_s) > limit or more * device.b_s / chunk_s > MOST_LOAD


def test_a_step_that_is_too_long_for_its_class_is_said() -> None:
    with pytest.raises(PlanError, match="too long"):
        streams_of(Device(a_s=0.15, b_s=0.01), 0.56)


@given(st.floats(1, 1e5), st.integers(1, 500))
def test_what_is_left_when_one_device_dies_holds_all_and_no_device_is_idle(
    streams: float, per_device: int
) -> None:
    devices = devices_for(streams, per_device)
    load = streams / (devices * per_device)
    assert load < (devices - 1) / devices + 1e-9
    assert streams / ((devices - 1) * per_device) >= (devices - 2) / (devices - 1) - 1e-9


@given(st.floats(0.01, 0.99), st.integers(2, 50))
def test_the_death_of_one_is_recovered_from_below_the_condition_and_never_above(
    load: float, devices: int
) -> None:
    is_recovered = recovery_s(load, devices, Recovery()) < math.inf
    if abs(load - (devices - 1) / devices) > 1e-9:
        assert is_recovered == (load < (devices - 1) / devices)


def test_recovery_is_as_long_as_the_reference_says() -> None:
    slow = Recovery(snapshot_s=30, replay_gain=10, detection_s=3)
    assert recovery_s(0.7, 4, slow) == pytest.approx(15.75)
    assert recovery_s(0.7, 10, slow) == pytest.approx(1.575)


def test_a_plan_counts_the_peak_and_shares_its_cost_over_the_day() -> None:
    demand = Demand(sessions=1_000, chunk_s=0.56, shape="office", burst=0.1)
    found = plan(DEVICE, demand)
    per = streams_of(DEVICE, 0.56)
    assert found.devices == devices_for(1_100, per)
    assert found.cost_per_hour == found.devices * 0.5
    audio_hours = 1_000 * mean_share("office")
    assert found.cost_per_audio_hour == pytest.approx(found.cost_per_hour / audio_hours)
    assert found.load < found.most_load
    assert mean_share("flat") == 1


@pytest.mark.parametrize(
    "wrong", [{"sessions": 0}, {"chunk_s": 0}, {"burst": -1}, {"shape": "round"}]
)
def test_a_demand_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        Demand(**({"sessions": 1, "chunk_s": 0.56} | wrong))  # type: ignore[arg-type]
