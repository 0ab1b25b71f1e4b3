"""Linear layers prepared once for the precision they run in.

Does: weights -> a callable that returns the compute type; weights are packed where that pays (bf16
on AMX: by ``product``, else for oneDNN), an activation rides along.
Does not know: what the layer is for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.encoder.product import TiledLinear, can_tile

Precision = Literal["fp32", "bf16"]
Activation = Literal["none", "relu", "swish"]
LinearFn = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[Activation, LinearFn] = {
    "none": lambda x: x,
    "relu": F.relu,
    "swish": F.silu,
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

TYPICAL_ROWS = 64
"""Rows of a batch that oneDNN picks the packed layout for."""
PACK_FROM = 500_000
"""Weights of this many numbers gain from oneDNN's packed layout in fp32; smaller ones lose."""


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def make_linear(
    weight: Tensor, bias: Tensor | None, precision: Precision, activation: Activation = "none"
) -> LinearFn:
    """Return y = act(x W^T + b) for x [..., in], in the precision's type.

    ``weight`` is [out, in] (trailing 1s are dropped).
    """
    dtype = DTYPES[precision]
    weight = weight.flatten(1).to(dtype).contiguous()
    bias = None if bias is None else bias.to(dtype)
    if precision == "bf16" and can_tile(weight):
        return TiledLinear(weight, bias, activation)
    is_worth_packing = precision == "bf16" or weight.numel() >= PACK_FROM
    if weight.is_cuda or not is_worth_packing:
        act = ACTIVATIONS[activation]
        return lambda x: act(F.linear(x.to(dtype), weight, bias))
    # The layout oneDNN wants, made once; otherwise each call reorders the weights again.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)  # noqa: SLF001
    run = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
    return lambda x: run(x.to(dtype), packed, bias, activation, [], "")
