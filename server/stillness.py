"""Whether a session is still: nobody speaks on it, or nothing comes at all.

Does: tell digital silence, quiet and sound apart; watch the audio that comes and the events that
go; say when the session may give its slot back and what ends its rest.
Does not know: workers, slots, what is kept of audio, clocks (``now`` is an argument).

A session whose client sends nothing may rest in the middle of a turn: its media clock stands still.
One that sends silence may rest only when its turn has ended, so that an endpoint's final comes when
it is due.
"""

from collections.abc import Iterable
from enum import Enum

import numpy as np

from asr.audio import AudioError, decode
from asr.events import Event, Progress, Stopped, TurnEnd, TurnStart
from asr.interface import FRAME_MS
from asr.turns import SILENT_DB
from server.hush import SETTLED_S, ZERO_BYTES
from server.wire.messages import SAMPLE_BYTES
from server.worker import link

LEVEL_MS = 20
"""Loudness is that of the loudest stretch of so long: a short consonant is not averaged away."""
_SILENT = 10 ** (SILENT_DB / 20)
LATE_MS = 2 * FRAME_MS
"""Decoded is decoded up to this, less the chunk under way."""


class Sound(Enum):
    """What a packet sounds like."""

    ZERO = "zero"
    """Digital silence."""
    QUIET = "quiet"
    """Nothing that could be speech."""
    LOUD = "loud"


def sound_of(audio: link.Audio, encoding: link.Encoding, rate: int, channels: int) -> Sound:
    """Tell how a packet sounds; one that cannot be read is for the engine to refuse: loud."""
    zero = ZERO_BYTES.get(encoding)
    if zero is not None and audio.data.count(zero) == len(audio.data):
        return Sound.ZERO
    try:
        samples = decode(audio.data, encoding, channels=channels)
    except AudioError:
        return Sound.LOUD
    if max(samples.max(initial=0), -samples.min(initial=0)) <= _SILENT:
        return Sound.QUIET
    stretch, total = max(1, rate * LEVEL_MS // 1000), samples.shape[1]
    begins = np.arange(0, total, stretch)
    energy = np.add.reduceat(samples * samples, begins, axis=1)
    is_loud = energy > _SILENT**2 * np.minimum(stretch, total - begins)
    return Sound.LOUD if is_loud.any() else Sound.QUIET


class Stillness:
    """What one session says and hears, as far as its rest is concerned."""

    def __init__(
        self, opening: link.Open, *, after_s: float, now: float, is_begun: bool = False
    ) -> None:
        self._opening = opening
        self._rate = opening.rate
        self._after_s = after_s
        self._bytes = SAMPLE_BYTES[opening.encoding] * opening.channels
        self._quiet = 0
        """Samples since the last sound."""
        self._zeros = 0
        """Samples of digital silence in a row."""
        self._heard_s = now
        self._speaking = set[int]()
        """Channels with an open turn."""
        self._done = dict.fromkeys(range(opening.channels), opening.at)
        # of a session that began elsewhere nobody knows whether a turn is open: one ends by then
        unknown_ms = opening.turns.max_turn_ms if is_begun else 0
        self._unknown_until = opening.at + unknown_ms * self._rate // 1000

    def hear(self, command: link.Command, *, now: float) -> Sound | None:
        """Take what comes; return how it sounds, None of what makes no sound.

        Loudness is looked at between turns only: whoever speaks is not still anyway.
        """
        if isinstance(command, link.Gap):
            self._heard_s = now
            return None
        if not isinstance(command, link.Audio):
            return None
        self._heard_s = now
        sound = Sound.LOUD
        if not self.is_speaking:
            opening = self._opening
            sound = sound_of(command, opening.encoding, self._rate, opening.channels)
        samples = len(command.data) // self._bytes
        self._quiet = 0 if sound is Sound.LOUD else self._quiet + samples
        self._zeros = self._zeros + samples if sound is Sound.ZERO else 0
        return sound

    def say(self, events: Iterable[tuple[int, Event]]) -> None:
        """Take what is said."""
        for channel, event in events:
            match event:
                case TurnStart():
                    self._speaking.add(channel)
                    self._quiet = self._zeros = 0
                case TurnEnd():
                    self._speaking.discard(channel)
                    self._quiet = self._zeros = 0
                case Progress(done_samples=done):
                    if channel in self._done:
                        self._done[channel] = max(self._done[channel], done)
                case Stopped():
                    self._done.pop(channel, None)
                    self._speaking.discard(channel)

    @property
    def is_speaking(self) -> bool:
        """Whether a turn is open, or may be."""
        return bool(self._speaking) or min(self._done.values(), default=0) < self._unknown_until

    def silent_s(self, *, now: float) -> float:
        """Since when nothing came."""
        return now - self._heard_s

    def is_settled(self, behind: int) -> bool:
        """Whether a state that lacks the last ``behind`` samples had settled in silence."""
        return self._zeros - behind >= SETTLED_S * self._rate

    def is_decoded(self, at: int) -> bool:
        """Whether all audio is, up to the chunk under way."""
        chunk_ms = (self._opening.look_ahead + 1) * FRAME_MS + LATE_MS
        done = min(self._done.values(), default=at)
        return at - done <= chunk_ms * self._rate // 1000

    def is_idle(self, *, now: float) -> bool:
        """Whether nothing came for so long that the slot can be given back."""
        return self.silent_s(now=now) >= self._after_s

    @property
    def is_quiet(self) -> bool:
        """Whether nobody spoke for so long."""
        return self._quiet >= self._after_s * self._rate and not self.is_speaking

    def ends_rest(self, command: link.Command, sound: Sound | None) -> bool:
        """Whether what came has to be decoded now."""
        if isinstance(command, link.Finalize | link.Stop):
            return True
        return sound is Sound.LOUD or (isinstance(command, link.Gap) and self.is_speaking)
