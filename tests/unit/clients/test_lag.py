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
