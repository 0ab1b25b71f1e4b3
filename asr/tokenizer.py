"""Token ids to text: SentencePiece pieces as NeMo uses them.

Does: pieces of ids, words from pieces, text from ids.
Does not know: models, streams, time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

WORD_START = "\u2581"
"""SentencePiece's mark in front of a piece that starts a word."""
TURN_PIECES = ("<EOU>", "<EOB>")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Vocabulary of a model: id = index; the blank is ``len(pieces)``."""

    pieces: tuple[str, ...]
    model_proto: bytes = field(default=b"", repr=False)
    """The SentencePiece model itself, for those who must encode text."""

    @property
    def turn_tokens(self) -> frozenset[int]:
        """Ids that signal turns and never appear as text."""
        return frozenset(i for i, piece in enumerate(self.pieces) if piece in TURN_PIECES)

    def starts_word(self, token: int) -> bool:
        """Whether this piece opens a new word."""
        return self.pieces[token].startswith(WORD_START)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of token ids, words separated by one space."""
        turn = self.turn_tokens
        joined = "".join(self.pieces[t] for t in tokens if t not in turn)
        return " ".join(joined.replace(WORD_START, " ").split())

    def words(self, tokens: Sequence[int]) -> list[list[int]]:
        """Group positions of ``tokens`` into words (turn tokens are left out)."""
        turn, groups = self.turn_tokens, list[list[int]]()
        for position, token in enumerate(tokens):
            if token in turn:
                continue
            if self.starts_word(token) or not groups:
                groups.append([])
            groups[-1].append(position)
        return groups
