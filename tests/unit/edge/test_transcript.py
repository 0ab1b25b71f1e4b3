"""Provisional text never doubles and never outlives the authority's words."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edge.transcript import Transcript
from edge.wire import Result, Word

WORDS = [Word(f"w{n}", 100 * n, 100 * n + 80) for n in range(20)]


def said(first: int, last: int) -> Result:
    """A result of the words first..last-1."""
    words = tuple(WORDS[first:last])
    return Result(
        text=" ".join(w.text for w in words),
        start_ms=words[0].start_ms,
        end_ms=words[-1].end_ms,
        words=words,
    )


@given(st.lists(st.integers(1, 19), unique=True), st.lists(st.integers(1, 19), unique=True))
def test_whatever_the_cuts_of_local_and_core_no_word_is_doubled_or_lost(
    local: list[int], core: list[int]
) -> None:
    shown = Transcript()
    edges = [0, *sorted(local), 20]
    for first, last in itertools.pairwise(edges):
        assert shown.provisionally(said(first, last))
    everything = " ".join(w.text for w in WORDS)
    assert shown.text() == everything
    edges = [0, *sorted(core), 20]
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        assert shown.final(number, said(first, last))
        assert shown.text() == everything
    assert not shown.provisional
    assert shown.final_text() == everything


def test_a_final_counts_once_and_in_its_turn() -> None:
    shown = Transcript()
    assert shown.final(0, said(0, 2))
    assert not shown.final(0, said(0, 2))
    assert not shown.final(2, said(4, 5))
    assert shown.final_text() == "w0 w1"


def test_late_local_text_of_what_is_final_is_left_out() -> None:
    shown = Transcript()
    shown.final(0, said(0, 5))
    assert not shown.provisionally(said(2, 5))
    assert shown.provisionally(said(3, 7))
    assert shown.text() == "w0 w1 w2 w3 w4 w5 w6"


def test_local_text_that_is_told_twice_is_shown_once() -> None:
    shown = Transcript()
    shown.provisionally(said(0, 4))
    assert not shown.provisionally(said(2, 6))
    assert shown.text() == "w0 w1 w2 w3"


def test_open_text_is_shown_behind_and_the_end_settles_everything() -> None:
    shown = Transcript()
    shown.final(0, said(0, 2))
    shown.provisionally(said(2, 4))
    shown.partial = said(4, 6)
    assert shown.text() == "w0 w1 w2 w3 w4 w5"
    shown.partial = said(1, 3)
    assert shown.text() == "w0 w1 w2 w3"
    shown.settle()
    assert shown.text() == "w0 w1"
