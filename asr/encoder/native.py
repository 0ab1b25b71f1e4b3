"""The parts of an encoder step in C++ (``native.cpp``).

Does: call the functions on tensors' memory.
Does not know: how they are compiled (``asr.native``); without a compiler ``plain`` does the work.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.encoder.kit import (
    Attend,
    AttentionWeights,
    Convolve,
    DepthwiseWeights,
    FirstStage,
    Inside,
    Norm,
    Place,
    Stage,
    StageWeights,
)
from asr.encoder.plain import PlainKit, outside
from asr.encoder.product import INNER, ROWS, has_tiles
from asr.native import library, typed

SOURCE = Path(__file__).with_suffix(".cpp")
PAIRS = SOURCE.with_name("attention.cpp")
LANES = 16
"""Floats the C++ takes at once."""


class _Attention:
    """One way to attend: its functions, and the positions as they want them."""

    def __init__(self, functions: ctypes.CDLL, suffix: str, table: Tensor) -> None:
        self.table = table
        self.run = typed(getattr(functions, f"attend_{suffix}"), "p" * 12)
        self.scratch = functions.attend_scratch
        self.scratch.restype = ctypes.c_int64


class NativeKit:
    """asr.encoder.kit.Kit in C++."""

    def __init__(self, functions: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._dtype, self._functions = dtype, functions
        self._suffix = "bf16" if dtype == torch.bfloat16 else "fp32"
        self._norm = self._function("norm", "nnpppp")
        self._add_norm = self._function("add_norm", "nnppfppp")
        self._settle = self._function("settle", "nnppfpp")
        self._scratch = torch.empty(0)

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Normalise."""
        out, width = torch.empty_like(x, dtype=self._dtype), x.shape[-1]
        sizes = x.numel() // width, width
        self._norm(*sizes, x.data_ptr(), *_both(norm), out.data_ptr())
        return out

    def add_norm(self, x: Tensor, y: Tensor, scale: float, norm: Norm) -> Tensor:
        """Add and normalise."""
        out, width = torch.empty_like(y), x.shape[-1]
        sizes = x.numel() // width, width
        self._add_norm(*sizes, x.data_ptr(), y.data_ptr(), scale, *_both(norm), out.data_ptr())
        return out

    def settle(self, x: Tensor, y: Tensor, scale: float, norm: Norm) -> None:
        """Add and normalise in place."""
        sizes = x.numel() // x.shape[-1], x.shape[-1]
        self._settle(*sizes, x.data_ptr(), y.data_ptr(), scale, *_both(norm))

    def attention(self, weights: AttentionWeights) -> Attend:
        """Make the attention of a layer."""
        heads, head, _ = weights.positions_HdP.shape
        if head % LANES:
            return PlainKit(self._dtype).attention(weights)
        # Whole registers are read, so the table goes on by one.
        table = F.pad(weights.positions_HdP, (0, LANES)).contiguous()
        long = _Attention(self._functions, self._suffix, table)
        short = self._in_pairs(table) or long
        stride = table.shape[2]
        bias_u, bias_v = weights.bias_u_Hd, weights.bias_v_Hd

        def attend(qkv: Tensor, keys: Tensor, values: Tensor, place: Place) -> Tensor:
            rows, steps, width = qkv.shape
            out = torch.empty(rows, steps, width // 3, dtype=qkv.dtype)
            sizes = (rows, steps, heads, head, place.left, place.chunk, stride, weights.zero)
            shape = (ctypes.c_int64 * len(sizes))(*sizes)
            way = short if place.chunk <= ROWS else long
            scratch = self._room(way.scratch(shape))
            way.run(
                shape,
                *map(_p, (qkv, keys, values, place.slots_B, place.frames_B, place.valid_B)),
                *map(_p, (way.table, bias_u, bias_v, scratch, out)),
            )
            return out

        return attend

    def _in_pairs(self, table_HdP: Tensor) -> "_Attention | None":
        """Return the way of a core that multiplies bf16, where this is one."""
        functions = library(PAIRS) if self._dtype == torch.bfloat16 else None
        if functions is None or not hasattr(functions, "attend_bf16"):
            return None
        heads, head, stride = table_HdP.shape
        takes = functions.attend_takes()
        if head % takes or (takes == INNER and not has_tiles()):
            return None
        pairs = table_HdP.bfloat16().view(heads, head // 2, 2, stride).transpose(2, 3).contiguous()
        return _Attention(functions, self._suffix, pairs)

    def convolution(self, weights: DepthwiseWeights) -> Convolve:
        """Make the convolution of a layer."""
        run, norm = self._function("convolve", "nnnn" + "p" * 10), weights.norm
        taps, bias = weights.taps_KD.contiguous(), weights.bias_D.contiguous()
        kernel, width = taps.shape

        def convolve(gated: Tensor, cache: Tensor, place: Place) -> Tensor:
            rows, steps, _ = gated.shape
            out = torch.empty(rows, steps, width, dtype=gated.dtype)
            scratch = self._room((kernel + steps) * width)
            run(
                *(rows, steps, width, kernel),
                *map(_p, (gated, place.slots_B, place.valid_B, cache, taps, bias)),
                *map(_p, (norm.weight, norm.bias, scratch, out)),
            )
            return out

        return convolve

    def first_stage(self, weights: StageWeights) -> FirstStage:
        """Make the first stage of subsampling."""
        run, taps, bias = self._function("first_stage", "nnnn" + "p" * 8), *_taps(weights)

        def stage(mel: Tensor, cache: Tensor, slots: Tensor, inside: Inside) -> Tensor:
            rows, steps, bands = mel.shape
            out = torch.empty(rows, steps // 2, bands // 2 + 1, len(bias), dtype=self._dtype)
            begin, end = (side.contiguous() for side in inside)
            run(
                *(rows, steps, bands, len(bias)),
                *map(_p, (mel, cache, slots, taps, bias, begin, end, out)),
            )
            return out

        return stage

    def stage(self, weights: StageWeights) -> Stage:
        """Make the depthwise half of a later stage."""
        run, taps, bias = self._function("depthwise_stage", "nnnn" + "p" * 6), *_taps(weights)

        def stage(x: Tensor, cache: Tensor, slots: Tensor) -> Tensor:
            rows, steps, bands, channels = x.shape
            out = torch.empty(rows, steps // 2, bands // 2 + 1, channels, dtype=x.dtype)
            run(rows, steps, bands, channels, *map(_p, (x, cache, slots, taps, bias, out)))
            return out

        return stage

    def mask(self, x: Tensor, first_B: Tensor, until_B: Tensor) -> None:
        """Set rows to 0: in a stream's first and last step only is there one."""
        hidden = outside(x, first_B, until_B)
        if bool(hidden.any()):
            x[hidden] = 0

    def _room(self, count: int) -> Tensor:
        """Return floats that are free until the next call; a core has them in its cache."""
        if len(self._scratch) < count:
            self._scratch = torch.empty(count)
        return self._scratch

    def _function(self, name: str, takes: str) -> "ctypes._NamedFuncPointer":
        return typed(getattr(self._functions, f"{name}_{self._suffix}"), takes)


_p = Tensor.data_ptr


def _both(norm: Norm) -> tuple[int, int]:
    return norm.weight.data_ptr(), norm.bias.data_ptr()


def _taps(weights: StageWeights) -> tuple[Tensor, Tensor]:
    return weights.taps_9C, weights.bias_C
