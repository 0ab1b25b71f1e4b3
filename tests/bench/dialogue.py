"""Dialogues whose turns are known to the sample: clips joined with pauses drawn from a seed.

Does: trim clips to their sound, join them to turns, say where each turn begins and ends; a voice
detector as clients have it; whose end an announced end of turn was.
Does not know: servers, clocks.
"""

import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.demo import read_samples
from clients.load.material import pause
from clients.load.plan import RATE_HZ

FRAME = RATE_HZ // 50
"""The detector's frame, and a packet: 20 ms."""
STOP_FRAMES = 10
"""Frames without voice that end speech: 0.2 s, as in the public benchmark."""
VOICE_RMS = 100.0
"""Of 16-bit samples, -50 dB; the pauses between the clips lie 30 dB below."""
CLIPS_A_TURN = (1, 3)
INNER_MEDIAN_S, INNER_SIGMA = 0.25, 0.5
"""Log-normal pauses inside a turn: 4 % of them are longer than 0.6 s."""
INNER_S = (0.08, 1.5)
BETWEEN_S = (0.9, 3.0)
QUIET_BEFORE_END_MS = 300
"""An end of turn is announced after at least so much quiet: its speech began before that."""
NOISY = ("11-cafe",)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Audio and the truth about it, in ms."""

    pcm: bytes
    turns: tuple[tuple[int, int], ...]
    pauses: tuple[tuple[int, int], ...]
    """Inside turns."""

    @property
    def hours(self) -> float:
        """How long it is."""
        return len(self.pcm) / 2 / RATE_HZ / 3600


@dataclass(slots=True)
class _Script:
    """A dialogue that grows."""

    parts: list[bytes] = field(default_factory=list)
    turns: list[tuple[int, int]] = field(default_factory=list)
    pauses: list[tuple[int, int]] = field(default_factory=list)
    at: int = 0

    def add(self, part: bytes) -> tuple[int, int]:
        """Append audio; return when it begins and ends, in ms."""
        self.parts.append(part)
        began, self.at = self.at, self.at + len(part) // 2
        return round(began * 1000 / RATE_HZ), round(self.at * 1000 / RATE_HZ)

    def dialogue(self) -> Dialogue:
        """Return what it has become."""
        return Dialogue(b"".join(self.parts), tuple(self.turns), tuple(self.pauses))


def compose(clips: Sequence[bytes], seconds: float, seed: int) -> Dialogue:
    """Join clips to turns until the time is full; two seconds of quiet end it."""
    dice, script = random.Random(seed), _Script()
    script.add(_quiet(dice.uniform(*BETWEEN_S), dice))
    while script.at < seconds * RATE_HZ:
        first, last = script.add(dice.choice(clips))
        for _ in range(dice.randint(*CLIPS_A_TURN) - 1):
            script.pauses.append(script.add(_inner(dice)))
            _, last = script.add(dice.choice(clips))
        script.turns.append((first, last))
        script.add(_quiet(dice.uniform(*BETWEEN_S), dice))
    script.add(_quiet(2.0, dice))
    return script.dialogue()


@dataclass(frozen=True, slots=True)
class Hesitant:
    """A clip and when each of its words is said, in seconds."""

    samples: NDArray[np.int16]
    words: tuple[tuple[float, float], ...]

    def torn(self, dice: random.Random) -> tuple[bytes, bytes]:
        """Return the clip in two, between any two of its words."""
        behind = dice.randrange(1, len(self.words))
        before, after = self.words[behind - 1][1], self.words[behind][0]
        begin, end = round(self.words[0][0] * RATE_HZ), round(self.words[-1][1] * RATE_HZ)
        cut = round((before + after) / 2 * RATE_HZ)
        return self.samples[begin:cut].tobytes(), self.samples[cut:end].tobytes()


def hesitate(clips: Sequence[Hesitant], seconds: float, seed: int) -> Dialogue:
    """Make turns of one clip with one pause, drawn as in ``compose``, between two of its words."""
    dice, script = random.Random(seed), _Script()
    script.add(_quiet(dice.uniform(*BETWEEN_S), dice))
    while script.at < seconds * RATE_HZ:
        halves = dice.choice(clips).torn(dice)
        first, _ = script.add(halves[0])
        script.pauses.append(script.add(_inner(dice)))
        _, last = script.add(halves[1])
        script.turns.append((first, last))
        script.add(_quiet(dice.uniform(*BETWEEN_S), dice))
    script.add(_quiet(2.0, dice))
    return script.dialogue()


def clips_of(folder: Path) -> list[bytes]:
    """Return a folder's clean clips of one voice, cut to where their sound begins and ends."""
    clips = []
    for sample in read_samples(folder):
        audio = sample.audio
        is_plain = audio.channels == 1 and audio.rate == audio.own_rate == RATE_HZ
        if is_plain and audio.seconds < 16 and sample.name not in NOISY:
            clips.append(trimmed(b"".join(audio.packets())))
    return clips


def trimmed(pcm: bytes) -> bytes:
    """Return a clip from its first to its last frame with voice."""
    voiced = [n for n in range(len(pcm) // (2 * FRAME)) if is_voice(_frame(pcm, n))]
    return pcm[2 * FRAME * voiced[0] : 2 * FRAME * (voiced[-1] + 1)]


def is_voice(frame: bytes) -> bool:
    """Whether somebody speaks in a frame."""
    samples = np.frombuffer(frame, "<i2").astype(np.float64)
    return bool(len(samples)) and float(np.sqrt(np.mean(samples**2))) > VOICE_RMS


@dataclass(slots=True)
class VoiceDetector:
    """Tells when speech has stopped for ``STOP_FRAMES``."""

    _quiet: int = STOP_FRAMES
    _heard: int = 0

    def hear(self, frame: bytes) -> int | None:
        """Take 20 ms; return the sample at which speech ended when that is sure now."""
        self._heard += len(frame) // 2
        if is_voice(frame):
            self._quiet = 0
            return None
        self._quiet += 1
        return self._heard - STOP_FRAMES * FRAME if self._quiet == STOP_FRAMES else None


@dataclass(slots=True)
class Verdicts:
    """What the announced ends of a dialogue were."""

    right: dict[int, int] = field(default_factory=dict)
    """Turn of the dialogue -> number of the announcement that ended it."""
    false: list[int] = field(default_factory=list)
    """Moments (ms) at which a turn was ended that went on, or had ended before."""
    missed: int = 0


def judge(turns: Sequence[tuple[int, int]], ends_ms: Iterable[int]) -> Verdicts:
    """Compare announced ends, in order, with the turns."""
    verdicts, starts = Verdicts(), [start for start, _ in turns]
    for number, at_ms in enumerate(ends_ms):
        turn = bisect_left(starts, at_ms - QUIET_BEFORE_END_MS) - 1
        if turn < 0 or at_ms < turns[turn][1] or turn in verdicts.right:
            verdicts.false.append(at_ms)
        else:
            verdicts.right[turn] = number
    verdicts.missed = len(turns) - len(verdicts.right)
    return verdicts


def _inner(dice: random.Random) -> bytes:
    """Return a pause inside a turn."""
    wanted = INNER_MEDIAN_S * np.exp(INNER_SIGMA * dice.gauss(0, 1))
    return _quiet(float(np.clip(wanted, *INNER_S)), dice)


def _quiet(seconds: float, dice: random.Random) -> bytes:
    """Return a pause of whole frames."""
    return pause(round(seconds * RATE_HZ / FRAME) * FRAME, dice)


def _frame(pcm: bytes, number: int) -> bytes:
    return pcm[2 * FRAME * number : 2 * FRAME * (number + 1)]
