"""What is favoured moves words, and words only."""

import pytest
import torch

from asr.decoder.fusion import Fusion
from asr.interface import Biasing, Phrase
from asr.tokenizer import Tokenizer

PIECES = ("▁a", "▁b", "<EOU>", "<en-US>")


@pytest.mark.parametrize("first", PIECES[1:])
def test_a_favoured_phrase_takes_the_place_of_words_but_not_of_signals(first: str) -> None:
    fusion = Fusion(Tokenizer(pieces=PIECES), slots=1, device=torch.device("cpu"))
    fusion.set(0, Biasing(phrases=(Phrase("a", weight=5.0),)))
    logits = torch.zeros(1, len(PIECES) + 1)
    logits[0, PIECES.index(first)] = 2.0
    logits[0, PIECES.index("▁a")] = 1.5
    label = int(fusion.choose(logits, fusion.look(torch.tensor([0]))))
    assert PIECES[label] == ("▁a" if first == "▁b" else first)
