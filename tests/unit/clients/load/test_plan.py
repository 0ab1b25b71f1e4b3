"""The traffic of a run, fixed before its first packet."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.load.plan import RATE_HZ, Call, Lengths, Traffic, plan, quiet_plan, spoken_s

LENGTHS = Lengths(staying=(40 * RATE_HZ,), brief=(3 * RATE_HZ, 5 * RATE_HZ))
traffics = st.builds(
    Traffic,
    seconds=st.just(30.0),
    churn=st.floats(0, 1),
    latencies=st.sampled_from([("low",), ("low", "balanced"), ("80", "low", "accurate")]),
    packets_ms=st.sampled_from([(20,), (20, 40, 100), (80,)]),
    jitter_ms=st.floats(0, 200),
    seed=st.integers(0, 5),
)


@settings(deadline=None, max_examples=50)
@given(traffics, st.integers(1, 60))
def test_every_seat_has_one_caller_at_a_time_from_the_ramp_to_the_end(
    traffic: Traffic, streams: int
) -> None:
    seats = plan(traffic, streams, LENGTHS)
    assert len(seats) == streams
    for seat in seats:
        assert 0 <= seat[0].at_s <= traffic.ramp_s
        for before, after in pairwise(seat):
            assert before.end_s < after.at_s
        assert seat[-1].end_s >= traffic.total_s - 1.5


@settings(deadline=None, max_examples=50)
@given(traffics, st.integers(1, 60))
def test_a_call_is_whole_when_it_says_all_that_its_voice_says(
    traffic: Traffic, streams: int
) -> None:
    lengths = (*LENGTHS.staying, *LENGTHS.brief)
    for call in (call for seat in plan(traffic, streams, LENGTHS) for call in seat):
        assert call.is_whole == (call.samples == lengths[call.voice])
        assert 0 < call.samples <= lengths[call.voice]


@settings(deadline=None, max_examples=50)
@given(traffics, st.integers(1, 60))
def test_the_share_of_churn_and_the_mix_of_classes_are_as_asked(
    traffic: Traffic, streams: int
) -> None:
    seats = plan(traffic, streams, LENGTHS)
    assert sum(seat[0].voice > 0 for seat in seats) == round(traffic.churn * streams)
    classes = Counter(seat[0].latency for seat in seats)
    assert max(classes.values()) - min(classes[name] for name in traffic.latencies) <= 1


@settings(deadline=None, max_examples=50)
@given(traffics, st.integers(1, 20))
def test_packets_are_due_in_order_whatever_the_jitter(traffic: Traffic, streams: int) -> None:
    for seat in plan(traffic, streams, LENGTHS):
        schedule = seat[0].schedule(100.0)
        due = [schedule.due_s(number) for number in range(schedule.packets)]
        assert due == sorted(due)
        spoken = [min((n + 1) * schedule.packet_samples, schedule.total_samples) for n in range(3)]
        for number, samples in enumerate(spoken):
            late = due[number] - (schedule.started_s + samples / RATE_HZ)
            assert -1e-9 <= late <= min(traffic.jitter_ms, seat[0].packet_ms) / 1000 + 1e-9


def test_the_same_seed_makes_the_same_traffic_and_another_seed_another() -> None:
    assert plan(Traffic(), 10, LENGTHS) == plan(Traffic(), 10, LENGTHS)
    assert plan(Traffic(seed=1), 10, LENGTHS) != plan(Traffic(), 10, LENGTHS)


def test_starts_are_spread_over_the_ramp_and_not_aligned_to_chunks() -> None:
    starts = sorted(seat[0].at_s for seat in plan(Traffic(ramp_s=4.0), 100, LENGTHS))
    assert all(after - before < 0.081 for before, after in pairwise(starts))
    phases = Counter(int(start % 0.56 / 0.08) for start in starts)
    assert len(phases) == 7


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.sampled_from([("low",), ("low", "balanced")]))
def test_the_quiet_run_plays_each_voice_once_in_each_class(
    at_once: int, latencies: tuple[str, ...]
) -> None:
    seats = quiet_plan(Traffic(latencies=latencies), LENGTHS, at_once=at_once)
    played = Counter((call.voice, call.latency) for seat in seats for call in seat)
    assert set(played.values()) == {1}
    assert len(played) == 3 * len(latencies)
    assert len(seats) <= at_once
    assert all(call.is_whole for seat in seats for call in seat)
    for seat in seats:
        assert all(a.end_s < b.at_s for a, b in pairwise(seat))


def test_audio_inside_a_window_is_counted_once() -> None:
    call = Call(10.0, 0, 4 * RATE_HZ, True, 80, "low")
    assert spoken_s([(call,)], (0.0, 12.0)) == pytest.approx(2.0)
    assert spoken_s([(call,)], (11.0, 100.0)) == pytest.approx(3.0)
    assert spoken_s([(call,)], (20.0, 30.0)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"churn": 1.5},
        {"packets_ms": (5,)},
        {"packets_ms": ()},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"jitter_ms": float("nan")},
    ],
)
def test_traffic_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"churn|packets|length|jitter"):
        Traffic(**wrong)  # type: ignore[arg-type]
