"""Pieces become text."""

from pathlib import Path

import sentencepiece

import asr
from asr.checkpoint.pieces import sentencepiece_pieces
from asr.interface import Token
from asr.tokenizer import Tokenizer
from asr.transcript import Transcript

PIECES = ("▁good", "▁", "day", ".", "<EOU>", "<en-US>", "▁<es-419>", "</s>", "<3")


def test_what_is_no_text_is_in_neither_text_nor_words() -> None:
    tokenizer = Tokenizer(pieces=PIECES)
    said = [PIECES.index(piece) for piece in ("▁good", "▁", "day", ".", "<en-US>", "▁<es-419>")]
    said += [PIECES.index(piece) for piece in ("</s>", "▁good", "<EOU>", "<3")]
    assert tokenizer.decode(said) == "good day. good<3"
    assert tokenizer.words(said) == [[0], [1, 2, 3], [7, 9]]
    assert tokenizer.turn_tokens == {PIECES.index("<EOU>")}


def test_what_no_piece_can_write_is_shown_as_sentencepiece_does() -> None:
    model = next(Path(asr.__file__).parent.glob("models/*/tokenizer.model"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    tokenizer = Tokenizer(pieces=sentencepiece_pieces(model.read_bytes()))
    unknown, (first, *rest) = processor.unk_id(), processor.encode("hello world", out_type=int)
    for said in (
        [first, unknown, *rest],
        [unknown, first, *rest],
        [first, unknown, unknown, *rest, unknown],
        [tokenizer.pieces.index("▁"), unknown, *rest],
    ):
        text = " ".join(processor.decode(said).split())
        assert "\u2047" in text
        assert tokenizer.decode(said) == text
        groups = tokenizer.words(said)
        assert (
            " ".join(tokenizer.decode(said[i] for i in g) for g in groups).split() == text.split()
        )
        live = Transcript(tokenizer)
        for at, token in enumerate(said):
            live.add(Token(token, at, 0.9), at * 80, at * 80 + 80)
        assert live.text == text


def test_bytes_of_a_character_that_has_no_piece_become_the_character() -> None:
    pieces = ("▁caf", "<0xC3>", "<0xA9>", "▁", "<0x0A>", "▁no")
    tokenizer = Tokenizer(pieces=pieces)
    assert tokenizer.decode([0, 1, 2, 3, 4, 5]) == "café no"
    assert tokenizer.decode([0, 1, 5]) == "caf\ufffd no"
