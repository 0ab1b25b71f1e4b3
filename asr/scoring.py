"""How far a transcript is from its reference: word and character error rates.

Does: spell both alike, align them, count substitutions, insertions and deletions, add scores up.
Does not know: models, audio, manifests.
"""

import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

_EDIT = 1 << 24
"""Cost of an edit. A substitution costs one less, so that of equally short alignments the one
with most substitutions wins, and the total tells both counts."""
_NEVER = 1 << 60
_BAND = 32


@dataclass(frozen=True, slots=True)
class Edits:
    """Fewest edits that turn a reference into a hypothesis."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0

    @property
    def total(self) -> int:
        """All edits."""
        return self.substitutions + self.insertions + self.deletions


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Counts of one utterance or of a whole set; scores add up."""

    utterances: int = 0
    words: int = 0
    """Words of the reference."""
    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    characters: int = 0
    """Characters of the reference, spaces between words included."""
    character_errors: int = 0

    def __add__(self, other: "Score") -> "Score":
        names = [field.name for field in fields(self)]
        return Score(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def errors(self) -> int:
        """Word errors of all kinds."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def wer(self) -> float:
        """Word error rate, a fraction; words heard in nothing count as 1."""
        return self.errors / self.words if self.words else float(self.errors > 0)

    @property
    def cer(self) -> float:
        """Character error rate, a fraction."""
        wrong = self.character_errors
        return wrong / self.characters if self.characters else float(wrong > 0)


def score(reference: str, hypothesis: str) -> Score:
    """Score one transcript."""
    expected, heard = plain_words(reference), plain_words(hypothesis)
    words = align(expected, heard)
    expected_text, heard_text = " ".join(expected), " ".join(heard)
    return Score(
        utterances=1,
        words=len(expected),
        substitutions=words.substitutions,
        insertions=words.insertions,
        deletions=words.deletions,
        characters=len(expected_text),
        character_errors=distance(expected_text, heard_text),
    )


def plain_words(text: str) -> list[str]:
    """Lower-case words: dashes split, apostrophes stay inside words, other punctuation goes.

    Numbers stay as they are written.
    """
    lowered = unicodedata.normalize("NFC", text.lower()).replace("\u2019", "'")
    spelled = "".join(map(_spell, lowered))
    return [word for part in spelled.split() if (word := part.strip("'"))]


def align(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> Edits:
    """Count the edits. Rows are vectors in a band that widens until the alignment fits into it."""
    start, end = _common(reference, hypothesis)
    reference = reference[start : len(reference) - end]
    hypothesis = hypothesis[start : len(hypothesis) - end]
    if not reference or not hypothesis:
        return Edits(insertions=len(hypothesis), deletions=len(reference))
    ids: dict[Hashable, int] = {}
    rows = np.array([ids.setdefault(item, len(ids)) for item in reference])
    columns = np.array([ids.setdefault(item, len(ids)) for item in hypothesis])
    surplus = len(columns) - len(rows)
    band = abs(surplus) + _BAND
    while True:
        cost = _banded_cost(rows, columns, band)
        edits = -(-cost // _EDIT)
        if edits <= band:
            break
        band *= 2
    substitutions = edits * _EDIT - cost
    insertions = (edits - substitutions + surplus) // 2
    return Edits(substitutions, insertions, insertions - surplus)


def matches(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[int, int]]:
    """Return places of equal words on a cheapest alignment; the table is rows times columns."""
    rows, columns = len(reference), len(hypothesis)
    cost = np.add.outer(np.arange(rows + 1), np.arange(columns + 1))
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            differs = reference[i - 1] != hypothesis[j - 1]
            cost[i, j] = min(cost[i - 1, j - 1] + differs, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    pairs, i, j = [], rows, columns
    while i and j:
        if reference[i - 1] == hypothesis[j - 1] and cost[i, j] == cost[i - 1, j - 1]:
            pairs.append((i - 1, j - 1))
            i, j = i - 1, j - 1
        elif cost[i, j] == cost[i - 1, j - 1] + 1:
            i, j = i - 1, j - 1
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def distance(one: str, other: str) -> int:
    """Count the fewest edits between two strings.

    Myers' bit-parallel algorithm (1999): a column of the table is two long integers, so 60,000
    characters take about a second where ``align`` takes twenty.
    """
    if not one:
        return len(other)
    where: dict[str, int] = {}
    for place, character in enumerate(one):
        where[character] = where.get(character, 0) | 1 << place
    full, last, edits = (1 << len(one)) - 1, 1 << (len(one) - 1), len(one)
    rises, falls = full, 0  # down a column the table goes up, or down, by one
    for character in other:
        same = where.get(character, 0)
        diagonal = (((same & rises) + rises) ^ rises) | same
        right_rises = falls | (full & ~(diagonal | rises))
        right_falls = rises & diagonal
        edits += bool(right_rises & last) - bool(right_falls & last)
        right_rises, right_falls = (right_rises << 1 | 1) & full, (right_falls << 1) & full
        crossed = same | falls
        rises = right_falls | (full & ~(crossed | right_rises))
        falls = right_rises & crossed
    return edits


def _banded_cost(rows: NDArray[np.int64], columns: NDArray[np.int64], band: int) -> int:
    """Cost of the cheapest path that stays within ``band`` of the diagonal."""
    width = len(columns) + 1
    insert = np.arange(width, dtype=np.int64) * _EDIT
    cost = np.full(width, _NEVER, np.int64)
    cost[: band + 1] = insert[: band + 1]
    for number, row in enumerate(rows, start=1):
        low, high = max(0, number - band), min(width, number + band + 1)
        best = cost[low:high] + _EDIT
        first = max(low, 1)
        step = cost[first - 1 : high - 1] + np.where(
            columns[first - 1 : high - 1] == row, 0, _EDIT - 1
        )
        np.minimum(best[first - low :], step, out=best[first - low :])
        # insertions run along the row: a running minimum of what is left after their price
        offset = insert[low:high]
        cost[low:high] = np.minimum.accumulate(best - offset) + offset
    return int(cost[-1])


def _common(one: Sequence[Hashable], other: Sequence[Hashable]) -> tuple[int, int]:
    """Lengths of the common beginning and of the common end behind it."""
    shorter = min(len(one), len(other))
    start = 0
    while start < shorter and one[start] == other[start]:
        start += 1
    end = 0
    while end < shorter - start and one[-1 - end] == other[-1 - end]:
        end += 1
    return start, end


def _spell(character: str) -> str:
    kind = unicodedata.category(character)
    if kind[0] in "LNM" or character == "'":
        return character
    return " " if kind[0] in "ZC" or kind in ("Pd", "Pc") or character == "/" else ""
