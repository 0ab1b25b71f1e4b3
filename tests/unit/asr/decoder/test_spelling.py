"""Phrases in the pieces of a vocabulary."""

from asr.decoder.spelling import alphabet, shortest, spellings, writings
from asr.tokenizer import Tokenizer

LOWER = (
    "<unk>",
    "▁",
    "▁new",
    "▁n",
    "e",
    "w",
    "▁york",
    "y",
    "o",
    "r",
    "k",
    "'",
    "<EOU>",
    "<en-US>",
    "<0x5A>",
)
BOTH = (*LOWER, "▁New", "Y", "N", ".")


def test_the_alphabet_is_what_pieces_hold_and_not_their_marks() -> None:
    assert alphabet(LOWER) == "'eknorwy"


def test_a_lower_case_model_gets_lower_case_and_a_cased_one_gets_both() -> None:
    assert writings("New York", alphabet(LOWER)) == ("new york",)
    assert (
        writings("New York", alphabet(BOTH)) == ("New York", "new york", "New york", "NEW YORK")[:3]
    )


def test_unknown_punctuation_is_left_out_and_an_unknown_letter_refuses_the_phrase() -> None:
    assert writings("new-york!", alphabet(LOWER)) == ("new york",)
    assert writings("new ¥7", alphabet(LOWER)) == ()
    assert writings("  !", alphabet(LOWER)) == ()


def test_a_phrase_is_spelled_in_the_fewest_pieces_and_in_some_more() -> None:
    spelled = [" ".join(LOWER[i] for i in spelling) for spelling in shortest("new york", LOWER)]
    assert spelled == ["▁new ▁york", "▁n e w ▁york", "▁new ▁ y o r k"]
    assert [[BOTH[i] for i in s] for s in shortest("yewy", BOTH)] == [["▁", "y", "e", "w", "y"]]
    assert shortest("zoo", LOWER) == ()


def test_each_writing_has_its_spelling() -> None:
    tokenizer = Tokenizer(pieces=BOTH)
    spelled = [[BOTH[i] for i in spelling] for spelling in spellings("new york", tokenizer)]
    assert [s for s in spelled if len(s) == 2] == [["▁new", "▁york"], ["▁New", "▁york"]]
