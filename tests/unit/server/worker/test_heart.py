"""Who is called dead: whoever is silent or stuck, and nobody who is only busy."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from server.worker import link
from server.worker.heart import (
    SILENT_TICKS,
    STUCK_BEATS,
    WARMING_TICKS,
    Activity,
    Heart,
    Watch,
)


def ticks_until_called_dead(watch: Watch, most: int) -> int | None:
    return next((n for n in range(1, most + 1) if watch.tick()), None)


def test_a_worker_that_never_beats_is_not_watched() -> None:
    watch = Watch()
    watch.heard(link.Opened(1))
    assert ticks_until_called_dead(watch, 1_000) is None


def test_silence_is_noticed_within_a_second() -> None:
    watch = Watch()
    watch.heard(link.Pulse("working", 1))
    assert ticks_until_called_dead(watch, 1_000) == SILENT_TICKS + 1 < 10
    assert watch.tick() == "frozen"


def test_warming_up_may_be_silent_for_longer() -> None:
    watch = Watch()
    watch.heard(link.Pulse("warming", 0))
    assert ticks_until_called_dead(watch, 1_000) == WARMING_TICKS + 1


@given(st.lists(st.integers(0, SILENT_TICKS), max_size=60))
def test_whoever_beats_in_time_lives_however_long_it_works(pauses: list[int]) -> None:
    watch = Watch()
    for number, pause in enumerate(pauses):
        watch.heard(link.Pulse("working", number))
        assert ticks_until_called_dead(watch, pause) is None


def test_any_report_is_a_sign_of_life() -> None:
    watch = Watch()
    watch.heard(link.Pulse("waiting", 1))
    for _ in range(100):
        assert watch.tick() is None
        watch.heard(link.Opened(1))


def test_one_piece_of_work_that_never_ends_is_stuck() -> None:
    watch = Watch()
    for beats in range(1, STUCK_BEATS + 1):
        watch.heard(link.Pulse("working", beats))
        assert watch.tick() is None
    watch.heard(link.Pulse("working", STUCK_BEATS + 1))
    assert watch.tick() == "stuck"
    watch.heard(link.Pulse("waiting", STUCK_BEATS + 1))
    assert watch.tick() is None


def test_a_heart_counts_the_beats_of_each_piece_of_work() -> None:
    activity = Activity()
    heart = Heart(activity, lambda _: None)
    activity.begin("working")
    assert [heart.pulse() for _ in range(2)] == [link.Pulse("working", 1), link.Pulse("working", 2)]
    activity.begin("working")
    assert heart.pulse() == link.Pulse("working", 1)


def test_a_heart_beats_from_its_own_thread_until_it_is_stopped() -> None:
    beaten, names = threading.Event(), set[str]()

    def beat(_: link.Pulse) -> None:
        names.add(threading.current_thread().name)
        beaten.set()

    heart = Heart(Activity(), beat)
    heart.start()
    assert beaten.wait(20)
    heart.stop()
    assert names == {"heart"}
    assert not heart._thread.is_alive()
