"""Clips to tensors: what one step of training is fed.

Does: load, augment, features, labels and frame targets of a batch.
Does not know: the network, losses, how far the run is (it is told).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.training.augment import Changes
from asr.training.data import Clip, Corpus
from asr.training.features import centre, log_mel, mel_filters
from asr.training.losses import Labels

CLIPS_FOR_MEANS = 200
SAMPLES_A_BUCKET = 10_240
"""Batches are padded to steps of eight encoder frames: oneDNN builds kernels for each new shape."""
LATE_S = {True: 0.08, False: 0.16}
"""How late frame targets are: one frame where the model hears ahead, two where it does not."""
HEARS_AHEAD = 6


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch."""

    mel: Tensor
    frames: Tensor
    pieces: Labels
    sounds: Labels
    seconds: float
    speeds: tuple[float, ...]
    """How many times faster than recorded each clip plays."""


def centred_filters(corpus: Corpus, seed: int) -> Tensor:
    """Mel filters that give this corpus features of mean zero."""
    clips = random.Random(seed).sample(corpus.train, min(CLIPS_FOR_MEANS, len(corpus.train)))
    plain, total, frames = mel_filters(), torch.zeros(80), 0
    for clip in clips:
        mel, count = log_mel(corpus.samples(clip)[None], torch.tensor([clip.length]), plain)
        total += mel.sum((0, 1))
        frames += int(count)
    return centre(plain, total / frames)


def load(
    corpus: Corpus,
    clips: Sequence[Clip],
    filters: Tensor,
    changes: Changes | None = None,
    *,
    views: int = 1,
) -> Batch:
    """Make a batch of clips; without changes exactly as recorded.

    With two views all clips come twice, one after the other, with the same sound and other masks.
    """
    heard = [(corpus.samples(clip), 1.0) for clip in clips]
    if changes is not None:
        heard = [changes.heard(wave) for wave, _ in heard]
    waves = [wave for wave, _ in heard]
    lengths = torch.tensor([len(w) for w in waves])
    padded = pad_sequence(waves, batch_first=True)
    padded = F.pad(padded, (0, -padded.shape[1] % SAMPLES_A_BUCKET))
    mel, frames = log_mel(padded, lengths, filters)
    mel, frames, clips = mel.repeat(views, 1, 1), frames.repeat(views), [*clips] * views
    if changes is not None:
        changes.mask(mel, frames)
    seconds = sum(clip.seconds for clip in clips)
    speeds = tuple(speed for _, speed in heard) * views
    return Batch(
        mel, frames, corpus.piece_labels(clips), corpus.sound_labels(clips), seconds, speeds
    )


def frame_targets(
    corpus: Corpus, clips: Sequence[Clip], speeds: Sequence[float], steps: int, look_ahead: int
) -> tuple[Tensor, Tensor]:
    """Give targets of pieces [B, T] and of sounds [B, 4 T]; clips without word times have none."""
    late, heard = LATE_S[look_ahead >= HEARS_AHEAD], list(zip(clips, speeds, strict=True))
    pieces = [corpus.piece_frames(clip, steps, late=late, speed=speed) for clip, speed in heard]
    sounds = [corpus.sound_frames(clip, 4 * steps, late=late, speed=speed) for clip, speed in heard]
    return torch.stack(pieces), torch.stack(sounds)
