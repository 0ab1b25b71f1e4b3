"""Who says which words of one channel, as its finals come.

Does: keep the last minute of audio, cut a final where its words pause, embed the voice
of each piece, ask who it is.
Does not know: the text, names, sockets; how voices are told apart.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from asr.audio import Resampler, decode
from asr.interface import SAMPLE_RATE_HZ, Samples
from asr.speakers.encoder import Voice, voiced
from asr.speakers.labels import Speakers

KEPT_S = 60.0
"""A final covers no more than 30 s and comes soon."""
PAUSE_MS = 240
"""Between two words: another may have taken the turn."""
BEFORE_MS, BEHIND_MS = 80, 160
"""Sound of a piece around the times of its words."""
NOTHING: Samples = np.zeros(0, np.float32)

Span = tuple[int, int]


class Listener:
    """Hears one channel and labels the words of its finals."""

    def __init__(
        self,
        embed: Callable[[Samples], Voice],
        speakers: Speakers,
        rate: int,
        *,
        pause_ms: int = PAUSE_MS,
    ) -> None:
        self._embed, self._speakers, self._pause_ms = embed, speakers, pause_ms
        self._resampler = Resampler(rate)
        self._packets, self._held = deque[Samples](), 0
        self._numbers = dict[int, int]()
        """Speakers in the order of their words."""
        self._last: int | None = None
        self._begin = 0
        """Sample of the channel that the packets begin with."""

    def hear(self, pcm: bytes) -> None:
        """Take the next packet, little-endian s16."""
        packet = self._resampler.push(decode(pcm, "pcm_s16le")[0])
        self._packets.append(packet)
        self._held += len(packet)
        while self._held > KEPT_S * SAMPLE_RATE_HZ:
            oldest = self._packets.popleft()
            self._held, self._begin = self._held - len(oldest), self._begin + len(oldest)

    def label(self, words: Sequence[Span]) -> list[tuple[int, int | None]]:
        """Return (how many words, whose) for the words of a final, given by their ms."""
        pieces, found = cut(words, self._pause_ms), list[tuple[int, int | None]]()
        for piece, voice in zip(pieces, self._whose(pieces), strict=True):
            if voice is not None:  # else whoever spoke before
                self._last = self._numbers.setdefault(voice, len(self._numbers))
            if found and found[-1][1] in (self._last, None):  # a first word is of who goes on
                found[-1] = (found[-1][0] + len(piece), self._last)
            else:
                found.append((len(piece), self._last))
        return found

    def _whose(self, pieces: Sequence[Sequence[Span]]) -> list[int | None]:
        """Ask for the longest pieces first: what they say is surer."""
        heard = [
            voiced(self._between(piece[0][0] - BEFORE_MS, piece[-1][1] + BEHIND_MS))
            for piece in pieces
        ]
        voices: list[int | None] = [None] * len(pieces)
        for n in sorted(range(len(pieces)), key=lambda n: -len(heard[n])):
            seconds = len(heard[n]) / SAMPLE_RATE_HZ
            voices[n] = self._speakers.label(self._embed(heard[n]), seconds)
        return voices

    def _between(self, start_ms: int, end_ms: int) -> Samples:
        start, end = (ms * SAMPLE_RATE_HZ // 1000 - self._begin for ms in (start_ms, end_ms))
        return np.concatenate([*self._packets, NOTHING])[max(0, start) : max(0, end)]


def cut(words: Sequence[Span], pause_ms: int) -> list[Sequence[Span]]:
    """Cut words where they pause for so long."""
    borders = [n for n in range(1, len(words)) if words[n][0] - words[n - 1][1] >= pause_ms]
    begins, ends = [0, *borders], [*borders, len(words)]
    return [words[begin:end] for begin, end in zip(begins, ends, strict=True) if begin < end]
