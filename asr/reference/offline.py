"""What NeMo says of a whole utterance: the truth our streaming is held against.

Does: features, encoder frames, tokens and times of NeMo's offline path.
Does not know: streaming, our engine.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.interface import Samples
from asr.reference.nemo import attention_context, ctc_head, has_transducer, pieces_of, prompted


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """What NeMo says of a whole utterance."""

    features: Tensor
    """Log-mel [frames, bins]."""
    encoded: Tensor
    """Encoder frames [frames, d_model], after the prompt kernel where there is one."""
    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    """Encoder frame of each token."""
    ctc: list[int] | None = None
    ctc_frames: list[int] | None = None


@torch.inference_mode()
def offline(model: Any, samples: Samples, look_ahead: int, *, prompt: int | None = None) -> Offline:
    """Run a whole utterance through NeMo's offline path."""
    model.encoder.set_default_att_context_size(attention_context(model, look_ahead))
    mel, mel_length = model.preprocessor(
        input_signal=torch.from_numpy(np.ascontiguousarray(samples))[None],
        length=torch.tensor([len(samples)]),
    )
    encoded, length = model.encoder(audio_signal=mel, length=mel_length)
    encoded = prompted(model, encoded, prompt)
    tokens, frames = list[int](), list[int]()
    if has_transducer(model):
        hypothesis = model.decoding.rnnt_decoder_predictions_tensor(
            encoded, length, return_hypotheses=True
        )[0]
        tokens = [int(token) for token in hypothesis.y_sequence]
        frames = [int(frame) for frame in hypothesis.timestamp]
    head = ctc_head(model)
    labels = head(encoder_output=encoded)[0, : int(length)].argmax(-1).tolist() if head else None
    ctc = None if labels is None else collapse(labels, len(pieces_of(model)))
    return Offline(
        features=mel[0, :, : int(mel_length)].T,
        encoded=encoded[0, :, : int(length)].T,
        tokens=tokens,
        frames=frames,
        ctc=None if ctc is None else [label for label, _ in ctc],
        ctc_frames=None if ctc is None else [frame for _, frame in ctc],
    )


def collapse(labels: list[int], blank: int, last: int | None = None) -> list[tuple[int, int]]:
    """CTC labels of frames -> (token, frame of its first label)."""
    before = [blank if last is None else last, *labels]
    return [
        (label, frame) for frame, label in enumerate(labels) if label not in (blank, before[frame])
    ]
