"""Word error rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.accuracy import edits, word_error_rate

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=7)


def slow_edits(left: list[str], right: list[str]) -> int:
    """By definition, without a table."""
    if not left or not right:
        return len(left) + len(right)
    swap = slow_edits(left[1:], right[1:]) + (left[0] != right[0])
    if left[0] == right[0]:
        return swap
    return min(swap, slow_edits(left[1:], right) + 1, slow_edits(left, right[1:]) + 1)


@given(WORDS, WORDS)
def test_edits_equal_the_definition(left: list[str], right: list[str]) -> None:
    assert edits(left, right) == slow_edits(left, right)


def test_spelling_case_and_punctuation_do_not_count() -> None:
    assert word_error_rate([("it's a plan", "It’s a plan.")]) == 0


def test_rates_are_pooled_over_words_not_over_clips() -> None:
    assert word_error_rate([("a b c d", "a b c d"), ("e", "f")]) == pytest.approx(0.2)


def test_words_where_none_were_due_are_all_wrong() -> None:
    assert word_error_rate([("", "hello")]) == 1.0
    assert word_error_rate([("", "")]) == 0.0
