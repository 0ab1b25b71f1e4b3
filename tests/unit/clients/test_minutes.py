"""A meeting written down in every form."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.minutes import WRITERS, to_minutes
from server.wire.subtitles import (
    CUE_LINES,
    CUE_MS,
    LINE_CHARACTERS,
    READ_MS,
    Segment,
    cues,
    readable,
)

SAID = [
    Segment("Good morning.", 0, 1_000, speaker="Ann"),
    Segment("Shall we begin?", 1_200, 2_500, speaker="Ann"),
    Segment("Yes.", 2_400, 2_900, speaker="Bob"),
    Segment("Four *hundred* [of them].", 65_000, 67_000, speaker="Ann"),
    Segment("", 68_000, 69_000, speaker="Bob"),
]


def test_minutes_have_a_paragraph_for_each_time_somebody_speaks() -> None:
    assert to_minutes(SAID, "Meeting monday") == (
        "# Meeting monday\n"
        "\n"
        "Ann, Bob. 00:01:07.\n"
        "\n"
        "**00:00:00 Ann**: Good morning. Shall we begin?\n"
        "\n"
        "**00:00:02 Bob** *(while Ann spoke)*: Yes.\n"
        "\n"
        "**00:01:05 Ann**: Four \\*hundred\\* \\[of them\\].\n"
    )


def test_minutes_of_one_who_speaks_for_long_say_the_time_every_minute() -> None:
    said = [Segment("word", at, at + 900, speaker="Ann") for at in range(0, 130_000, 20_000)]
    _, _, *paragraphs = to_minutes(said, "m").rstrip("\n").split("\n\n")
    assert paragraphs == [
        "**00:00:00 Ann**: word word word",
        "**00:01:00 Ann**: word word word",
        "**00:02:00 Ann**: word",
    ]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("~~~", "\\~\\~\\~"),
        ("&lt;b&gt;", "\\&lt;b\\&gt;"),
        ("- Ann", "\\- Ann"),
        ("1. Ann", "1\\. Ann"),
        ("A-b. c", "A-b. c"),
        ("$x$", "\\$x\\$"),
    ],
)
def test_no_name_is_markup(name: str, plain: str) -> None:
    text = to_minutes([Segment("yes", 0, 900, speaker=name)], "m")
    assert text.split("\n\n")[1] == f"{plain}. 00:00:00."


def test_nobody_speaks_while_they_speak_themselves() -> None:
    said = [
        Segment("one", 0, 9_000, speaker="Ann"),
        Segment("two", 1_000, 2_000, speaker="Bob"),
        Segment("of the same name", 3_000, 4_000, speaker="Ann"),
    ]
    assert to_minutes(said, "m").endswith("\n\n**00:00:03 Ann**: of the same name\n")


def test_minutes_of_a_silent_meeting_are_a_title() -> None:
    assert to_minutes([], "Meeting monday") == "# Meeting monday\n"


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_has_every_word_and_every_name(form: str) -> None:
    text = WRITERS[form](SAID, "Meeting monday")
    for word in ("morning", "begin", "Yes", "hundred", "Ann", "Bob"):
        assert word in text


def test_a_long_name_leaves_the_words_their_lines() -> None:
    said = [Segment("word " * 30, 0, 9_000, speaker="x" * 64)]
    lines = [line for line in WRITERS["srt"](said, "").splitlines() if "word" in line]
    assert max(map(len, lines)) <= LINE_CHARACTERS
    assert lines[0].startswith(f"{'x' * 17}…: word")


def test_a_short_answer_stays_though_another_speaks_at_once() -> None:
    said = [
        Segment("yes", 0, 200, speaker="Ann"),
        Segment("no", 100, 300, speaker="Bob"),
        Segment("well", 600, 900, speaker="Ann"),
    ]
    assert [(cue.start_ms, cue.end_ms) for cue in readable(cues(said))] == [
        (0, 600), (100, 800), (600, 1_300)
    ]  # fmt: skip


def test_json_keeps_overlap_and_names() -> None:
    spans = [
        (s["speaker"], s["start_ms"], s["end_ms"])
        for s in json.loads(WRITERS["json"](SAID, ""))["segments"]
    ]
    assert spans[1:3] == [("Ann", 1_200, 2_500), ("Bob", 2_400, 2_900)]


LETTERS = st.lists(st.integers(1, 12), min_size=1, max_size=30)


@given(st.lists(st.tuples(LETTERS, st.integers(0, 4_000), st.integers(1, 5_000)), max_size=6))
def test_a_cue_with_its_label_fits_its_lines_and_stays_as_long_as_there_is_room(
    spoken: list[tuple[list[int], int, int]],
) -> None:
    at, segments = 0, []
    for letters, gap, length in spoken:
        text = " ".join("x" * count for count in letters)
        segments.append(Segment(text, at + gap, at + gap + length, speaker="Ann"))
        at += gap + length
    shown = readable(cues(segments))
    for cue in shown:
        first, *others = cue.lines
        assert len(cue.lines) <= CUE_LINES
        assert len("Ann: ") + len(first) <= LINE_CHARACTERS
        assert all(len(line) <= LINE_CHARACTERS for line in others)
    for cue, after in pairwise(shown):
        needed = min(CUE_MS, READ_MS * sum(map(len, cue.lines)))
        assert cue.end_ms >= min(after.start_ms, cue.start_ms + needed)
        assert cue.end_ms <= max(after.start_ms, cue.start_ms + CUE_MS)
