"""How fast new sessions are taken."""

import pytest

from server.pace import BACK, EASY, LEAST, Pace
from server.worker.heart import BEAT_S

LOOK_AHEAD, BUSY = 6, EASY + 0.1


def beats(pace: Pace, seconds: float, streams: int) -> None:
    for _ in range(round(seconds / BEAT_S)):
        pace.tick(streams)


def test_an_idle_worker_takes_whoever_comes() -> None:
    pace = Pace()
    for _ in range(100):
        assert pace.allows(1, EASY)
        pace.took(1)


@pytest.mark.parametrize("streams", [4, 100])
def test_a_busy_one_takes_a_share_of_what_it_has_each_second(streams: int) -> None:
    pace, taken = Pace(), 0
    for _ in range(10):
        beats(pace, 1.0, streams)
        while pace.allows(1, BUSY):
            pace.took(1)
            taken += 1
    assert 7 * max(LEAST, streams / 8) <= taken <= 10 * max(LEAST, streams / 2)


def test_a_session_of_many_channels_has_its_turn_too() -> None:
    pace = Pace()
    assert pace.allows(12, BUSY)
    pace.took(12)
    assert not pace.allows(1, BUSY)
    beats(pace, 2.0, 10)
    assert pace.allows(12, BUSY)


def test_nobody_is_taken_while_chunks_come_late_and_lags_are_forgotten() -> None:
    pace = Pace()
    for _ in range(100):
        pace.heard(LOOK_AHEAD, 0.05)
    assert pace.allows(1, 0.0)
    for _ in range(10):
        pace.heard(LOOK_AHEAD, 0.5)
    assert not pace.allows(1, 0.0)
    beats(pace, 5.0, 10)  # whoever was late is gone, and nobody speaks
    assert pace.allows(1, 0.0)


def test_where_chunks_came_late_nobody_comes_near_for_a_while() -> None:
    pace, streams = Pace(), 100
    for _ in range(100):
        pace.heard(LOOK_AHEAD, 0.5)
    beats(pace, 1.0, streams)
    assert not pace.allows(1, 0.0)
    beats(pace, 9.0, streams // 2)
    assert pace.allows(1, BUSY)
    beats(pace, 0.1, round(BACK * streams) + 10)
    assert not pace.allows(1, BUSY)
    assert pace.allows(1, EASY)
    beats(pace, 60.0, round(BACK * streams) + 10)
    assert pace.allows(1, BUSY)


def test_a_lag_is_late_by_the_chunk_of_its_own_class() -> None:
    quick, slow = Pace(), Pace()
    for _ in range(30):
        quick.heard(0, 0.1)  # chunks of 80 ms
        slow.heard(LOOK_AHEAD, 0.1)
    assert quick.is_late
    assert not slow.is_late
