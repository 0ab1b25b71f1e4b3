"""Several voices on one channel of a meeting: captions and segments under numbered names.

Does: hand the audio to a listener as it is sent, give each final, or each part of one, its name.
Does not know: how voices are told apart, servers, terminals.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from clients.live import Captions, Heard
from server.wire.messages import Final
from server.wire.subtitles import Segment, segment_of


class Listener(Protocol):
    """Hears one channel and says whose its words are."""

    def hear(self, pcm: bytes) -> None:
        """Take the next packet."""

    def label(self, words: Sequence[tuple[int, int]]) -> list[tuple[int, int | None]]:
        """Return (how many words, whose) for the words of a final, given by their ms."""
        ...


Listeners = Callable[[int], Listener]
"""Makes the listener of a channel of a sample rate."""


class Voices:
    """Captions that say who speaks (Captions); what was said is kept in ``segments``."""

    def __init__(self, listener: Listener, heard: Heard, captions: Captions) -> None:
        self._listener, self._heard, self._captions = listener, heard, captions
        self.segments = list[Segment]()

    async def overhear(self, packets: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Hand packets on and hear them."""
        async for packet in packets:
            self._listener.hear(packet)
            yield packet

    def partial(self, name: str, text: str) -> None:
        """Show the open text, whose voice it is comes with the final."""
        self._captions.partial(name, text)

    def final(self, name: str, text: str) -> None:
        """Show the final that came last, under the names of its voices."""
        self._captions.final(name, "")  # the open text is over
        for segment in parted(self._heard.finals[-1], self._listener, name):
            self.segments.append(segment)
            self._captions.final(segment.speaker, segment.text)


def parted(final: Final, listener: Listener, name: str) -> list[Segment]:
    """Cut a final by its voices; where the text has other words than the times, it stays whole."""
    whole = segment_of(final)
    words = whole.words
    spans = [(word.start_ms, word.end_ms) for word in words] or [(final.start_ms, final.end_ms)]
    runs, texts = listener.label(spans), final.text.split()
    if len(runs) == 1 or len(texts) != len(words):
        _, label = max(runs, key=lambda run: run[0])
        return [replace(whole, speaker=_named(name, label))]
    segments, begin = list[Segment](), 0
    for count, label in runs:
        said, end = words[begin : begin + count], begin + count
        segments.append(
            Segment(
                " ".join(texts[begin:end]),
                said[0].start_ms if begin else final.start_ms,
                said[-1].end_ms if end < len(words) else final.end_ms,
                said,
                _named(name, label),
            )
        )
        begin = end
    return segments


def _named(name: str, label: int | None) -> str:
    return name if label is None else f"{name} {label + 1}"
