"""Word error rate of a transcript against its reference.

Does: spell both alike, count substitutions, deletions and insertions.
Does not know: models, files, how `rivulet evaluate` pools whole sets (the engine's side does that).
"""

import re
from collections.abc import Sequence

NOT_SPELLING = re.compile(r"[^\w' ]+")


def plain_words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return NOT_SPELLING.sub(" ", text.lower().replace("’", "'")).split()


def edits(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Fewest substitutions, deletions and insertions that make one the other."""
    row = list(range(len(heard) + 1))
    for i, expected in enumerate(reference, start=1):
        above_left, row[0] = row[0], i
        for j, got in enumerate(heard, start=1):
            best = min(row[j] + 1, row[j - 1] + 1, above_left + (expected != got))
            above_left, row[j] = row[j], best
    return row[-1]


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Edits over reference words, pooled over (reference, heard) pairs; a fraction."""
    words = [(plain_words(reference), plain_words(heard)) for reference, heard in pairs]
    total = sum(len(reference) for reference, _ in words)
    wrong = sum(edits(reference, heard) for reference, heard in words)
    return wrong / total if total else float(wrong > 0)
