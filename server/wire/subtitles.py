"""Finished words to subtitle files: txt, srt, vtt, json.

Does: cut finals into cues of at most two lines of 42 characters, and write them in each format.
Does not know: where words come from. Times are integer ms on the timeline of the recording.
"""

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from server.wire.messages import Final

LINE_CHARACTERS = 42
CUE_LINES = 2
CUE_MS = 6_000
"""A cue stays no longer than this; BBC and DCMP keep cues under six or seven seconds."""
MIN_CUE_MS = 700
"""Nor shorter, unless its speaker goes on."""
GAP_MS = 1_500
"""A pause this long starts a new cue."""
READ_MS = 50
"""A character needs so long to be read: 20 a second."""
MOST_LABEL = 20
"""Of a line, that a speaker's name may take."""
FORMATS = ("txt", "srt", "vtt", "json")


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word and its span."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A finished piece of one channel; ``words`` may be empty, then the text is one span."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[TimedWord, ...] = ()
    speaker: str = ""


def segment_of(final: Final, speaker: str = "") -> Segment:
    """Return a final as subtitles see it."""
    words = tuple(TimedWord(word.w, word.s, word.e) for word in final.words or ())
    return Segment(final.text, final.start_ms, final.end_ms, words, speaker)


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown at once."""

    lines: tuple[str, ...]
    start_ms: int
    end_ms: int
    speaker: str = ""


def cues(segments: Iterable[Segment]) -> list[Cue]:
    """Cues in the order of time; no cue of a channel overlaps the next one of it."""
    found = list[Cue]()
    for segment in segments:
        if not segment.text.strip():
            continue
        found += _segment_cues(segment)
    found.sort(key=lambda cue: cue.start_ms)
    return found


def readable(shown: Sequence[Cue]) -> list[Cue]:
    """Let cues, in the order of time, stay until they can be read, or the next one comes."""
    found, next_of = list[Cue](), dict[str, int]()
    for cue, after in reversed([*zip_longest(shown, shown[1:])]):
        end_ms = cue.start_ms + min(CUE_MS, READ_MS * sum(map(len, cue.lines)))
        if after is not None:
            end_ms = min(end_ms, after.start_ms)
        end_ms = max(end_ms, cue.start_ms + MIN_CUE_MS)
        end_ms = max(cue.end_ms, min(end_ms, next_of.get(cue.speaker, end_ms)))
        found.append(replace(cue, end_ms=end_ms))
        next_of[cue.speaker] = cue.start_ms
    return found[::-1]


def _segment_cues(segment: Segment) -> list[Cue]:
    words = segment.words or tuple(_spread(segment))
    label = min(MOST_LABEL, len(segment.speaker) + 2) if segment.speaker else 0
    groups = _even(words, label)
    return [
        Cue(_lines(group, label), group[0].start_ms, _end(group, after), segment.speaker)
        for group, after in zip(groups, [*groups[1:], None], strict=True)
    ]


def _end(group: Sequence[TimedWord], after: Sequence[TimedWord] | None) -> int:
    """End a cue with its last word, 1 ms after its start at least, before the next cue."""
    end = max(group[-1].end_ms, group[0].start_ms + 1)
    if after is not None:
        end = max(group[0].start_ms, min(end, after[0].start_ms))
    return end


def _spread(segment: Segment) -> list[TimedWord]:
    """Words without times share the span of their segment by length."""
    texts = segment.text.split()
    total = sum(len(t) + 1 for t in texts)
    span, at, words = max(0, segment.end_ms - segment.start_ms), 0, list[TimedWord]()
    for text in texts:
        start = segment.start_ms + span * at // total
        at += len(text) + 1
        words.append(TimedWord(text, start, segment.start_ms + span * at // total))
    return words


def _even(words: Sequence[TimedWord], label: int) -> list[list[TimedWord]]:
    """As few cues as fit, of about the same length: none of one stray word."""
    full = CUE_LINES * LINE_CHARACTERS
    fewest = _grouped(words, label, sys.maxsize)
    length = sum(len(word.text) + 1 for word in words)
    for most in range(length // len(fewest), full):
        groups = _grouped(words, label, most)
        if len(groups) <= len(fewest):
            return groups
    return fewest


def _grouped(words: Sequence[TimedWord], label: int, most: int) -> list[list[TimedWord]]:
    """Cues of so many characters at most, for which ``_lines`` finds no third line."""
    groups, line, column, length = list[list[TimedWord]](), 0, 0, 0
    for word in words:
        length += 1 + len(word.text)
        after = _flow(word.text.split(), line, column)
        if groups and _is_near(groups[-1], word) and after[0] < CUE_LINES and length <= most:
            groups[-1].append(word)
            line, column = after
        else:
            first, *rest = word.text.split() or [""]
            groups.append([word])
            line, column = _flow(rest, 0, label + len(first))
            length = len(word.text)
    return groups


def _flow(texts: Iterable[str], line: int, column: int) -> tuple[int, int]:
    """Return where the last of some words ends that go on behind a column of a line."""
    for text in texts:
        column += 1 + len(text)
        if column > LINE_CHARACTERS:
            line, column = line + 1, len(text)
    return line, column


def _is_near(group: Sequence[TimedWord], word: TimedWord) -> bool:
    is_short = word.end_ms - group[0].start_ms <= CUE_MS
    return is_short and word.start_ms - group[-1].end_ms <= GAP_MS


def _lines(group: Sequence[TimedWord], label: int) -> tuple[str, ...]:
    """Break words into lines; the first leaves ``label`` columns for who speaks."""
    text = " ".join(" ".join(word.text.split()) for word in group)
    # A word is never cut, however long: subtitles are read, and searched, by words.
    lines = textwrap.wrap(
        text,
        LINE_CHARACTERS,
        initial_indent=" " * label,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return tuple(line.lstrip() for line in lines)


def clock(ms: int, *, comma: bool) -> str:
    """``HH:MM:SS,mmm`` (srt) or with a point (vtt)."""
    hours, rest = divmod(ms, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    seconds, milli = divmod(rest, 1000)
    return f"{hours:02}:{minutes:02}:{seconds:02}{',' if comma else '.'}{milli:03}"


def to_txt(segments: Iterable[Segment]) -> str:
    """One line a segment."""
    return "".join(
        f"{f'{s.speaker}: ' if s.speaker else ''}{' '.join(s.text.split())}\n"
        for s in sorted(segments, key=lambda s: s.start_ms)
        if s.text.strip()
    )


def to_srt(segments: Iterable[Segment]) -> str:
    """SubRip."""
    return srt_of(cues(segments))


def srt_of(shown: Iterable[Cue]) -> str:
    """SubRip of cues as they are."""
    blocks = [
        f"{number}\n{clock(cue.start_ms, comma=True)} --> {clock(cue.end_ms, comma=True)}\n"
        + "\n".join(_spoken_by(replace(cue, speaker=_shortened(cue.speaker)), "{}: "))
        + "\n"
        for number, cue in enumerate(shown, start=1)
    ]
    return "\n".join(blocks)


def to_vtt(segments: Iterable[Segment]) -> str:
    """WebVTT; a speaker becomes a voice span."""
    return vtt_of(cues(segments))


def vtt_of(shown: Iterable[Cue]) -> str:
    """WebVTT of cues as they are."""
    blocks = [
        f"{clock(cue.start_ms, comma=False)} --> {clock(cue.end_ms, comma=False)}\n"
        + "\n".join(_spoken_by(_escaped(cue), "<v {}>"))
        + "\n"
        for cue in shown
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def to_json(segments: Iterable[Segment]) -> str:
    """``{"text": ..., "segments": [...]}``."""
    ordered = sorted(segments, key=lambda s: s.start_ms)
    return json.dumps(
        {
            "text": " ".join(" ".join(s.text.split()) for s in ordered if s.text.strip()),
            "segments": [_segment_object(s) for s in ordered],
        },
        ensure_ascii=False,
    )


def _segment_object(segment: Segment) -> dict[str, object]:
    spoken: dict[str, object] = {
        "text": segment.text,
        "start_ms": segment.start_ms,
        "end_ms": segment.end_ms,
        "words": [{"w": w.text, "s": w.start_ms, "e": w.end_ms} for w in segment.words],
    }
    return spoken | ({"speaker": segment.speaker} if segment.speaker else {})


def _shortened(name: str) -> str:
    return name if len(name) + 2 <= MOST_LABEL else f"{name[: MOST_LABEL - 3]}…"


def _spoken_by(cue: Cue, form: str) -> tuple[str, ...]:
    if not cue.speaker:
        return cue.lines
    return (form.format(cue.speaker) + cue.lines[0], *cue.lines[1:])


def _escaped(cue: Cue) -> Cue:
    def escape(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    return Cue(tuple(map(escape, cue.lines)), cue.start_ms, cue.end_ms, escape(cue.speaker))


def write(segments: Sequence[Segment], form: str) -> str:
    """Return the segments in one of ``FORMATS``."""
    return {"txt": to_txt, "srt": to_srt, "vtt": to_vtt, "json": to_json}[form](segments)
