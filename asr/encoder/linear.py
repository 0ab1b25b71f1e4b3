"""Linear layers prepared once for the precision they run in.

Does: weights -> a callable float32 -> float32; bf16 weights are packed for oneDNN where it can.
Does not know: what the layer is for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Precision = Literal["fp32", "bf16"]
LinearFn = Callable[[Tensor], Tensor]


TYPICAL_ROWS = 64
"""Rows of a batch that oneDNN picks the packed layout for."""


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


PACK_FROM = 500_000
"""Weights of this many numbers gain from oneDNN's packed layout in fp32; smaller ones lose."""


def make_linear(weight: Tensor, bias: Tensor | None, precision: Precision) -> LinearFn:
    """Return y = x W^T + b for float32 x [..., in]; weight [out, in] (trailing 1s are dropped)."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    weight = weight.flatten(1).to(dtype).contiguous()
    bias = None if bias is None else bias.to(dtype)
    is_worth_packing = precision == "bf16" or weight.numel() >= PACK_FROM
    if weight.is_cuda or not is_worth_packing:
        return lambda x: F.linear(x.to(dtype), weight, bias).float()
    # The layout oneDNN wants, made once; otherwise each call reorders the weights again.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)  # noqa: SLF001
    run = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
    return lambda x: run(x.to(dtype), packed, bias, "none", [], "").float()
