"""Chunk lag against an absolute schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.lag import LagMeter, Schedule, percentile

RATE, PACKET, CHUNK = 16_000, 1_280, 8_960


def schedule(total: int = 10 * CHUNK) -> Schedule:
    return Schedule(started_s=100.0, rate=RATE, packet_samples=PACKET, total_samples=total)


def test_lag_counts_from_the_due_time_of_the_packet_that_completes_the_chunk() -> None:
    meter = LagMeter(schedule(), CHUNK)
    heard = CHUNK - 1_080  # in the packet that is due at 560 ms
    meter.ack(heard, now=100.0 + 0.560 + 0.025)
    assert meter.lags_s == pytest.approx([0.025])


def test_an_ack_of_several_chunks_counts_for_each_from_its_own_due_time() -> None:
    meter = LagMeter(schedule(), CHUNK)
    meter.ack(CHUNK - 1_080, now=100.585)
    meter.ack(3 * CHUNK - 1_080, now=101.7)
    assert meter.lags_s == pytest.approx([0.025, 0.58, 0.02])


def test_an_ack_without_progress_counts_nothing() -> None:
    meter = LagMeter(schedule(), CHUNK)
    meter.ack(CHUNK, now=100.6)
    meter.ack(CHUNK, now=109.0)
    assert len(meter.lags_s) == 1


def test_the_rest_after_the_last_whole_chunk_is_no_chunk() -> None:
    meter = LagMeter(schedule(total=2 * CHUNK + 500), CHUNK)
    meter.ack(CHUNK, now=100.6)
    meter.ack(2 * CHUNK + 500, now=101.2)
    assert len(meter.lags_s) == 2


def test_a_late_client_cannot_hide_lag() -> None:
    late = LagMeter(schedule(), CHUNK)
    late.ack(CHUNK, now=100.56 + 5.0)
    assert late.lags_s == pytest.approx([5.0])


def test_a_result_for_one_chunk_leaves_the_silent_ones_before_it_out() -> None:
    meter = LagMeter(schedule(), CHUNK)
    meter.seen(3 * CHUNK, now=101.7)
    meter.seen(3 * CHUNK, now=109.0)
    assert meter.lags_s == pytest.approx([0.02])
    assert meter.dues_s == pytest.approx([101.68])


def test_due_times_of_chunks_are_kept_beside_their_lags() -> None:
    meter = LagMeter(schedule(), CHUNK)
    meter.ack(3 * CHUNK - 1_080, now=101.7)
    assert meter.dues_s == pytest.approx([100.56, 101.12, 101.68])


def test_jitter_of_the_network_is_no_lag_of_the_server() -> None:
    late = Schedule(100.0, RATE, PACKET, 10 * CHUNK, jitter_s=(0.0, 0.05))
    assert late.due_s(0) == pytest.approx(100.08)
    assert late.due_s(1) == pytest.approx(100.21)
    assert late.due_s(2) == pytest.approx(100.24)


def test_a_short_last_packet_does_not_overtake_a_late_one() -> None:
    late = Schedule(100.0, RATE, PACKET, PACKET + 160, jitter_s=(0.07, 0.0))
    assert late.due_s(1) == late.due_s(0) == late.end_s == pytest.approx(100.15)


def test_the_last_packet_is_due_when_the_audio_ends() -> None:
    short = schedule(total=PACKET + 160)
    assert short.due_s(1) == pytest.approx(100.0 + (PACKET + 160) / RATE)
    assert short.end_s == short.due_s(1)


@given(st.lists(st.integers(min_value=1, max_value=4), min_size=1, max_size=30))
def test_every_chunk_is_counted_once_however_acks_are_merged(steps: list[int]) -> None:
    meter = LagMeter(schedule(total=(sum(steps) + 1) * CHUNK), CHUNK)
    done = -1_080
    for step in steps:
        done += step * CHUNK
        meter.ack(done, now=0.0)
    assert len(meter.lags_s) == sum(steps)


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0.01, 100))
def test_percentile_is_a_value_that_enough_values_do_not_exceed(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) >= len(values) * percent / 100 - 1e-9


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
