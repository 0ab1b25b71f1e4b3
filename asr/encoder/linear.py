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


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def make_linear(weight: Tensor, bias: Tensor | None, precision: Precision) -> LinearFn:
    """Return y = x W^T + b for float32 x [..., in]; weight [out, in] (trailing 1s are dropped)."""
    weight = weight.flatten(1).float()
    bias = None if bias is None else bias.float()
    if precision == "fp32":
        weight = weight.contiguous()
        return lambda x: F.linear(x, weight, bias)
    if weight.is_cuda:
        return _plain_bf16(weight.bfloat16(), None if bias is None else bias.bfloat16())
    return _packed_bf16(weight.bfloat16(), None if bias is None else bias.bfloat16())


def _plain_bf16(weight: Tensor, bias: Tensor | None) -> LinearFn:
    return lambda x: F.linear(x.bfloat16(), weight, bias).float()


def _packed_bf16(weight: Tensor, bias: Tensor | None) -> LinearFn:
    # The layout oneDNN wants, made once; otherwise each call reorders the weights again.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 64)  # noqa: SLF001
    run = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
    return lambda x: run(x.bfloat16(), packed, bias, "none", [], "").float()
