"""Digital silence that is kept by its length: what of it has to be heard when it is told again.

Does: make commands of so many samples of silence.
Does not know: workers, sessions, when silence comes.
"""

import math
from collections.abc import Iterator

from asr.interface import FRAME_MS
from server.wire.messages import SAMPLE_BYTES
from server.worker import link

ZERO_BYTES = {"pcm_s16le": b"\x00", "pcm_f32le": b"\x00", "mulaw": b"\xff"}
"""What it is made of; A-law has no zero."""
SETTLED_S = 40
"""After so much of it the state of a model changes no more."""
HEARD_GAP_S = 2
"""A gap is heard as silence up to here, the rest of it moves the clock only (asr.channel)."""
PIECE_S = 1
"""Silence that is spelled out comes in packets of so much."""


def spelled(
    samples: int, opening: link.Open, *, is_settled: bool
) -> Iterator[link.Audio | link.Gap]:
    """Yield what a worker is to be told: as much as settles its state, then a gap, then the rest.

    ``is_settled``: the state behind which it comes has settled already.
    """
    if not samples:
        return  # and there may be no silence in this encoding
    heard = 0 if is_settled else min(samples, SETTLED_S * opening.rate)
    skipped = skippable(samples - heard, opening)
    yield from _zeros(heard, opening)
    if skipped:
        yield link.Gap(0, skipped)
    yield from _zeros(samples - heard - skipped, opening)


def skippable(samples: int, opening: link.Open) -> int:
    """Return how much of a silence can be told as one gap: what is left out is whole chunks.

    Then the audio behind it meets the frames of the encoder as if nothing had been left out.
    """
    rate, chunk_ms = opening.rate, (opening.look_ahead + 1) * FRAME_MS
    unit = math.lcm(chunk_ms * rate, 1_000) // 1_000  # whole chunks of whole samples
    heard = HEARD_GAP_S * rate
    return heard + (samples - heard) // unit * unit if samples >= heard + unit else 0


def _zeros(samples: int, opening: link.Open) -> Iterator[link.Audio]:
    sample = ZERO_BYTES[opening.encoding] * (SAMPLE_BYTES[opening.encoding] * opening.channels)
    while samples:
        piece = min(samples, PIECE_S * opening.rate)
        yield link.Audio(0, sample * piece, 0.0)
        samples -= piece
