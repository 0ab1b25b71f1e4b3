"""Which chunks go into the next batch: earliest deadline first, one look-ahead a batch.

Does: ready streams -> a plan; what is patient runs when nothing else is ready, in short passes,
so that who comes meanwhile waits little. Pure: no torch, no clock.
Does not know: audio, weights, how a step is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from asr.interface import PATIENT

BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Batch sizes with kernels built at start; where products take no others, batches are padded."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A stream with at least one whole chunk (or its last, short one) to run."""

    stream: int
    look_ahead: int
    chunks: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One batch: every stream advances by ``chunks`` chunks of the same look-ahead."""

    look_ahead: int
    chunks: int
    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one step, so that nobody's backlog holds up the others for long."""

    max_rows: int = 32
    max_steps: int = 56
    """Encoder frames of one stream in a catch-up pass."""
    max_frames: int = 224
    """Rows x encoder frames."""
    patient_frames: int = 56
    """The same of what may wait."""

    def most_rows(self, steps: int, *, is_patient: bool = False) -> int:
        """Rows of a batch of so many frames each."""
        frames = self.patient_frames if is_patient else self.max_frames
        return max(1, min(self.max_rows, frames // steps))


GPU_LIMITS = Limits(max_rows=512, max_frames=7168, patient_frames=1792)
"""Of a device that hardly notices a batch of 64."""


def plan_step(ready: Sequence[Ready], limits: Limits) -> Plan | None:
    """Pick the class of the most urgent stream and fill the batch with its like.

    Catch-up: when the most urgent stream is chunks behind, several run in one pass (a power of
    two, so that shapes stay few), together with those that are as far behind.
    """
    if not ready:
        return None
    first = min(ready, key=lambda r: (r.deadline, r.stream))
    chunk = first.look_ahead + 1
    chunks = 1
    while chunks * 2 <= first.chunks and chunks * 2 * chunk <= limits.max_steps:
        chunks *= 2
    is_patient = first.deadline == PATIENT
    rows = limits.most_rows(chunks * chunk, is_patient=is_patient)
    alike = [
        r
        for r in ready
        if r.look_ahead == first.look_ahead
        and r.chunks >= chunks
        and (r.deadline == PATIENT) == is_patient
    ]
    alike.sort(key=lambda r: (r.deadline, r.stream))
    return Plan(first.look_ahead, chunks, tuple(r.stream for r in alike[:rows]))


def bucket(rows: int) -> int:
    """Return the batch size that ``rows`` streams are padded to, where they are."""
    return next((size for size in BUCKETS if size >= rows), rows)
