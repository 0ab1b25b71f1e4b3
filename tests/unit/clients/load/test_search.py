"""The search for N*."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.load.search import Search, Verdict


def runs(
    search: Search, verdicts: dict[int, Verdict] | None = None, *, holds: int = 0
) -> list[int]:
    """Tell verdicts until the search is over; a number up to ``holds`` is held."""
    asked = []
    while (streams := search.next_streams()) is not None:
        asked.append(streams)
        search.tell(streams, Verdict.HELD if streams <= holds else Verdict.BROKEN)
        assert len(asked) < 100
    return asked


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 400), st.integers(1, 300), st.integers(1, 50), st.integers(0, 2))
def test_it_finds_a_server_that_holds_up_to_a_number(
    holds: int, most: int, start: int, confirm: int
) -> None:
    search = Search(most=most, start=min(start, most), confirm=confirm)
    runs(search, holds=holds)
    best = min(holds, most)
    assert search.best <= best
    assert best - search.best <= max(0, search.best * search.resolution)
    assert search.best == 0 or search.held[search.best] == confirm + 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(Verdict)), st.integers(1, 100))
def test_it_ends_and_its_winner_never_broke_whatever_the_verdicts(
    verdicts: list[Verdict], most: int
) -> None:
    search = Search(most=most)
    broke = set()
    for number in range(1_000):
        streams = search.next_streams()
        if streams is None:
            break
        assert 1 <= streams <= most
        verdict = verdicts[number] if number < len(verdicts) else Verdict.HELD
        search.tell(streams, verdict)
        if verdict is Verdict.BROKEN:
            broke.add(streams)
    else:
        pytest.fail("the search does not end")
    assert search.best not in broke
    assert all(search.best < streams for streams in broke)


def test_a_void_run_is_repeated_once_and_then_counts_as_the_limit_of_the_client() -> None:
    search = Search(most=8, confirm=0)
    search.tell(1, Verdict.HELD)
    assert search.next_streams() == 2
    search.tell(2, Verdict.VOID)
    assert search.next_streams() == 2
    search.tell(2, Verdict.VOID)
    assert search.next_streams() is None
    assert (search.best, search.is_client_limited) == (1, True)


def test_a_winner_that_breaks_when_it_is_confirmed_is_no_winner() -> None:
    search = Search(most=4, confirm=1)
    for streams, verdict in ((1, Verdict.HELD), (2, Verdict.HELD), (4, Verdict.BROKEN)):
        assert search.next_streams() == streams
        search.tell(streams, verdict)
    assert search.next_streams() == 3
    search.tell(3, Verdict.HELD)
    assert search.next_streams() == 3
    search.tell(3, Verdict.BROKEN)
    assert search.next_streams() == 2
    search.tell(2, Verdict.HELD)
    assert search.next_streams() is None
    assert search.best == 2


def test_nothing_held_is_zero_streams() -> None:
    search = Search(most=100, start=8)
    assert runs(search, holds=0) == [8, 4, 2, 1]
    assert search.best == 0


def test_a_server_that_holds_the_most_is_asked_no_further() -> None:
    search = Search(most=5, confirm=0)
    assert runs(search, holds=99) == [1, 2, 4, 5]
    assert search.broken is None


def test_a_start_beyond_the_most_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and the most"):
        Search(most=4, start=5)
