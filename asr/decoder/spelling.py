"""The ways a phrase can be written in the pieces of a vocabulary.

Does: phrase -> spellings (lower case, capitalised where the model has capitals), each as ids of
pieces; the characters a model can write.
Does not know: models, scores. No torch: a gateway checks phrases with it.
"""

import functools
import unicodedata
from collections.abc import Iterable

from asr.tokenizer import WORD_START, Tokenizer, is_byte, is_unspoken

SPELLINGS = 3
"""A recogniser writes a word that it has never met in other pieces than SentencePiece does.

Measured on dev: 3 are best of 1 to 6, and short pieces first better than long ones.
"""
Spelling = tuple[int, ...]


def alphabet(pieces: Iterable[str]) -> str:
    """Return the characters that some piece has, sorted."""
    characters = {c for piece in pieces if _is_text(piece) for c in piece}
    return "".join(sorted(characters - {WORD_START}))


def writings(phrase: str, letters: str) -> tuple[str, ...]:
    """Return the forms of a phrase that can be written; none when a letter or digit is unknown.

    Punctuation that the model never writes is left out.
    """
    plain = unicodedata.normalize("NFC", phrase).replace("\u2019", "'")
    lower = plain.lower()
    forms = dict.fromkeys((plain, lower, lower[:1].upper() + lower[1:], plain.upper()))
    if any(c.islower() for c in letters):
        del forms[plain.upper()]
        forms[plain] = None  # it may have been all capitals
    return tuple(dict.fromkeys(text for form in forms if (text := _written(form, letters))))


def _written(text: str, letters: str) -> str:
    kept = []
    for character in text:
        if character in letters:
            kept.append(character)
        elif character.isspace() or unicodedata.category(character)[0] in "PS":
            kept.append(" ")
        else:
            return ""
    return " ".join("".join(kept).split())


def spellings(phrase: str, tokenizer: Tokenizer) -> tuple[Spelling, ...]:
    """Return the likely writings of a phrase as pieces: SentencePiece's own, and the shortest."""
    found = dict[Spelling, None]()
    for text in writings(phrase, _letters(tokenizer.pieces)):
        if own := _encoded(text, tokenizer):
            found[own] = None
        found |= dict.fromkeys(shortest(text, tokenizer.pieces))
    return tuple(found)


def shortest(text: str, pieces: tuple[str, ...]) -> tuple[Spelling, ...]:
    """Return the ``SPELLINGS`` ways of fewest pieces, short pieces first; () if there is none."""
    marked, ids = WORD_START + text.replace(" ", WORD_START), _ids(pieces)
    longest = max(map(len, ids))
    behind: list[list[Spelling]] = [[] for _ in marked] + [[()]]
    for start in range(len(marked) - 1, -1, -1):
        found = list[Spelling]()
        for end in range(start + 1, min(len(marked), start + longest) + 1):
            piece = ids.get(marked[start:end])
            if piece is not None:
                found += ((piece, *rest) for rest in behind[end])
        behind[start] = sorted(found, key=len)[:SPELLINGS]
    return tuple(behind[0])


def _encoded(text: str, tokenizer: Tokenizer) -> Spelling:
    """SentencePiece's spelling; () without its model or with an unknown piece."""
    if not tokenizer.model_proto:
        return ()
    processor = _processor(tokenizer.model_proto)
    ids = tuple(processor.encode(text))
    return () if processor.unk_id() in ids else ids


@functools.lru_cache(maxsize=2)
def _processor(proto: bytes):  # type: ignore[no-untyped-def] # sentencepiece has no types
    import sentencepiece  # not where phrases are only checked

    return sentencepiece.SentencePieceProcessor(model_proto=proto)


@functools.lru_cache(maxsize=2)
def _letters(pieces: tuple[str, ...]) -> str:
    return alphabet(pieces)


@functools.lru_cache(maxsize=2)
def _ids(pieces: tuple[str, ...]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces) if _is_text(piece)}


def _is_text(piece: str) -> bool:
    return piece != "<unk>" and not is_byte(piece) and not is_unspoken(piece)
