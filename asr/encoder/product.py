"""Products of a layer in C++, from weights packed in the order they are read.

Does: choose the way this core multiplies a kind of numbers (tiles, ``product.cpp``, for bf16 on a
core with AMX; else AVX-512, ``dots.cpp``), pack weights, call the function on tensors' memory.
Does not know: how it is compiled (``asr.native``); where this is not to be had, oneDNN does the
same (``linear``). One layout serves any number of rows, and no row's result depends on the others.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.encoder.pages import Pages
from asr.native import library, typed

TILES = Path(__file__).with_suffix(".cpp")
DOTS = TILES.with_name("dots.cpp")
ACTIVATIONS = ("none", "relu", "swish")
ROWS, PANEL, INNER = 16, 32, 32
"""Rows of a tile; outputs made at once; inputs taken at once."""
LARGEST = 127
"""Of weights in 8 bits."""
Numbers = Literal["fp32", "bf16", "int8"]
"""Of the weights; x and y are float32 beside the first, bfloat16 beside the others."""
STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
_pages = Pages()


@dataclass(frozen=True, slots=True)
class Way:
    """How this core multiplies a kind of numbers."""

    pack: Callable[[int, int, int, int], None]
    """(outputs, inputs, weight, packed)."""
    run: Callable[..., None]
    """(shape, x, packed, bias and scales, room, y)."""
    room: Callable[[int, int], int]
    """(rows, inputs) -> bytes that ``run`` wants as scratch."""


class PackedLinear:
    """y = act(x W^T + b) for x [..., in].

    Weights in 8 bits have a scale for each output; x then gets one for each row.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, numbers: Numbers, activation: str
    ) -> None:
        way = way_of(numbers)
        if way is None:
            raise RuntimeError(f"this processor cannot, or no compiler was found: {numbers}")
        self._outer, self._inner = weight.shape
        self._shape = (ctypes.c_int64 * 4)(0, *weight.shape, ACTIVATIONS.index(activation))
        self._type = torch.float32 if numbers == "fp32" else torch.bfloat16
        padding = -self._outer % PANEL
        self._packed = _pages.empty(self._outer + padding, self._inner, dtype=STORED[numbers])
        beside = [torch.zeros(self._outer) if bias is None else bias.float()]
        if numbers == "int8":
            beside.append(weight.float().abs().amax(1) / LARGEST)
            weight = (weight.float() / beside[1].clamp_min(1e-30)[:, None]).round()
        weight = weight.to(STORED[numbers]).contiguous()
        way.pack(self._outer, self._inner, weight.data_ptr(), self._packed.data_ptr())
        self._beside = torch.cat([F.pad(x, (0, padding)) for x in beside])
        self._run, self._room = way.run, way.room
        self._kept = self._packed.data_ptr(), self._beside.data_ptr()

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply."""
        x = x.to(self._type).contiguous()
        self._shape[0] = rows = x.numel() // self._inner
        out = torch.empty(*x.shape[:-1], self._outer, dtype=self._type)
        room = torch.empty(self._room(rows, self._inner), dtype=torch.uint8)
        self._run(self._shape, x.data_ptr(), *self._kept, room.data_ptr(), out.data_ptr())
        return out


def can_pack(weight: Tensor, numbers: Numbers) -> bool:
    """Whether these weights [out, in] can be multiplied here."""
    return not weight.is_cuda and weight.shape[1] % INNER == 0 and way_of(numbers) is not None


@cache
def has_tiles() -> bool:
    """Whether this core has AMX and the system lets this process use it."""
    functions = library(TILES)
    return functions is not None and hasattr(functions, "product") and functions.product_ready() > 0


@cache
def way_of(numbers: Numbers) -> Way | None:
    """Return the fastest way of this core."""
    if numbers == "bf16" and has_tiles():
        return _way(library(TILES), "pack", "product", lambda _, inner: ROWS * inner * 2)
    rooms: dict[Numbers, Callable[[int, int], int]] = {
        "fp32": lambda rows, inner: rows * inner * 4,
        "bf16": lambda rows, inner: rows * inner * 2,
        "int8": lambda rows, inner: rows * (inner * 2 + 8),  # twice, a scale and a sum
    }
    return _way(library(DOTS), f"pack_{numbers}", f"product_{numbers}", rooms[numbers])


def _way(
    functions: ctypes.CDLL | None, pack: str, run: str, room: Callable[[int, int], int]
) -> Way | None:
    if functions is None or not hasattr(functions, run):
        return None
    return Way(
        typed(getattr(functions, pack), "nnpp"), typed(getattr(functions, run), "pppppp"), room
    )
