"""From a tally to figures and the limits that broke."""

import pytest

from clients.load.host import Cost
from clients.load.judge import Judge, Limits, Point, Spread
from clients.load.search import Verdict
from clients.load.tally import Ended, Tally

WINDOW = (10.0, 70.0)
QUIET = {(0, "low"): "one two three four", (1, "low"): "five"}


def tally(
    *,
    lag_s: float = 0.05,
    end_s: float = 0.1,
    growth_s: float = 0.0,
    late_s: float = 0.001,
    text: str = "one two three four",
    failure: str = "",
) -> Tally:
    """A run of a minute with a chunk every 100 ms."""
    whole = Tally()
    for number in range(700):
        at = number / 10
        whole.lags["low"].add(at, lag_s + growth_s * at / 60)
        whole.late.add(at, late_s)
    whole.ends["low"].add(69.0, end_s)
    whole.words["low"].add(20.0, 0.3)
    whole.calls = [Ended(0, "low", text, True, 160, 69.0, failure)]
    return whole


def judged(whole: Tally, window_s: tuple[float, float] = WINDOW, **limits: float) -> Point:
    judge = Judge(
        limits=Limits(**limits),
        window_s=window_s,
        references=["one two three four", "five"],
        quiet=QUIET,
    )
    return judge.point(3, whole, Cost())


def test_a_calm_run_is_held() -> None:
    point = judged(tally())
    assert (point.breaks, point.verdict) == ((), Verdict.HELD)
    figures = point.classes["low"]
    assert figures.chunk_lag == Spread(600, 50.0, 50.0, 50.0, 50.0, 50.0)
    assert figures.finalize == Spread(1, 100.0, 100.0, 100.0, 100.0, 100.0)
    assert figures.partial_lag == Spread(1, 300.0, 300.0, 300.0, 300.0, 300.0)
    assert (point.compared, point.changed, point.wer, point.wer_quiet) == (1, 0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("whole", "names"),
    [
        (tally(lag_s=0.17), "p99 chunk lag 170 ms > 160 ms"),
        (tally(end_s=0.31), "p99 finalize delay 310 ms > 300 ms"),
        (tally(growth_s=0.02), "lag drifts by 20 ms a minute"),
        (tally(text="one two three for"), "1 of 1 transcripts changed under load"),
        (tally(failure="closed with 1006 before the end"), "1 calls failed: closed with 1006"),
    ],
)
def test_each_limit_breaks_a_run_by_name(whole: Tally, names: str) -> None:
    point = judged(whole)
    assert point.verdict is Verdict.BROKEN
    assert len(point.breaks) == 1
    assert names in point.breaks[0]


def test_a_falling_lag_breaks_nothing() -> None:
    assert judged(tally(lag_s=0.12, growth_s=-0.05)).verdict is Verdict.HELD


@pytest.mark.parametrize(("ms_per_min", "verdict"), [(150, Verdict.HELD), (600, Verdict.BROKEN)])
def test_a_short_run_must_be_steeper_to_break(ms_per_min: float, verdict: Verdict) -> None:
    whole = tally(lag_s=0.0, growth_s=ms_per_min / 1000)
    assert judged(whole, window_s=(2.0, 10.0)).verdict is verdict


def test_a_late_client_voids_the_run_whatever_the_server_did() -> None:
    assert judged(tally(late_s=0.006)).verdict is Verdict.VOID
    assert judged(tally(late_s=0.006, lag_s=3.0)).verdict is Verdict.VOID
    assert judged(tally(late_s=0.006), late_ms=7.0).verdict is Verdict.HELD


def test_spelling_is_no_change_of_words() -> None:
    assert judged(tally(text="One two, three four.")).changed == 0


def test_changed_words_may_be_judged_by_their_rate_of_errors_instead() -> None:
    other = tally(text="one two three for")
    assert judged(other, wer_rise=0.3).verdict is Verdict.HELD
    assert judged(other, wer_rise=0.2).breaks == ("WER rose by 25.00 points under load",)


def test_what_is_outside_the_window_does_not_count() -> None:
    whole = tally()
    whole.lags["low"].add(9.9, 30.0)
    whole.lags["low"].add(70.0, 30.0)
    assert judged(whole).verdict is Verdict.HELD


def test_a_class_in_which_nothing_was_decoded_is_broken() -> None:
    whole = tally()
    whole.calls.append(Ended(1, "accurate", "", True, 1120, 69.0))
    assert judged(whole).breaks == ("accurate: no chunk was decoded inside the window",)


def test_calls_that_were_cut_off_are_not_compared() -> None:
    whole = tally()
    whole.calls.append(Ended(1, "low", "fi", False, 160, 69.0))
    point = judged(whole)
    assert (point.compared, point.changed) == (1, 0)


def test_the_timeline_has_a_row_for_each_second() -> None:
    rows = judged(tally(growth_s=0.06)).timeline
    assert [row[0] for row in rows] == list(range(70))
    assert rows[0][1] < rows[-1][1]
    assert all(p50 <= p99 for _, p50, p99 in rows)


def test_tallies_of_processes_add_up() -> None:
    both = Tally.of([tally(), tally(lag_s=0.2)])
    assert len(both.calls) == 2
    assert len(both.lags["low"].values) == 1400
    assert judged(both).classes["low"].chunk_lag == Spread(1200, 50, 200, 200, 200, 200)
