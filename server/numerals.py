"""English number words -> digits, by rules that change nothing they are not sure of.

Does: a run of number words -> how it is written; where a run may still go on.
Does not know: times, segments, sessions. Numbers below ten that stand alone stay words, as do runs
that are no clean cardinal, decimal, year, ordinal or string of digits.
"""

from collections.abc import Sequence
from itertools import pairwise

UNITS = {
    word: value
    for value, word in enumerate("zero one two three four five six seven eight nine".split())
}
TEENS = {
    word: value
    for value, word in enumerate(
        "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(),
        start=10,
    )
}
TENS = {
    word: 10 * value
    for value, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2
    )
}
SCALES = {"thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
ORDINALS = dict(
    zip(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
        "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth "
        "thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth".split(),
        [*list(UNITS)[1:], *TEENS, *TENS],
        strict=True,
    )
)
"""To the number that each is made of."""
_PARTS = {"hundredth", "thousandth", "millionth", "billionth"}
"""Rather fractions than ordinals: what ends with one stays as it was said."""
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
_NUMBERS = {*UNITS, *TEENS, *TENS, "hundred", *SCALES}
OH = "oh"
"""Zero, but only between digits and in years."""
_LINKS = {"and", "point", OH}
LEXICON = tuple(sorted(_NUMBERS | _LINKS))
FEWEST_DIGITS, FEWEST_WITH_OH = 3, 4
"""Spoken digits in a row that are written as one: codes, rooms, telephone numbers.

"Nine oh five" is a time as well.
"""
SMALLEST = 10
CENTURIES = range(13, 21)
COMMAS_FROM = 10_000
LARGE = ("million", "billion")
RANGE = 5
"""Numbers that follow each other so closely are rather a range than a year: "fifteen twenty"."""


def run_at(words: Sequence[str], begin: int) -> int:
    """Return where the run of number words that begins here ends; here, when none does."""
    end = begin
    while end < len(words):
        word = words[end]
        if word in _NUMBERS or (word == OH and end > begin):
            end += 1
        elif word in _LINKS and end + 1 < len(words) and words[end + 1] in _NUMBERS and end > begin:
            end += 2
        else:
            break
    while end > begin and words[end - 1] == OH:  # "twenty oh no"
        end -= 1
    return _with_ordinal(words, end) if end > begin else end


def _with_ordinal(words: Sequence[str], end: int) -> int:
    """Return where a run ends that an ordinal may go on with."""
    last, rest = words[end - 1], words[end : end + 2]
    is_round = last == "hundred" or last in SCALES
    if rest and ((rest[0] in ORDINALS and (is_round or last in TENS)) or rest[0] in _PARTS):
        return end + 1
    if is_round and rest[:1] == ["and"] and rest[-1] in ORDINALS:
        return end + 2
    return end


def open_from(words: Sequence[str]) -> int:
    """Return where the last run begins that the words to come may go on with; else the length."""
    begin = len(words)
    while begin and (words[begin - 1] in _NUMBERS or words[begin - 1] in _LINKS):
        begin -= 1
    while begin < len(words) and words[begin] not in _NUMBERS:
        begin += 1
    return begin


def parts(run: Sequence[str]) -> list[tuple[str, int]]:
    """Return a run as it is written: each text, and how many of its words it stands for."""
    return _parts(run) or [(word, 1) for word in run]


def _parts(run: Sequence[str]) -> list[tuple[str, int]] | None:
    if run[-1] in LARGE and (many := _many(run[:-1])) is not None:
        return [(many, len(run) - 1), (run[-1], 1)]
    if (text := written(run)) is not None:
        return [(text, len(run))]
    for at in range(len(run) - 2, 0, -1):  # "twenty one and twenty two" are two numbers
        if run[at] == "and" and (after := _parts(run[at + 1 :])) and (before := _parts(run[:at])):
            return [*before, ("and", 1), *after]
    return None


def _many(words: Sequence[str]) -> str | None:
    """Return how many millions: "2", "350", "1.4"."""
    value = _below_thousand([word for word in words if word != "and"])
    if value and cardinal(words) == value:
        return str(value)
    return _decimal(words)


def written(run: Sequence[str]) -> str | None:
    """Return a run as it is written as one; None: as it was said."""
    if all(word in UNITS or word == OH for word in run):
        values = [UNITS.get(word, 0) for word in run]
        is_count = all(after == before + 1 for before, after in pairwise(values))
        if is_count or len(run) < (FEWEST_WITH_OH if OH in run else FEWEST_DIGITS):
            return None  # "two three four years"
        return "".join(map(str, values))
    for form in (_ordinal, _decimal, _year):
        if (text := form(run)) is not None:
            return text
    value = cardinal(run)
    if value is None or value < SMALLEST or _is_short_for_a_fraction(run):
        return None
    return f"{value:,}" if value >= COMMAS_FROM else str(value)


def _is_short_for_a_fraction(run: Sequence[str]) -> bool:
    """Whether more may be meant than is said: "seventy four million eight" is 74.8 million."""
    last = max((at for at, word in enumerate(run) if word in LARGE), default=len(run))
    rest = run[last + 1 :]
    return bool(rest) and rest[0] != "and" and "thousand" not in rest


def cardinal(run: Sequence[str]) -> int | None:
    """Return the value of "one hundred and five thousand two"; None: it is no cardinal."""
    total, scale_before = 0, 10**12
    part = list[str]()
    for before, word in zip(["", *run], run, strict=False):
        if word == "and":  # "fifty and one hundred" are two numbers
            if before != "hundred" and before not in SCALES:
                return None
            continue
        if word not in SCALES:
            part.append(word)
            continue
        value = _below_thousand(part)
        if not value or SCALES[word] >= scale_before:
            return None
        total, scale_before, part = total + value * SCALES[word], SCALES[word], []
    rest = _below_thousand(part) if part else 0
    if rest is None or (total and part and not 0 < rest < min(SCALES.values())):
        return None  # "one thousand fifteen hundred", "one thousand zero"
    return total + rest


def _below_thousand(words: Sequence[str]) -> int | None:
    if "hundred" in words:
        at = words.index("hundred")
        head, tail = _below_hundred(words[:at]), words[at + 1 :]
        rest = _below_hundred(tail) if tail else 0
        return None if not head or rest is None or (tail and not rest) else 100 * head + rest
    return _below_hundred(words)


def _below_hundred(words: Sequence[str]) -> int | None:
    match tuple(words):
        case (word,) if word in UNITS or word in TEENS or word in TENS:
            return (UNITS | TEENS | TENS)[word]
        case (tens, unit) if tens in TENS and UNITS.get(unit):
            return TENS[tens] + UNITS[unit]
        case _:
            return None


def _ordinal(run: Sequence[str]) -> str | None:
    if len(run) < 2 or run[-1] not in ORDINALS:
        return None
    if run[-1] == "second" and (len(run) == 2 or run[-2] == "hundred"):
        return None  # "a thirty second break"
    value = cardinal([*run[:-1], ORDINALS[run[-1]]])
    if value is None:
        return None
    ending = "th" if value % 100 in TEENS.values() else _ENDINGS.get(value % 10, "th")
    return f"{value}{ending}"


def _decimal(run: Sequence[str]) -> str | None:
    if "point" not in run:
        return None
    at = list(run).index("point")
    value, digits = cardinal(run[:at]), run[at + 1 :]
    if value is None or any(word in LARGE for word in run[:at]):
        return None
    if not digits or not all(word in UNITS for word in digits):
        return None
    return f"{value}.{''.join(str(UNITS[word]) for word in digits)}"


def _year(run: Sequence[str]) -> str | None:
    """Nineteen ninety four, twenty twenty six, nineteen oh five; not "eleven thirty", a time."""
    if len(run) == 3 and run[1] == OH and UNITS.get(run[2]):
        first = _below_hundred(run[:1])
        return f"{first}0{UNITS[run[2]]}" if first in CENTURIES else None
    for at in range(1, len(run)):
        first, second = _below_hundred(run[:at]), _below_hundred(run[at:])
        if first is None or second is None:
            continue
        if first in CENTURIES and second >= SMALLEST:
            is_range = len(run) == 2 and 0 < second - first <= RANGE and second <= CENTURIES[-1]
            return None if is_range and first < CENTURIES[-2] else f"{first}{second}"
    return None
