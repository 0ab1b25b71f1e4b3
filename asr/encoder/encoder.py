"""The encoder step: a batch of slots advances by T frames, whatever the age of its streams.

Does: mel rows -> encoder frames [B, T, D], caches of the pool advanced.
Does not know: tokens, text, scheduling, where mel rows come from.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from asr.checkpoint.spec import ModelSpec
from asr.encoder.batch import StepInput
from asr.encoder.kit import Kit, Place
from asr.encoder.layer import ConformerLayer, Positions
from asr.encoder.linear import DTYPES, Precision, beside
from asr.encoder.native import SOURCE, NativeKit
from asr.encoder.plain import PlainKit
from asr.encoder.pool import SlotPool
from asr.encoder.subsampling import Subsampling
from asr.native import library

Parts = Literal["auto", "plain"]


def choose_kit(parts: Parts, dtype: torch.dtype, device: torch.device) -> Kit:
    """Return native parts on a CPU where a compiler was found; else, or when asked, plain ones."""
    if parts == "auto" and device.type == "cpu" and (functions := library(SOURCE)) is not None:
        return NativeKit(functions, dtype)
    return PlainKit(dtype)


class Encoder:
    """One copy of the weights for every look-ahead of the model."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        spec: ModelSpec,
        *,
        precision: Precision,
        max_steps: int,
        parts: Parts = "auto",
    ) -> None:
        self._spec = spec
        self._scale = math.sqrt(spec.d_model) if spec.xscaling else 1.0
        device = tensors["encoder.pre_encode.out.weight"].device
        kit = choose_kit(parts, DTYPES[precision], device)
        self._subsampling = Subsampling(tensors, beside(precision), kit)
        farthest = spec.left_context + max_steps - 1
        table = sinusoids(farthest, -max(spec.look_aheads), spec.d_model, device)
        positions = Positions(table, zero=farthest)
        self._layers = [
            ConformerLayer(tensors, spec, i, positions=positions, precision=precision, kit=kit)
            for i in range(spec.layers)
        ]

    def step(self, pool: SlotPool, step: StepInput) -> Tensor:
        """Return encoder frames [B, T, D]; rows past ``valid_B`` mean nothing."""
        x = self._subsampling(pool, step) * self._scale
        slots = step.slots_B
        place = Place(
            slots_B=slots,
            frames_B=pool.frames_S[slots],
            valid_B=step.valid_B,
            steps=x.shape[1],
            left=self._spec.left_context,
            chunk=step.look_ahead + 1,
        )
        for layer in self._layers:
            layer(x, pool, place)
        pool.frames_S[slots] += step.valid_B
        return x


def sinusoids(first: int, last: int, width: int, device: torch.device) -> Tensor:
    """Return NeMo's relative positions [first - last + 1, width] for distances first .. last."""
    distance = torch.arange(first, last - 1, -1, dtype=torch.float32, device=device)
    exponent = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    angle = distance[:, None] * torch.exp(exponent * -(math.log(10000.0) / width))
    return torch.stack([torch.sin(angle), torch.cos(angle)], -1).flatten(1)
