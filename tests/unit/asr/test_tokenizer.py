"""Pieces become text."""

from asr.tokenizer import Tokenizer

PIECES = ("▁good", "▁", "day", ".", "<EOU>", "<en-US>", "▁<es-419>", "</s>", "<3")


def test_what_is_no_text_is_in_neither_text_nor_words() -> None:
    tokenizer = Tokenizer(pieces=PIECES)
    said = [PIECES.index(piece) for piece in ("▁good", "▁", "day", ".", "<en-US>", "▁<es-419>")]
    said += [PIECES.index(piece) for piece in ("</s>", "▁good", "<EOU>", "<3")]
    assert tokenizer.decode(said) == "good day. good<3"
    assert tokenizer.words(said) == [[0], [1, 2, 3], [7, 9]]
    assert tokenizer.turn_tokens == {PIECES.index("<EOU>")}


def test_bytes_of_a_character_that_has_no_piece_become_the_character() -> None:
    pieces = ("▁caf", "<0xC3>", "<0xA9>", "▁", "<0x0A>", "▁no")
    tokenizer = Tokenizer(pieces=pieces)
    assert tokenizer.decode([0, 1, 2, 3, 4, 5]) == "café no"
    assert tokenizer.decode([0, 1, 5]) == "caf\ufffd no"
