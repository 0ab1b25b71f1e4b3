"""Lag is the age of the sample that was decoded last, of clients at the pace of speech."""

from server.lag import Lag

RATE = 16_000


def test_lag_is_decoding_time_less_arrival_time() -> None:
    lag = Lag()
    for second in range(3):
        lag.received((second + 1) * RATE, RATE, 10.0 + second + 1)
    assert lag.decoded(2 * RATE, 12.25) is None
    assert lag.measured_s == [0.25]


def test_a_file_has_a_backlog_and_no_lag() -> None:
    lag = Lag()
    for second in range(20):
        lag.received((second + 1) * RATE, RATE, 10.0)
    assert lag.decoded(RATE, 15.0) is None
    assert not lag.measured_s


def test_the_level_changes_once_each_way() -> None:
    lag, levels = Lag(), []
    for tick in range(60):
        lag.received((tick + 1) * RATE // 10, RATE, tick / 10)
    for tick in range(10, 50):
        behind_s = 1.5 if tick < 30 else 0.1
        levels.append(lag.decoded(tick * RATE // 10, tick / 10 + behind_s))
    assert [level for level in levels if level] == ["warn", "ok"]
