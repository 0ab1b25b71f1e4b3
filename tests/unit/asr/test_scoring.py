"""Scores equal a plain edit-distance table, whatever the texts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.scoring import Edits, Score, align, distance, matches, plain_words, score


def table_distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, expected in enumerate(one, start=1):
        corner, row[0] = row[0], i
        for j, got in enumerate(other, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (expected != got))
    return row[-1]


@settings(deadline=None, max_examples=300)
@given(one=st.text("abc", max_size=120), other=st.text("abc", max_size=120))
def test_the_edits_are_as_few_as_those_of_the_full_table(one: str, other: str) -> None:
    edits = align(one, other)
    assert edits.total == table_distance(one, other) == distance(one, other)
    assert len(one) - edits.deletions + edits.insertions == len(other)
    assert min(edits.substitutions, edits.insertions, edits.deletions) >= 0


@settings(deadline=None)
@given(one=st.text("abc", max_size=40), other=st.text("abc", max_size=40))
def test_what_matches_lies_on_a_shortest_alignment(one: str, other: str) -> None:
    pairs = matches(one, other)
    assert all(one[i] == other[j] for i, j in pairs)
    corners = [(-1, -1), *pairs, (len(one), len(other))]
    gaps = [(b[0] - a[0] - 1, b[1] - a[1] - 1) for a, b in itertools.pairwise(corners)]
    assert min(map(min, gaps)) >= 0
    assert sum(map(max, gaps)) == align(one, other).total


@pytest.mark.parametrize(
    ("reference", "heard", "edits"),
    [
        ("a b c", "a b c", Edits()),
        ("a b c", "a x c", Edits(substitutions=1)),
        ("a b c", "a c", Edits(deletions=1)),
        ("a c", "a b c", Edits(insertions=1)),
        ("", "a b", Edits(insertions=2)),
        ("a b", "", Edits(deletions=2)),
        ("a b", "x y", Edits(substitutions=2)),
    ],
)
def test_each_kind_of_edit_is_counted(reference: str, heard: str, edits: Edits) -> None:
    assert align(reference.split(), heard.split()) == edits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don\u2019t stop, please!", "don't stop please"),
        ("well-known twenty\u2013one", "well known twenty one"),
        ("the U.S. paid $1,000 at 3.5", "the us paid 1000 at 35"),
        ("'quoted' dogs' \u00abyes\u00bb", "quoted dogs yes"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u0964", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        (" -- ... ", ""),
    ],
)
def test_spelling_does_not_count(text: str, words: str) -> None:
    assert plain_words(text) == words.split()


def test_scores_of_utterances_add_up_to_the_score_of_the_set() -> None:
    total = score("turn on the light", "turn of the light please") + score("No.", "no")
    assert (total.utterances, total.words, total.errors) == (2, 5, 2)
    assert (total.substitutions, total.insertions, total.deletions) == (1, 1, 0)
    assert total.wer == pytest.approx(2 / 5)
    assert total.cer == pytest.approx(8 / 19)
    assert Score() + total == total


def test_words_heard_in_silence_are_an_error_of_one() -> None:
    assert score("", "hello there").wer == 1.0
    assert score("", "").wer == 0.0


def test_a_text_of_ten_thousand_words_is_aligned() -> None:
    rng = np.random.default_rng(0)
    said = rng.integers(0, 3000, 10_000).tolist()
    heard = [word for word in said if rng.random() > 0.05]
    edits = align(said, heard)
    assert edits.deletions - edits.insertions == len(said) - len(heard)
    assert edits.total == len(said) - len(heard)


def test_an_alignment_far_from_the_diagonal_is_found() -> None:
    said = list(range(200))
    assert align(said, [*said[40:], *range(1000, 1040)]).total == 80
