"""What a checkpoint is: dimensions, tensors under NeMo's names, tokenizer.

Does: name the values a loader hands to an engine, and estimate a stream's memory from them.
Does not know: file formats, engines, streams.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from asr.calibration import Calibration
from asr.tokenizer import Tokenizer


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says why in one sentence."""


class UnreadableCheckpoint(CheckpointError):
    """The files are missing, damaged or hostile."""


class UnsupportedModel(CheckpointError):
    """The files are fine, but the model cannot be streamed exactly by our engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Dimensions of a cache-aware FastConformer, all read from its checkpoint.

    A model without an RNN-T head has 0 in ``pred_hidden``, ``pred_layers`` and ``joint_hidden``.
    """

    mel_bins: int
    d_model: int
    layers: int
    heads: int
    conv_kernel: int
    subsampling_channels: int
    left_context: int
    """Encoder frames of left attention context, the same for every look-ahead."""
    look_aheads: tuple[int, ...]
    """Usable look-aheads in encoder frames, the model's default first."""
    xscaling: bool
    """Whether the encoder's input is multiplied by sqrt(d_model)."""
    pred_hidden: int
    pred_layers: int
    joint_hidden: int
    vocab_size: int
    """Pieces without the blank; the blank's id is ``vocab_size``."""
    max_symbols: int
    """Most tokens RNN-T greedy emits on one frame."""
    has_rnnt: bool
    has_ctc: bool
    prompts: Mapping[str, int] = field(default_factory=dict)
    """Language or task name to prompt id; empty without prompt conditioning."""
    num_prompts: int = 0
    dropped_look_aheads: tuple[int, ...] = ()
    """Look-aheads the checkpoint lists but that cannot stream exactly (left % chunk is not 0)."""

    @property
    def blank(self) -> int:
        """Id of the blank in both heads."""
        return self.vocab_size

    @property
    def ctc_prefix(self) -> str:
        """Where the CTC head's tensors are: a hybrid keeps it apart from the RNN-T decoder."""
        return "ctc_decoder.decoder_layers.0" if self.has_rnnt else "decoder.decoder_layers.0"

    @property
    def subsampled_bins(self) -> tuple[int, int, int, int]:
        """Width of the mel axis before each of the three causal conv stages, and after the last."""
        first = self.mel_bins // 2 + 1
        second = first // 2 + 1
        return self.mel_bins, first, second, second // 2 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model ready for an engine; tensors as stored (fp32 or 16-bit), mapped where possible."""

    name: str
    spec: ModelSpec
    tensors: Mapping[str, Tensor] = field(repr=False)
    """Under NeMo's names, e.g. ``encoder.layers.0.self_attn.linear_q.weight``."""
    tokenizer: Tokenizer
    fingerprint: str
    """Hex digest of spec and weights: equal for equal models, for snapshots and caches."""
    licence: str | None = None
    languages: tuple[str, ...] = ("en",)
    calibration: Calibration = field(default_factory=Calibration)
    lm: str = ""
    """File of the language model that came with it; empty: none did."""


def bytes_per_stream(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> int:
    """Bytes one stream's slot takes: K/V and conv caches in ``dtype``, the small rest in fp32."""
    attention = 2 * spec.layers * spec.left_context * spec.d_model
    conv = spec.layers * spec.d_model * (spec.conv_kernel - 1)
    bins, channels = spec.subsampled_bins, spec.subsampling_channels
    subsampling = bins[0] + channels * (bins[1] + bins[2])
    decoder = 2 * spec.pred_layers * spec.pred_hidden + spec.joint_hidden
    return (attention + conv) * dtype.itemsize + (subsampling + decoder) * 4
