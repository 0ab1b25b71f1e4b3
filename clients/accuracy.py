"""Word error rate of a transcript against its reference.

Does: spell both alike, count substitutions, deletions and insertions.
Does not know: models, files, how `rivulet evaluate` pools whole sets (the engine's side does that).
"""

import re
from collections.abc import Sequence

import numpy as np

NOT_SPELLING = re.compile(r"[^\w' ]+")


def plain_words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return NOT_SPELLING.sub(" ", text.lower().replace("’", "'")).split()


def edits(reference: Sequence[str], heard: Sequence[str]) -> int:
    """Fewest substitutions, deletions and insertions that make one the other."""
    numbers: dict[str, int] = {}
    expected, got = (
        np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int64)
        for words in (reference, heard)
    )
    columns = np.arange(len(got) + 1)
    row = columns
    for word in expected:
        kept_or_changed = row[:-1] + (got != word)
        without_insertions = np.append(row[0] + 1, np.minimum(kept_or_changed, row[1:] + 1))
        # An insertion costs one a column: the least of all that a run of them may begin with.
        row = np.minimum.accumulate(without_insertions - columns) + columns
    return int(row[-1])


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Edits over reference words, pooled over (reference, heard) pairs; a fraction."""
    words = [(plain_words(reference), plain_words(heard)) for reference, heard in pairs]
    total = sum(len(reference) for reference, _ in words)
    wrong = sum(edits(reference, heard) for reference, heard in words)
    return wrong / total if total else float(wrong > 0)
