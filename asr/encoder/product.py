"""Products of a layer in bf16 on a core with AMX, in C++ (``product.cpp``).

Does: pack weights in the order they are read, call the function on tensors' memory.
Does not know: how it is compiled (``asr.native``); where this is not to be had, oneDNN does the
same (``linear``). One layout serves any number of rows, and no row's result depends on the others.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.native import library

SOURCE = Path(__file__).with_suffix(".cpp")
ACTIVATIONS = ("none", "relu", "swish")
ROWS, PANEL, INNER = 16, 32, 32
"""Rows of a tile; outputs made at once; inputs taken at once."""


class TiledLinear:
    """y = act(x W^T + b) in bf16 for x [..., in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        functions = _functions()
        if functions is None:
            raise RuntimeError("this processor has no AMX, or no compiler was found")
        self._outer, self._inner = weight.shape
        self._activation = ACTIVATIONS.index(activation)
        padding = -self._outer % PANEL
        self._bias = F.pad(torch.zeros(self._outer) if bias is None else bias.float(), (0, padding))
        self._packed = torch.empty(self._outer + padding, self._inner, dtype=torch.bfloat16)
        weight = weight.to(torch.bfloat16).contiguous()
        sizes = map(ctypes.c_int64, (self._outer, self._inner))
        functions.product_pack(*sizes, _p(weight), _p(self._packed))
        self._run = functions.product

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        x = x.to(torch.bfloat16).contiguous()
        rows = x.numel() // self._inner
        out = torch.empty(*x.shape[:-1], self._outer, dtype=torch.bfloat16)
        tail = torch.empty(ROWS * self._inner, dtype=torch.bfloat16)
        shape = (ctypes.c_int64 * 4)(rows, self._outer, self._inner, self._activation)
        self._run(shape, *map(_p, (x, self._packed, self._bias, tail, out)))
        return out


def can_tile(weight: Tensor) -> bool:
    """Whether these weights [out, in] can be multiplied here."""
    return not weight.is_cuda and weight.shape[1] % INNER == 0 and _functions() is not None


@cache
def _functions() -> ctypes.CDLL | None:
    """Return the functions, once the system has let this process use tiles."""
    functions = library(SOURCE)
    if functions is None or not hasattr(functions, "product") or not functions.product_ready():
        return None
    functions.product.restype = functions.product_pack.restype = None
    return functions


def _p(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
