"""Labels of voices, without a network."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.speakers.encoder import Voice
from asr.speakers.labels import LEAST_S, NEW_S, Speakers

SIZE = 8


def voice(*parts: float) -> Voice:
    full = np.zeros(SIZE, np.float32)
    full[: len(parts)] = parts
    return full / np.float32(np.linalg.norm(full))


ANN, BOB = voice(1.0, 0.1), voice(0.1, 1.0)
heard = st.tuples(
    st.lists(st.floats(0, 1, width=32), min_size=SIZE, max_size=SIZE)
    .filter(lambda parts: sum(parts) > 0.1)
    .map(lambda parts: voice(*parts)),
    st.floats(0, 30),
)


@given(st.lists(heard, max_size=30), st.integers(1, 5) | st.none(), st.floats(0, 1))
def test_labels_are_dense_in_the_order_of_appearance_and_no_more_than_asked(
    said: list[tuple[Voice, float]], most: int | None, threshold: float
) -> None:
    speakers = Speakers(threshold=threshold, most=most)
    known = 0
    for one, seconds in said:
        label = speakers.label(one, seconds)
        if label is None:
            assert seconds < LEAST_S
            continue
        assert 0 <= label <= known
        known = max(known, label + 1)
    assert len(speakers) == known
    assert most is None or known <= most


@given(st.lists(heard, max_size=20))
def test_the_same_voices_get_the_same_labels(said: list[tuple[Voice, float]]) -> None:
    one, other = Speakers(), Speakers()
    labels = [one.label(voice, seconds) for voice, seconds in said]
    assert labels == [other.label(voice, seconds) for voice, seconds in said]


def test_two_voices_are_two_speakers_and_come_back() -> None:
    speakers = Speakers()
    assert [speakers.label(one, 3.0) for one in (ANN, BOB, ANN, BOB)] == [0, 1, 0, 1]


def test_what_is_too_short_is_nobodys() -> None:
    speakers = Speakers()
    assert speakers.label(BOB, LEAST_S - 0.1) is None
    assert speakers.label(ANN, 3.0) == 0
    assert speakers.label(BOB, LEAST_S - 0.1) is None


def test_a_short_piece_makes_nobody_new_but_knows_who_it_is() -> None:
    speakers = Speakers()
    short = (LEAST_S + NEW_S) / 2
    assert speakers.label(ANN, 30.0) == 0
    assert speakers.label(BOB, short) == 0
    assert speakers.label(BOB, 30.0) == 1
    assert speakers.label(ANN, short) == 0


def test_a_voice_heard_for_a_second_may_be_less_like_itself() -> None:
    speakers, half_alike = Speakers(), voice(1.0, 1.1)
    assert speakers.label(voice(1.0), 30.0) == 0
    assert 0.6 < half_alike @ voice(1.0) < 0.7
    assert speakers.label(half_alike, 1.0) == 0
    assert speakers.label(half_alike, 3.0) == 1


def test_a_long_voice_weighs_more_than_a_short_one() -> None:
    speakers = Speakers(most=1)
    speakers.label(ANN, 10.0)
    assert speakers.label(BOB, 1.0) == 0
    assert speakers._nearest(ANN.astype(np.float64))[1] > 0.9


def test_at_least_one_speaker() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Speakers(most=0)
