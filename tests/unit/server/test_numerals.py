"""Number words become digits only where they are sure to be one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.numerals import LEXICON, cardinal, open_from, parts, run_at, written

UNITS = "zero one two three four five six seven eight nine ten eleven twelve".split()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("twelve", "12"),
        ("twenty one", "21"),
        ("one hundred and five", "105"),
        ("two thousand six", "2006"),
        ("nine hundred ninety nine thousand nine hundred ninety nine", "999,999"),
        ("three million two hundred thousand", "3,200,000"),
        ("four nine zero two seven", "49027"),
        ("nineteen ninety four", "1994"),
        ("twenty twenty six", "2026"),
        ("three point one four", "3.14"),
        ("twenty first", "21st"),
        ("ninety ninth", "99th"),
        ("one hundred twenty second", "122nd"),
        ("one hundred first", "101st"),
        ("one hundred and first", "101st"),
        ("two hundred eleventh", "211th"),
        ("two thousand and twelfth", "2012th"),
        ("nineteen oh five", "1905"),
        ("twenty oh seven", "2007"),
        ("five five five oh one two three", "5550123"),
        ("one oh oh seven", "1007"),
        ("nineteen twenty", "1920"),
        ("seventeen eighty nine", "1789"),
        ("fifteen sixty", "1560"),
        ("eighteen twenty one", "1821"),
        ("four three two one", "4321"),
        ("one million and five", "1,000,005"),
    ],
)
def test_a_clean_number_is_written_in_digits(said: str, text: str) -> None:
    assert run_at(said.split(), 0) == len(said.split())
    assert written(said.split()) == text


@pytest.mark.parametrize(
    "said",
    ["five", "one two", "seven thirty", "hundred", "twenty twenty one two", "thousand million",
     "million thousand", "three point twelve", "zero hundred", "twenty zero",
     "fifty and one hundred", "twenty and five thousand", "one thousand and fifteen hundred",
     "one hundred zero", "one thousand zero", "eleven thirty", "twelve oh five", "nine oh five",
     "thirty second", "one hundred second", "twenty thousandth",
     # what counts up is no code, a range no year, and no billion is a decimal's whole part
     "two three four", "one two three four five", "fifteen twenty", "fourteen fifteen",
     "eighteen nineteen", "five hundred forty one billion and one point six",
     "seventy four million eight", "one billion two hundred"],
)  # fmt: skip
def test_what_is_not_sure_stays_as_it_was_said(said: str) -> None:
    assert written(said.split()) is None


@pytest.mark.parametrize(
    ("said", "length"),
    [
        ("twenty cats", 1),
        ("five and cats", 1),
        ("five and six cats", 3),
        ("the twenty", 0),
        ("and five", 0),
        ("first of all", 0),
        ("twenty first of may", 2),
        ("four fifth", 1),
        ("one hundred and first of all", 4),
        ("one hundred and second hand", 4),
        ("twenty and first", 1),
        ("twenty thousandth", 2),
        ("twenty oh no", 1),
        ("twenty oh oh no", 1),
        ("oh five", 0),
    ],
)
def test_a_run_ends_where_numbers_end(said: str, length: int) -> None:
    assert run_at(said.split(), 0) == length


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("five hundred million", "500 million"),
        ("two billion", "2 billion"),
        ("one hundred and twenty million", "120 million"),
        ("one point four billion", "1.4 billion"),
        ("two hundred thousand", "200,000"),
        ("one billion two hundred fifty million", "1,250,000,000"),
        ("twenty one and twenty two", "21 and 22"),
        ("two thousand and five hundred", "2500"),
        ("two hundred and twenty and thirty", "220 and 30"),
        ("twenty one and two hundred and five", "21 and 205"),
        ("ten and twenty and thirty million", "10 and 20 and 30 million"),
        ("five and twenty", "five and twenty"),
        ("nine and ten", "nine and ten"),
        ("thousand million", "thousand million"),
    ],
)
def test_what_a_run_is_made_of_is_written_each_by_itself(said: str, text: str) -> None:
    found = parts(said.split())
    assert " ".join(part for part, _ in found) == text
    assert sum(count for _, count in found) == len(said.split())


@given(st.integers(0, 999_999_999))
def test_every_cardinal_is_read_back(value: int) -> None:
    assert cardinal(_said(value)) == value


@given(st.lists(st.sampled_from([*LEXICON, "cat", "first", "thousandth"]), max_size=9))
def test_words_to_come_change_nothing_before_the_open_run(words: list[str]) -> None:
    for count in range(len(words) + 1):
        cut = open_from(words[:count])
        at = 0
        while at < cut:  # every run before the cut ends before it, whatever follows
            end = max(at + 1, run_at(words, at))
            assert end <= cut
            assert end == max(at + 1, run_at(words[:cut], at))
            at = end


def _said(value: int) -> list[str]:
    for scale, name in ((10**6, "million"), (1_000, "thousand"), (100, "hundred")):
        if value >= scale:
            rest = value % scale
            return [*_said(value // scale), name, *(_said(rest) if rest else [])]
    if value < len(UNITS):
        return [UNITS[value]]
    tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()
    teens = "thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
    if value < 20:
        return [teens[value - 13]]
    return [tens[value // 10 - 2], *([UNITS[value % 10]] if value % 10 else [])]
