"""Models of published shapes with random weights that speak at the pace of speech; no NeMo.

Does: build a Checkpoint in memory, tune its RNN-T so that tokens depend on frames and on what was
said last; audio in which every frame differs.
Does not know: devices, what is measured.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.checkpoint.frontend import hann_window, mel_filterbank
from asr.checkpoint.spec import Checkpoint, ModelSpec
from asr.checkpoint.weights import ANY, FILTERBANK, JOINT_OUT, WINDOW, expected_shapes
from asr.tokenizer import Tokenizer

TOKENS_A_FRAME = 0.2
"""2.5 tokens a second: about 83 % of all decisions are blanks."""
HOLD, DRIVE = 4.0, 6.0
"""How firmly a side waits for its turn; weight of a side in a logit."""
OPEN = 10.0
"""A gate of an LSTM that is always open, or with a minus always shut."""
SAID = float(np.tanh(1.0))
Samples = NDArray[np.float32]
Frames = Callable[[Checkpoint], Tensor]
"""Encodes some audio: frames in their order [N, D]."""

HYBRID_115M = ModelSpec(
    mel_bins=80, d_model=512, layers=17, heads=8, conv_kernel=9, subsampling_channels=256,
    left_context=70, look_aheads=(13, 6, 1, 0), xscaling=False, pred_hidden=640, pred_layers=1,
    joint_hidden=640, vocab_size=1024, max_symbols=10, has_rnnt=True, has_ctc=False,
)  # fmt: skip
RNNT_600M = replace(HYBRID_115M, mel_bins=128, d_model=1024, layers=24, pred_layers=2)
TINY = replace(
    HYBRID_115M, mel_bins=16, d_model=32, layers=2, heads=2, subsampling_channels=8,
    pred_hidden=16, joint_hidden=16, pred_layers=2, vocab_size=12,
)  # fmt: skip


def model(name: str, spec: ModelSpec, encode: Frames) -> Checkpoint:
    """Return random weights that speak about ``TOKENS_A_FRAME``."""
    tensors = _random(spec)
    pieces = tuple(f"\u2581{number}" for number in range(spec.vocab_size))
    checkpoint = Checkpoint(
        name=name, spec=spec, tensors=tensors, tokenizer=Tokenizer(pieces), fingerprint=name
    )
    _take_turns(tensors, spec, encode(checkpoint))
    return checkpoint


def babble(seconds: float, seed: int) -> Samples:
    """Noise bursts and gliding tones with syllable-like loudness."""
    random, count = np.random.default_rng(seed), int(seconds * 16_000)
    at = np.arange(count) / 16_000
    loud_at, pitch_at = np.arange(0, seconds + 0.2, 0.12), np.arange(0, seconds + 0.3, 0.2)
    loud = np.interp(at, loud_at, random.random(len(loud_at)) ** 3)
    pitch = np.interp(at, pitch_at, 90 + 2500 * random.random(len(pitch_at)))
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
    return (loud * (tone + 0.1 * random.standard_normal(count))).astype(np.float32)


def _random(spec: ModelSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    tensors = {WINDOW: hann_window(), FILTERBANK: mel_filterbank(spec.mel_bins)}
    for name, wanted in expected_shapes(spec).items():
        shape = tuple(4 * spec.d_model if size == ANY else size for size in wanted)
        if name in tensors:
            continue
        if "norm" in name:
            tensors[name] = torch.full(shape, float(name.endswith("weight")))
        else:
            scale = 0.02 if len(shape) == 1 else prod(shape[1:]) ** -0.5
            tensors[name] = torch.randn(shape, generator=generator) * scale
    return tensors


def _take_turns(tensors: dict[str, Tensor], spec: ModelSpec, frames_ND: Tensor) -> None:
    """Let even and odd pieces take turns: a quick direction of the frames says whose it may be,
    and the last piece said forbids its own side."""
    side = torch.ones(spec.vocab_size + 1)
    side[1::2] = -1
    side[-1] = -1  # nothing said yet: the even ones begin
    tensors["decoder.prediction.embed.weight"][:, 0] = side
    hidden = spec.pred_hidden
    for layer in range(spec.pred_layers):  # the first unit of each layer hands the side on
        for kind in ("ih", "hh"):
            name = f"decoder.prediction.dec_rnn.lstm.{{}}_{kind}_l{layer}"
            weight, bias = tensors[name.format("weight")], tensors[name.format("bias")]
            weight[::hidden], bias[::hidden] = 0.0, 0.0
            if kind == "ih":
                weight[2 * hidden, 0] = 5.0
                bias[::hidden] = torch.tensor([OPEN, -OPEN, 0.0, OPEN])
    direction, mean, spread = _quick(frames_ND)
    enough = _threshold(((frames_ND @ direction - mean) / spread).tolist())
    for unit, sign in enumerate((1.0, -1.0)):
        tensors["joint.enc.weight"][unit] = sign * direction / spread
        tensors["joint.enc.bias"][unit] = -sign * mean / spread
        tensors["joint.pred.weight"][unit] = 0.0
        tensors["joint.pred.weight"][unit, 0] = -sign * HOLD / SAID
        tensors["joint.pred.bias"][unit] = 0.0
        tensors[f"{JOINT_OUT}.weight"][:, unit] = DRIVE * (side == sign)
    # What the other units add to the best piece of a side, of those that take turns.
    encoded = frames_ND @ tensors["joint.enc.weight"][2:].T + tensors["joint.enc.bias"][2:]
    rest = encoded.relu() @ tensors[f"{JOINT_OUT}.weight"][:-1, 2:].T
    tensors[f"{JOINT_OUT}.weight"][-1] = 0.0
    added = float(rest[:, ::2].amax(1).mean())
    tensors[f"{JOINT_OUT}.bias"][-1] = DRIVE * (HOLD + enough) + added


def _quick(frames_ND: Tensor) -> tuple[Tensor, float, float]:
    """Return of some random directions the one that swings most from frame to frame."""
    generator = torch.Generator().manual_seed(9)
    tried = torch.randn(64, frames_ND.shape[1], generator=generator)
    along = frames_ND @ tried.T
    spread = along.std(0).clamp(min=1e-6)
    best = int(((along[1:] - along[:-1]).std(0) / spread).argmax())
    return tried[best], float(along[:, best].mean()), float(spread[best])


def _threshold(along: list[float]) -> float:
    """Return how far a swing must go for so many tokens a frame."""
    low, high = -HOLD, HOLD
    for _ in range(20):
        enough, last, said = (low + high) / 2, -1.0, 0
        for value in along:
            if -last * value > enough:
                last, said = -last, said + 1
        low, high = (enough, high) if said > TOKENS_A_FRAME * len(along) else (low, enough)
    return (low + high) / 2
