"""Finished words as subtitle files."""

import json
import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from server.wire.subtitles import (
    CUE_LINES,
    CUE_MS,
    LINE_CHARACTERS,
    Segment,
    TimedWord,
    clock,
    cues,
    to_json,
    to_srt,
    to_txt,
    to_vtt,
)


@st.composite
def segments(draw: st.DrawFn) -> list[Segment]:
    """Segments of one channel in the order of time."""
    at, made = 0, []
    for _ in range(draw(st.integers(1, 5))):
        words = []
        for text in draw(st.lists(st.text("abcdefgh'", min_size=1, max_size=14), min_size=1)):
            at += draw(st.integers(0, 2_500))
            words.append(TimedWord(text, at, at + 80))
            at += 80
        text = " ".join(word.text for word in words)
        made.append(Segment(text, words[0].start_ms, at, tuple(words)))
    return made


@given(segments())
def test_no_word_is_lost_and_none_is_said_twice(spoken: list[Segment]) -> None:
    shown = " ".join(line for cue in cues(spoken) for line in cue.lines)
    assert shown.split() == " ".join(s.text for s in spoken).split()


@given(segments())
def test_cues_are_short_and_never_overlap(spoken: list[Segment]) -> None:
    found = cues(spoken)
    for cue in found:
        assert len(cue.lines) <= CUE_LINES
        assert all(len(line) <= LINE_CHARACTERS for line in cue.lines)
        assert cue.start_ms < cue.end_ms <= cue.start_ms + CUE_MS
    for cue, after in pairwise(found):
        assert cue.end_ms <= after.start_ms


def test_no_cue_is_one_stray_word() -> None:
    text = "turn on the lights in the kitchen and play some quiet music while i cooked dinner"
    said = [Segment(text, 0, 4_000, speaker="Ann")]
    assert [" ".join(cue.lines) for cue in cues(said)] == [
        "turn on the lights in the kitchen and play",
        "some quiet music while i cooked dinner",
    ]


def test_srt_is_numbered_and_has_a_comma_before_milliseconds() -> None:
    spoken = [
        Segment("hello there", 0, 900, (TimedWord("hello", 0, 400), TimedWord("there", 500, 900)))
    ]
    assert to_srt(spoken) == "1\n00:00:00,000 --> 00:00:00,900\nhello there\n"


def test_vtt_has_its_head_and_escapes_markup() -> None:
    spoken = [Segment("<b> & co", 1_000, 2_000, speaker="Ann")]
    text = to_vtt(spoken)
    assert text.startswith("WEBVTT\n\n00:00:01.000 --> ")
    assert "<v Ann>&lt;b&gt; &amp; co" in text


def test_words_without_times_share_the_span_of_their_segment() -> None:
    (cue,) = cues([Segment("one two three", 1_000, 4_000)])
    assert (cue.start_ms, cue.end_ms) == (1_000, 4_000)


def test_an_empty_final_makes_no_cue() -> None:
    silent = [Segment("", 0, 900), Segment("  ", 900, 950)]
    assert cues(silent) == []
    assert to_txt(silent) == to_srt(silent) == ""


def test_json_keeps_words_and_joins_the_text() -> None:
    spoken = [Segment("b", 900, 990), Segment("a", 0, 80, (TimedWord("a", 0, 80),))]
    read = json.loads(to_json(spoken))
    assert read["text"] == "a b"
    assert read["segments"][0]["words"] == [{"w": "a", "s": 0, "e": 80}]


@given(st.integers(0, 400_000_000))
def test_a_clock_reads_back_as_the_same_time(ms: int) -> None:
    match = re.fullmatch(r"(\d{2,}):(\d\d):(\d\d)\.(\d{3})", clock(ms, comma=False))
    assert match is not None
    hours, minutes, seconds, milli = map(int, match.groups())
    assert ((hours * 60 + minutes) * 60 + seconds) * 1000 + milli == ms
