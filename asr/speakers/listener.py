"""Who says which words of one channel, as its finals come.

Does: keep the audio that no final has covered, cut a final where its words pause, embed the voice
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
PAUSE_MS = 320
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
        found = list[tuple[int, int | None]]()
        for piece in cut(words, self._pause_ms):
            label = self._whose(piece)
            if found and found[-1][1] in (label, None):  # who is not known yet is who comes next
                found[-1] = (found[-1][0] + len(piece), label)
            else:
                found.append((len(piece), label))
        return found

    def _whose(self, piece: Sequence[Span]) -> int | None:
        heard = voiced(self._between(piece[0][0] - BEFORE_MS, piece[-1][1] + BEHIND_MS))
        seconds = len(heard) / SAMPLE_RATE_HZ
        return self._speakers.label(self._embed(heard), seconds)

    def _between(self, start_ms: int, end_ms: int) -> Samples:
        start, end = (ms * SAMPLE_RATE_HZ // 1000 - self._begin for ms in (start_ms, end_ms))
        return np.concatenate([*self._packets, NOTHING])[max(0, start) : max(0, end)]


def cut(words: Sequence[Span], pause_ms: int) -> list[Sequence[Span]]:
    """Cut words where they pause for so long."""
    borders = [n for n in range(1, len(words)) if words[n][0] - words[n - 1][1] >= pause_ms]
    begins, ends = [0, *borders], [*borders, len(words)]
    return [words[begin:end] for begin, end in zip(begins, ends, strict=True) if begin < end]
