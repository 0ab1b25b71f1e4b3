"""Token ids to text: SentencePiece pieces as NeMo uses them.

Does: pieces of ids, words from pieces, text from ids.
Does not know: models, streams, time.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

WORD_START = "\u2581"
"""SentencePiece's mark in front of a piece that starts a word."""
UNKNOWN = "<unk>"
"""The piece of a model for what its other pieces cannot write."""
UNKNOWN_SIGN = "\u2047"
"""What SentencePiece, and so NeMo, shows for it: a word of its own."""
TURN_PIECES = ("<EOU>", "<EOB>")
_CONTROL_PIECES = frozenset({"<s>", "</s>", "<pad>"})
_LANGUAGE_TAG = re.compile(r"<[a-z]{2,3}-[A-Za-z0-9]{2,4}>")
"""A multilingual model says one behind a sentence, such as <en-US>."""

_BYTES = re.compile(r"(?:<0x[0-9A-F]{2}>)+")
"""Pieces of a vocabulary with byte fallback: the UTF-8 of characters that it does not have."""


def is_byte(piece: str) -> bool:
    """Whether a piece is one byte of a character."""
    return _BYTES.fullmatch(piece) is not None


def with_characters(text: str) -> str:
    """Put characters in the place of their bytes, which may be incomplete."""
    return _BYTES.sub(_character, text) if "<0x" in text else text


def _character(run: re.Match[str]) -> str:
    data = bytes.fromhex(run[0].replace("<0x", "").replace(">", ""))
    return "".join(data.decode("utf-8", "replace").split())


def is_unspoken(piece: str) -> bool:
    """Whether a piece says something about the speech and is no text of it."""
    mark = piece.removeprefix(WORD_START)
    is_known = mark in TURN_PIECES or mark in _CONTROL_PIECES
    return is_known or _LANGUAGE_TAG.fullmatch(mark) is not None


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Vocabulary of a model: id = index; the blank is ``len(pieces)``."""

    pieces: tuple[str, ...]
    model_proto: bytes = field(default=b"", repr=False)
    """The SentencePiece model itself, for those who must encode text."""

    @property
    def turn_tokens(self) -> frozenset[int]:
        """Ids that signal turns."""
        return frozenset(i for i, piece in enumerate(self.pieces) if piece in TURN_PIECES)

    def starts_word(self, token: int) -> bool:
        """Whether this piece opens a new word."""
        return self.pieces[token].startswith(WORD_START)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of token ids, words separated by one space."""
        spoken = (piece for t in tokens if not is_unspoken(piece := self.pieces[t]))
        joined = "".join(f" {UNKNOWN_SIGN} " if p == UNKNOWN else p for p in spoken)
        return " ".join(with_characters(joined).replace(WORD_START, " ").split())

    def words(self, tokens: Sequence[int]) -> list[list[int]]:
        """Group positions of ``tokens`` into words (what is no text is left out)."""
        groups = list[list[int]]()
        is_over = True
        for position, token in enumerate(tokens):
            piece = self.pieces[token]
            if is_unspoken(piece):
                continue
            if is_over or self.starts_word(token) or piece == UNKNOWN:
                groups.append([])
            is_over = piece == UNKNOWN
            groups[-1].append(position)
        return groups
