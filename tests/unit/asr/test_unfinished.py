"""Which words end no sentence."""

import pytest

from asr.unfinished import ends_no_sentence


@pytest.mark.parametrize("word", ["the", "The", "and,", "i'm", "uh"])
def test_who_says_one_of_these_goes_on(word: str) -> None:
    assert ends_no_sentence(word)


@pytest.mark.parametrize("word", ["lights", "no", "what", "to.", "that", "", "on"])
def test_behind_other_words_and_full_stops_a_turn_may_end(word: str) -> None:
    assert not ends_no_sentence(word)
