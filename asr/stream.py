"""One live stream as a value, less its cache rows: features, pending mel rows, clock.

Does: keep samples until their step; say how many chunks are ready and when they are due; hand out
the rows of a step with what masks its edges.
Does not know: weights, slots, batches, tokens.
Frame algebra: encoder frame j needs mel rows 8j-14 .. 8j, so a stream's first T frames take
8T - 7 mel rows and every later T frames take 8T.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from asr.features import FFT, HOP, FeatureStream, FrontEnd, windows_of
from asr.interface import FRAME_MS, PATIENT, Samples

FRESH_ROWS = 7
"""Zero rows in front of a fresh stream, in place of the mel rows before its start."""


def subsampled(mel_frames: int) -> tuple[int, int, int]:
    """Return the length of each of the three stages for an utterance of ``mel_frames``."""
    first = mel_frames // 2 + 1
    second = first // 2 + 1
    return first, second, second // 2 + 1


@dataclass(frozen=True, slots=True)
class Take:
    """What one stream brings to a step of T frames: 8 T mel rows, fewer only at its end."""

    missing: int
    """Zero rows in front; then come ``rows``, then those made of ``samples``."""
    rows: Tensor
    samples: Samples
    valid: int
    """Frames that exist."""
    stage_from: tuple[int, int]
    stage_until: tuple[int, int]

    @property
    def given(self) -> int:
        """Rows that are there before any is made."""
        return self.missing + self.rows.shape[0]

    @property
    def made(self) -> int:
        """Rows to be made."""
        return (len(self.samples) - FFT) // HOP + 1 if len(self.samples) else 0

    @property
    def windows(self) -> Tensor:
        """The samples as windows [made, FFT]."""
        return windows_of(self.samples)


@dataclass(slots=True)
class Stream:
    """What a stream is beside its rows in the pools."""

    features: FeatureStream
    look_ahead: int
    mel: Tensor
    """Rows [k, bins] made before the stream was restored."""
    frames: int = 0
    """Encoder frames produced; equals the pool's count."""
    is_finishing: bool = False
    due: float = 0.0
    """When the oldest pending chunk should be done."""
    arrived: float = 0.0
    """When the last sample came that is not patient."""
    prompt: int | None = None
    decode_from: int = 0
    """Frames before it are only encoded: a record of the decoder waits there."""
    source: int | None = None
    """Whom it was copied from, while it may still speak for that stream."""
    chunk_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.chunk_s = (self.look_ahead + 1) * FRAME_MS / 1000

    @classmethod
    def start(cls, front_end: FrontEnd, look_ahead: int, prompt: int | None) -> "Stream":
        """Open an empty stream."""
        mel = torch.zeros(0, front_end.bins)
        return cls(FeatureStream(front_end), look_ahead, mel, prompt=prompt)

    def fork(self) -> "Stream":
        """Copy everything but the cache rows."""
        copy = Stream(self.features.fork(), self.look_ahead, self.mel.clone(), self.frames)
        copy.is_finishing, copy.due, copy.prompt = self.is_finishing, self.due, self.prompt
        copy.arrived, copy.decode_from = self.arrived, self.decode_from
        return copy

    def feed(self, samples: Samples, now: float) -> None:
        """Append 16 kHz samples that arrived at ``now``; PATIENT: some time ago."""
        was_ready = self.chunks_ready() > 0
        self.features.hear(samples)
        if now == PATIENT:
            if not was_ready:
                self.due = PATIENT
            return
        self.arrived = max(self.arrived, now)
        if self.due == PATIENT:  # what waited in front of this is due with it
            was_ready, self.due = False, 0.0
        if not was_ready and self.chunks_ready():
            # A backlog sent at once is due at the pace of speech: it pushes no live stream aside.
            self.due = max(self.arrived + self.chunk_s, self.due)

    def finish(self) -> None:
        """No more audio comes."""
        if self.due == PATIENT:
            self.due = self.arrived + self.chunk_s
        self.features.end()
        self.is_finishing = True

    def chunks_ready(self) -> int:
        """How many chunks could run now; the last one of a finishing stream may be short."""
        chunk = self.look_ahead + 1
        ready = (self._rows() + self._missing_rows()) // (8 * chunk)
        if self.is_finishing:
            ready = -(-self.frames_left() // chunk)
        if self.frames < self.decode_from:  # a pass ends where decoding begins
            ready = min(ready, -(-(self.decode_from - self.frames) // chunk))
        return ready

    def lacks(self) -> int:
        """How many samples it takes until one chunk more could run."""
        chunk_rows = 8 * (self.look_ahead + 1)
        rows = chunk_rows - (self._rows() + self._missing_rows()) % chunk_rows
        return self.features.lacks(self.features.total + rows)

    def frames_left(self) -> int:
        """Count the encoder frames a finishing stream still has to produce."""
        total = self.features.total
        return max(0, subsampled(total)[2] - self.frames) if total else 0

    def is_done(self) -> bool:
        """Whether a finishing stream has produced every frame."""
        return self.is_finishing and self.frames_left() == 0

    def take(self, steps: int) -> Take:
        """Hand out the rows of the next ``steps`` frames and advance."""
        missing, fresh = self._missing_rows(), self.frames == 0
        wanted = 8 * steps - missing
        need = min(wanted, self._rows())
        rows = self.mel
        if rows.shape[0]:
            rows, self.mel = rows[:need], rows[need:]
        samples = self.features.take(need - rows.shape[0])
        valid, until = steps, (4 * steps, 2 * steps)
        if need < wanted:  # the stream ends inside: every stage is masked by its own length
            first, second, third = subsampled(self.features.total)
            until = (first - 4 * self.frames + 3, second - 2 * self.frames + 1)
            valid = third - self.frames
        self.frames += valid
        self.due += steps * FRAME_MS / 1000
        return Take(missing, rows, samples, valid, (3, 1) if fresh else (0, 0), until)

    def state(self) -> dict[str, Tensor]:
        """Everything but the cache rows, as tensors."""
        self.mel = torch.cat([self.mel, self.features.rows()])  # no more audio than must be
        prompt = -1 if self.prompt is None else self.prompt
        counts = [self.look_ahead, self.frames, int(self.is_finishing), prompt, self.decode_from]
        return {"mel": self.mel.clone(), "stream": torch.tensor(counts)} | {
            f"features.{name}": value for name, value in self.features.state().items()
        }

    @classmethod
    def from_state(cls, front_end: FrontEnd, state: dict[str, Tensor]) -> "Stream":
        """Rebuild a stream from ``state()``."""
        look_ahead, frames, is_finishing, prompt, decode_from = state["stream"].tolist()
        parts = {
            k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")
        }
        features = FeatureStream.from_state(front_end, parts)
        stream = cls(features, look_ahead, state["mel"].clone(), frames, bool(is_finishing))
        stream.due = PATIENT  # until something comes that is not
        stream.prompt, stream.decode_from = None if prompt < 0 else prompt, decode_from
        return stream

    def _rows(self) -> int:
        return self.mel.shape[0] + self.features.total - self.features.frames

    def _missing_rows(self) -> int:
        return FRESH_ROWS if self.frames == 0 else 0
