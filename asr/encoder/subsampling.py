"""Causal 8x subsampling with one cached input column a stage: no mel frame is computed twice.

Does: 8 T mel rows a stream -> T rows of the encoder width, and the next cached columns.
Does not know: attention, tokens.
Source: NeMo parts/submodules/subsampling.py (dw_striding, causal; every stage masked by length).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.encoder.batch import StepInput
from asr.encoder.linear import LinearFn, Precision, make_linear
from asr.encoder.pool import SlotPool

PREFIX = "encoder.pre_encode."


class Subsampling:
    """Three strided stages: a full convolution, then twice depthwise + pointwise."""

    def __init__(self, tensors: Mapping[str, Tensor], precision: Precision) -> None:
        self._conv_in = _pair(tensors, 0)
        self._depthwise = [_pair(tensors, i) for i in (2, 5)]
        self._pointwise: list[LinearFn] = [
            make_linear(*_pair(tensors, i), precision) for i in (3, 6)
        ]
        self._out = make_linear(
            tensors[PREFIX + "out.weight"], tensors[PREFIX + "out.bias"], precision
        )

    def __call__(self, pool: SlotPool, step: StepInput) -> Tensor:
        """Return [B, T, D]."""
        x = self._stage(step.mel_BTF.unsqueeze(1), pool.mel_S11F, step.slots_B)
        x = F.relu(F.conv2d(x, *self._conv_in, stride=2))
        x = _mask(x, step.stage_from[0], step.stage_until[0])
        x = self._separable(0, self._stage(x, pool.stage1_SC1F, step.slots_B))
        x = _mask(x, step.stage_from[1], step.stage_until[1])
        x = self._separable(1, self._stage(x, pool.stage2_SC1F, step.slots_B))
        return self._out(x.transpose(1, 2).flatten(2))

    def _stage(self, x_BCTF: Tensor, cache: Tensor, slots_B: Tensor) -> Tensor:
        x = torch.cat([cache[slots_B], x_BCTF], 2)
        cache[slots_B] = x[:, :, -1:]
        return F.pad(x, (2, 1))  # mel axis: kernel - 1 left, stride - 1 right

    def _separable(self, stage: int, x_BCTF: Tensor) -> Tensor:
        weight, bias = self._depthwise[stage]
        y = F.conv2d(x_BCTF, weight, bias, stride=2, groups=weight.shape[0])
        return F.relu(self._pointwise[stage](y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def _pair(tensors: Mapping[str, Tensor], index: int) -> tuple[Tensor, Tensor]:
    name = f"{PREFIX}conv.{index}"
    return tensors[f"{name}.weight"].float(), tensors[f"{name}.bias"].float()


def _mask(x_BCTF: Tensor, first_B: Tensor, until_B: Tensor) -> Tensor:
    row = torch.arange(x_BCTF.shape[2], device=x_BCTF.device)
    inside = (row >= first_B[:, None]) & (row < until_B[:, None])
    return x_BCTF.masked_fill(~inside[:, None, :, None], 0.0)
