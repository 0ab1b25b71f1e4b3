"""Causal 8x subsampling with one cached input column a stage: no mel frame is computed twice.

Does: 8 T mel rows a stream -> T rows of the encoder width, and the next cached columns.
Does not know: attention, tokens.
Source: NeMo parts/submodules/subsampling.py (dw_striding, causal; every stage masked by length).
"""

from collections.abc import Mapping

from torch import Tensor

from asr.encoder.batch import StepInput
from asr.encoder.kit import Kit, StageWeights
from asr.encoder.linear import LinearFn, Precision, make_linear
from asr.encoder.pool import SlotPool

PREFIX = "encoder.pre_encode."


class Subsampling:
    """Three strided stages: a full convolution, then twice depthwise + pointwise.

    Channels come last: then a pointwise convolution is a matrix product as it lies.
    """

    def __init__(self, tensors: Mapping[str, Tensor], precision: Precision, kit: Kit) -> None:
        self._mask = kit.mask
        self._first = kit.first_stage(_stage(tensors, 0))
        self._stages = [kit.stage(_stage(tensors, i)) for i in (2, 5)]
        self._pointwise: list[LinearFn] = [
            make_linear(*_pair(tensors, i), precision, "relu") for i in (3, 6)
        ]
        weight, bias = tensors[PREFIX + "out.weight"], tensors[PREFIX + "out.bias"]
        channels = tensors[PREFIX + "conv.0.bias"].shape[0]
        by_band = weight.view(len(weight), channels, -1).transpose(1, 2).flatten(1)
        self._out = make_linear(by_band, bias, precision)

    def __call__(self, pool: SlotPool, step: StepInput) -> Tensor:
        """Return [B, T, D]."""
        slots = step.slots_B
        inside = step.stage_from[0], step.stage_until[0]
        x = self._first(step.mel_BTF, pool.mel_SF, slots, inside)
        x = self._pointwise[0](self._stages[0](x, pool.stage1_SFC, slots))
        self._mask(x, step.stage_from[1], step.stage_until[1])
        x = self._pointwise[1](self._stages[1](x, pool.stage2_SFC, slots))
        return self._out(x.flatten(2)).float()


def _stage(tensors: Mapping[str, Tensor], index: int) -> StageWeights:
    weight, bias = _pair(tensors, index)
    return StageWeights(weight.flatten(1).T.contiguous(), bias.contiguous())


def _pair(tensors: Mapping[str, Tensor], index: int) -> tuple[Tensor, Tensor]:
    name = f"{PREFIX}conv.{index}"
    return tensors[f"{name}.weight"].float(), tensors[f"{name}.bias"].float()
