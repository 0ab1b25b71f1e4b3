"""What lies between the matrix products of an encoder step, as an interface.

Does: name the parts, their weights and shapes.
Does not know: how they are computed (``plain``: torch, the specification; ``native``: C++).
Shapes: B rows, T frames, D width, H heads, d = D / H, R left context, K kernel, C channels,
F bands, S slots, P distances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from asr.encoder.batch import Geometry, step_geometry


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm's weight and bias [D]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """What attention has besides its projections; all float32."""

    positions_HdP: Tensor
    """Projected sinusoids for distances ``zero`` down to minus the largest look-ahead."""
    zero: int
    """Column of distance 0."""
    bias_u_Hd: Tensor
    bias_v_Hd: Tensor


@dataclass(frozen=True, slots=True)
class DepthwiseWeights:
    """A causal depthwise convolution and the layer norm behind it; all float32."""

    taps_KD: Tensor
    bias_D: Tensor
    norm: Norm


@dataclass(frozen=True, slots=True)
class StageWeights:
    """A 3 x 3 convolution of stride 2 with one input channel for each output; all float32."""

    taps_9C: Tensor
    bias_C: Tensor


@dataclass(frozen=True)
class Place:
    """Where the rows of a batch stand, for all layers of a step."""

    slots_B: Tensor
    frames_B: Tensor
    """Frames before this step."""
    valid_B: Tensor
    """Frames of this step that exist."""
    steps: int
    left: int
    chunk: int

    @cached_property
    def geometry(self) -> Geometry:
        """Masks and distances, worked out at the first asking."""
        return step_geometry(
            self.frames_B, self.valid_B, steps=self.steps, left=self.left, chunk=self.chunk
        )


Attend = Callable[[Tensor, Tensor, Tensor, Place], Tensor]
"""(qkv [B, T, 3 D], keys [S, H, d, R] and values [S, H, R, d], place) -> [B, T, D]."""
Convolve = Callable[[Tensor, Tensor, Place], Tensor]
"""(gated [B, T, 2 D], cache [S, K - 1, D] of the layer, place) -> [B, T, D]."""
Inside = tuple[Tensor, Tensor]
"""First row inside the stream and one past the last, [B] each."""
FirstStage = Callable[[Tensor, Tensor, Tensor, Inside], Tensor]
"""(mel [B, T, F], cache [S, F], slots, inside) -> [B, T / 2, F / 2 + 1, C] rectified, masked."""
Stage = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [B, T, F, C], cache [S, F, C], slots) -> [B, T / 2, F / 2 + 1, C]."""


class Kit(Protocol):
    """Parts that take and give the compute type; the residual stream x [B, T, D] is float32.

    Caches are read at, and then written in place to, the rows of the batch's slots.
    """

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Normalise."""
        ...

    def add_norm(self, x: Tensor, y: Tensor, scale: float, norm: Norm) -> Tensor:
        """Add scale * y to x in place; return x normalised."""
        ...

    def settle(self, x: Tensor, y: Tensor, scale: float, norm: Norm) -> None:
        """Add scale * y to x and normalise x itself."""
        ...

    def attention(self, weights: AttentionWeights) -> Attend:
        """Make the attention of a layer."""
        ...

    def convolution(self, weights: DepthwiseWeights) -> Convolve:
        """Make GLU, mask, depthwise convolution, norm and SiLU of a layer."""
        ...

    def first_stage(self, weights: StageWeights) -> FirstStage:
        """Make the first stage of subsampling."""
        ...

    def stage(self, weights: StageWeights) -> Stage:
        """Make the depthwise half of a later stage."""
        ...

    def mask(self, x: Tensor, first_B: Tensor, until_B: Tensor) -> None:
        """Set the rows of x [B, T, F, C] outside ``first_B`` to ``until_B`` to 0."""
        ...
