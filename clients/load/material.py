"""What the callers say: clips with their texts, strung together to voices of any length.

Does: two shapes (speech all the time; conversation with pauses), 16 kHz mono.
Does not know: when a voice is played, sockets.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from clients.demo import read_samples
from clients.errors import CommandError
from clients.load.plan import RATE_HZ, Lengths
from clients.results import Sample

Shape = Literal["speech", "conversation"]
PAUSES_S: dict[Shape, tuple[float, float]] = {"speech": (0.1, 0.3), "conversation": (0.6, 3.0)}
BRIEF_S = (6.0, 9.0, 12.0, 16.0)
"""Lengths of callers who hang up, in a run of a minute; shorter runs have shorter ones."""
SHORTEST_S = 2.5
MOST_CLIPS = 40


@dataclass(frozen=True, slots=True)
class Voice:
    """16-bit audio and what is said in it."""

    pcm: bytes
    text: str

    @property
    def samples(self) -> int:
        """How many."""
        return len(self.pcm) // 2


@dataclass(frozen=True, slots=True)
class Material:
    """Voices that stay for a whole run, and brief ones."""

    staying: tuple[Voice, ...]
    brief: tuple[Voice, ...]

    @property
    def voices(self) -> tuple[Voice, ...]:
        """All, in the order that a plan counts them."""
        return (*self.staying, *self.brief)

    @property
    def lengths(self) -> Lengths:
        """What a plan must know."""
        return Lengths(
            tuple(voice.samples for voice in self.staying),
            tuple(voice.samples for voice in self.brief),
        )


def material(folder: Path, shape: Shape, total_s: float, *, seed: int = 0) -> Material:
    """Return voices made of a folder's clips. Raises CommandError."""
    clips = _clips(folder)
    dice = random.Random(seed)
    scale = min(1.0, total_s / 70)
    brief_s = [max(SHORTEST_S, seconds * scale) for seconds in BRIEF_S]
    return Material(
        staying=(voice(clips, shape, total_s, dice),),
        brief=tuple(voice(clips, shape, seconds, dice) for seconds in brief_s),
    )


def voice(clips: Sequence[Voice], shape: Shape, seconds: float, dice: random.Random) -> Voice:
    """Join clips, as many as fit whole, with pauses of the shape between them."""
    length = round(seconds * RATE_HZ)
    parts, texts, used = list[bytes](), list[str](), 0
    while True:
        gap = round(dice.uniform(*PAUSES_S[shape]) * RATE_HZ)
        fitting = [clip for clip in clips if used + gap + clip.samples <= length]
        if not fitting:
            break
        clip = dice.choice(fitting)
        parts += [pause(gap, dice), clip.pcm]
        texts.append(clip.text)
        used += gap + clip.samples
    if not texts:
        raise CommandError(f"no clip is shorter than the {seconds:.0f} s that a caller has")
    parts.append(pause(length - used, dice))
    return Voice(b"".join(parts), " ".join(texts))


def pause(samples: int, dice: random.Random) -> bytes:
    """Return the faint noise of a microphone when nobody speaks."""
    noise = np.random.default_rng(dice.getrandbits(32)).integers(-2, 3, samples)
    return bytes(noise.astype("<i2").tobytes())


def _clips(folder: Path) -> list[Voice]:
    fitting = [sample for sample in read_samples(folder) if _is_plain(sample)]
    if not fitting:
        raise CommandError(f"{folder}: the load needs clips of one channel at 16 kHz")
    some = fitting[:: -(-len(fitting) // MOST_CLIPS)]
    return [Voice(b"".join(sample.audio.packets()), sample.texts[0]) for sample in some]


def _is_plain(sample: Sample) -> bool:
    audio = sample.audio
    is_short = audio.seconds <= BRIEF_S[-1]
    return audio.channels == 1 and audio.rate == audio.own_rate == RATE_HZ and is_short
