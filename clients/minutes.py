"""A meeting written down: minutes in Markdown, subtitles that can be read, text, JSON.

Does: segments of all speakers, in the order of time -> the text of a file.
Does not know: servers, where the segments come from.
"""

import re
from collections.abc import Callable, Sequence

from server.wire.subtitles import (
    Segment,
    clock,
    cues,
    readable,
    srt_of,
    to_json,
    to_txt,
    vtt_of,
)

_MARKUP = re.compile(r"([\\`*_<>\[\]#|~&$])")
_LIST = re.compile(r"^(\d*)([-+.)=])")
"""At the beginning of a line this is no text either."""
PARAGRAPH_MS = 60_000
"""Of one speaker, then the time is said again."""


def to_minutes(segments: Sequence[Segment], title: str) -> str:
    """Markdown: who was there, how long, and a paragraph for each time somebody speaks, for each
    minute of it.

    Speech that began while another spoke says so; nothing is left out.
    """
    spoken = [segment for segment in segments if segment.text.strip()]
    names = list(dict.fromkeys(segment.speaker for segment in spoken))
    end_ms = max((segment.end_ms for segment in spoken), default=0)
    parts = [f"# {_plain(title)}\n"]
    if spoken:
        parts.append(f"{', '.join(map(_plain, names))}. {_time(end_ms)}.\n")
    last: str | None = None
    began_ms = 0
    said_until = dict[str, int]()
    for segment in spoken:
        text = _plain(" ".join(segment.text.split()))
        if last == segment.speaker and segment.start_ms - began_ms < PARAGRAPH_MS:
            parts[-1] = parts[-1].rstrip("\n") + f" {text}\n"
        else:
            others = [
                _plain(name)
                for name, until_ms in said_until.items()
                if until_ms > segment.start_ms and name != segment.speaker
            ]
            aside = f" *(while {' and '.join(others)} spoke)*" if others else ""
            head = f"**{_time(segment.start_ms)} {_plain(segment.speaker)}**{aside}"
            parts.append(f"{head}: {text}\n")
            began_ms = segment.start_ms
        said_until[segment.speaker] = segment.end_ms
        last = segment.speaker
    return "\n".join(parts)


def _time(ms: int) -> str:
    return clock(ms, comma=False).partition(".")[0]


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _LIST.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", text))


WRITERS: dict[str, Callable[[Sequence[Segment], str], str]] = {
    "txt": lambda segments, _: to_txt(segments),
    "md": to_minutes,
    "srt": lambda segments, _: srt_of(readable(cues(segments))),
    "vtt": lambda segments, _: vtt_of(readable(cues(segments))),
    "json": lambda segments, _: to_json(segments),
}
"""By the ending of the file."""
