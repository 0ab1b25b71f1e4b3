"""The slope of lag over time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.load.drift import drift_of

SECONDS = np.arange(0, 60, 0.2)


@settings(deadline=None, max_examples=50)
@given(st.floats(-500, 500), st.floats(0, 5), st.floats(0, 1_000))
def test_a_straight_line_is_found_wherever_it_begins(
    ms_per_min: float, level_s: float, begin_s: float
) -> None:
    drift = drift_of(begin_s + SECONDS, level_s + SECONDS * ms_per_min / 60_000)
    assert drift.ms_per_min == pytest.approx(ms_per_min, rel=0.005, abs=0.5)
    assert drift.error < 1.0  # a reading on the border of two seconds may count to either


def test_a_few_late_chunks_are_no_drift() -> None:
    late = np.full_like(SECONDS, 0.05)
    late[-2:] = 30.0
    drift = drift_of(SECONDS, late)
    assert drift.ms_per_min == pytest.approx(0.0, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10))
def test_noise_is_within_its_error(seed: int) -> None:
    noise = np.random.default_rng(seed).exponential(0.05, len(SECONDS))
    drift = drift_of(SECONDS, noise)
    assert 0 < drift.error
    assert abs(drift.ms_per_min) < 5 * drift.error


@pytest.mark.parametrize("count", [0, 1, 10])
def test_less_than_three_seconds_say_nothing(count: int) -> None:
    assert drift_of(SECONDS[:count], SECONDS[:count]) == (0.0, 0.0)
