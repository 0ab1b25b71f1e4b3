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

from asr.encoder.pages import Pages
from asr.native import library

SOURCE = Path(__file__).with_suffix(".cpp")
ACTIVATIONS = ("none", "relu", "swish")
ROWS, PANEL, INNER = 16, 32, 32
"""Rows of a tile; outputs made at once; inputs taken at once."""
_pages = Pages()


class TiledLinear:
    """y = act(x W^T + b) in bf16 for x [..., in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        functions = _functions()
        if functions is None:
            raise RuntimeError("this processor has no AMX, or no compiler was found")
        self._outer, self._inner = weight.shape
        self._shape = (ctypes.c_int64 * 4)(0, *weight.shape, ACTIVATIONS.index(activation))
        padding = -self._outer % PANEL
        self._bias = F.pad(torch.zeros(self._outer) if bias is None else bias.float(), (0, padding))
        self._packed = _pages.empty(self._outer + padding, self._inner, dtype=torch.bfloat16)
        weight = weight.to(torch.bfloat16).contiguous()
        functions.product_pack(self._outer, self._inner, weight.data_ptr(), self._packed.data_ptr())
        self._run = functions.product
        self._kept = self._packed.data_ptr(), self._bias.data_ptr()

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        x = x.to(torch.bfloat16).contiguous()
        self._shape[0] = rows = x.numel() // self._inner
        out = torch.empty(*x.shape[:-1], self._outer, dtype=torch.bfloat16)
        has_tail = rows > ROWS and rows % ROWS
        tail = torch.empty(ROWS * self._inner if has_tail else 0, dtype=torch.bfloat16)
        self._run(self._shape, x.data_ptr(), *self._kept, tail.data_ptr(), out.data_ptr())
        return out


def can_tile(weight: Tensor) -> bool:
    """Whether these weights [out, in] can be multiplied here."""
    return not weight.is_cuda and weight.shape[1] % INNER == 0 and has_tiles()


def has_tiles() -> bool:
    """Whether this core has AMX and the system lets this process use it."""
    return _functions() is not None


@cache
def _functions() -> ctypes.CDLL | None:
    """Return the functions, once the system has let this process use tiles."""
    functions = library(SOURCE)
    if functions is None or not hasattr(functions, "product") or not functions.product_ready():
        return None
    functions.product.restype = functions.product_pack.restype = None
    functions.product.argtypes = [ctypes.c_void_p] * 6
    functions.product_pack.argtypes = [*[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 2]
    return functions
