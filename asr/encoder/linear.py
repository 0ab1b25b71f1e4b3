"""Linear layers prepared once for the precision they run in.

Does: weights -> a callable that returns the compute type; weights are packed where that pays (by
``product`` where this core can, else for oneDNN), an activation rides along.
Does not know: what the layer is for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.encoder.product import Numbers, PackedLinear, can_pack

Precision = Numbers
"""int8: weights of the encoder's layers in 8 bits; all else is bf16."""
Activation = Literal["none", "relu", "swish"]
LinearFn = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[Activation, LinearFn] = {
    "none": lambda x: x,
    "relu": F.relu,
    "swish": F.silu,
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
"""What products take and give, and caches hold."""

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


def beside(precision: Precision) -> Precision:
    """Return what all but the layers' products run in: few weights, which want their bits."""
    return "bf16" if precision == "int8" else precision


def make_linear(
    weight: Tensor, bias: Tensor | None, precision: Precision, activation: Activation = "none"
) -> LinearFn:
    """Return y = act(x W^T + b) for x [..., in], in the precision's type.

    ``weight`` is [out, in] (trailing 1s are dropped). What 8 bits cannot hold here is bf16.
    """
    weight = weight.flatten(1)
    if can_pack(weight, precision):
        return PackedLinear(weight, bias, precision, activation)
    dtype = DTYPES[precision]
    weight = weight.to(dtype).contiguous()
    bias = None if bias is None else bias.to(dtype)
    has_product = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    if dtype == torch.bfloat16 and not weight.is_cuda and not has_product:
        # oneDNN has none below AVX-512. Rounded alike, multiplied in fp32: torch's own products of
        # 16 bits take four times that.
        rounded = None if bias is None else bias.float()
        run = make_linear(weight.float(), rounded, "fp32", activation)
        return lambda x: run(x.to(dtype).float()).to(dtype)
    is_worth_packing = dtype == torch.bfloat16 or weight.numel() >= PACK_FROM
    if weight.is_cuda or not is_worth_packing:
        act = ACTIVATIONS[activation]
        return lambda x: act(F.linear(x.to(dtype), weight, bias))
    # The layout oneDNN wants, made once; otherwise each call reorders the weights again.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)  # noqa: SLF001
    multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
    return lambda x: multiply(x.to(dtype), packed, bias, activation, [], "")
