"""Transcripts become words in the model's letters, or their clips stay away."""

import pytest

pytest.importorskip("sentencepiece")
from asr.training.data import spelled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HE WASN'T THERE", "he wasn't there"),
        ("It’s a well-known café", "it's a well known cafe"),
        ("“Yes”—she said…no", "yes she said no"),
        ("one\ttwo\u00a0three,four", "one two three four"),
        ("rock 'n' roll - ' -", "rock 'n' roll"),
        ("  ", ""),
    ],
)
def test_a_transcript_is_spelled_in_the_models_letters(text: str, words: str) -> None:
    assert spelled(text) == words.split()


@pytest.mark.parametrize("text", ["i have 3 cats", "½ a cup", "5 % off", "привет", "große", "..."])
def test_a_transcript_that_can_be_read_in_many_ways_is_none(text: str) -> None:
    assert spelled(text) is None
