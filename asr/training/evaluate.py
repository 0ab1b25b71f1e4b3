"""Word error rate on dev clips while training: greedy CTC, offline under one look-ahead.

Does: transcripts and error rates by source.
Does not know: streaming; the released figures come from the engine, not from here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.scoring import align
from asr.training import batches
from asr.training.data import Corpus
from asr.training.model import Model

CLIPS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class DevResult:
    """Word error rate in per cent by source, ``all`` together."""

    wer: dict[str, float]
    silent: float
    """Share of clips without a word: whether the model is still on blank."""


def greedy(logits: Tensor, frames: Tensor) -> list[list[int]]:
    """Best label of each frame, repeats and blanks taken out."""
    blank = logits.shape[-1] - 1
    out = []
    for row, count in zip(logits.argmax(-1).cpu(), frames.tolist(), strict=True):
        ids = torch.unique_consecutive(row[:count])
        out.append(ids[ids != blank].tolist())
    return out


@torch.inference_mode()
def evaluate(
    model: Model, corpus: Corpus, filters: Tensor, look_ahead: int, every: int = 1
) -> DevResult:
    """Transcribe every n-th dev clip and count errors."""
    clips = sorted(corpus.dev[::every], key=lambda c: c.length)
    device = next(model.parameters()).device
    counts: dict[str, list[int]] = {}
    silent = 0
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        part = clips[start : start + CLIPS_AT_ONCE]
        batch = batches.load(corpus, part, filters)
        encoded = model.encoder(batch.mel.to(device), batch.frames.to(device), look_ahead)
        for clip, ids in zip(part, greedy(model.ctc(encoded.final), encoded.frames), strict=True):
            heard = corpus.pieces.decode(ids).split()
            silent += not heard
            for key in (clip.source, "all"):
                errors, words = counts.setdefault(key, [0, 0])
                counts[key] = [errors + align(clip.words, heard).total, words + len(clip.words)]
    wer = {key: round(100 * e / max(1, w), 1) for key, (e, w) in sorted(counts.items())}
    return DevResult(wer, round(silent / max(1, len(clips)), 3))
