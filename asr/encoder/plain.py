"""The parts of an encoder step in plain torch: the specification, and what runs on a GPU.

Does: norms, attention over the ring cache, convolutions, on any device.
Does not know: matrix products' weights, layers, streams.
"""

import math

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

MASKED_SCORE = -10000.0
"""NeMo's value for a hidden key (INF_VAL)."""


class PlainKit:
    """asr.encoder.kit.Kit in torch."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Normalise."""
        return _normed(x, norm).to(self._dtype)

    def add_norm(self, x: Tensor, y: Tensor, scale: float, norm: Norm) -> Tensor:
        """Add and normalise."""
        return self.norm(x.add_(y, alpha=scale), norm)

    def settle(self, x: Tensor, y: Tensor, scale: float, norm: Norm) -> None:
        """Add and normalise in place."""
        x.copy_(_normed(x.add_(y, alpha=scale), norm))

    def attention(self, weights: AttentionWeights) -> Attend:
        """Make the attention of a layer."""
        heads, head, _ = weights.positions_HdP.shape
        table_HdP = weights.positions_HdP.to(self._dtype)
        bias_u, bias_v = weights.bias_u_Hd.unsqueeze(1), weights.bias_v_Hd.unsqueeze(1)

        def attend(qkv: Tensor, keys: Tensor, values: Tensor, place: Place) -> Tensor:
            batch, steps, _ = qkv.shape
            slots_B, geometry = place.slots_B, place.geometry
            q, k, v = qkv.view(batch, steps, 3, heads, head).permute(2, 0, 3, 1, 4)
            all_keys = torch.cat([keys[slots_B], k.transpose(-2, -1)], 3)
            all_values = torch.cat([values[slots_B], v], 2)
            q = q.float()
            content = (q + bias_u).to(keys.dtype) @ all_keys
            # Only the distances that occur in this step, from left + T - 1 down.
            first = weights.zero - (place.left + steps - 1)
            position = (q + bias_v).to(keys.dtype) @ table_HdP[:, :, first:]
            index = geometry.position_B1TN.expand(-1, heads, -1, -1)
            score = (content.float() + position.float().gather(3, index)) / math.sqrt(head)
            hidden = ~geometry.is_visible_B1TN
            weight = score.masked_fill(hidden, MASKED_SCORE).softmax(-1).masked_fill(hidden, 0.0)
            mixed = (weight.to(values.dtype) @ all_values).transpose(1, 2).flatten(2)
            late, rows = geometry.write_from, geometry.ring_rows_BT
            keys[slots_B[:, None], :, :, rows] = k[:, :, late:].transpose(1, 2)
            values[slots_B[:, None], :, rows] = v[:, :, late:].transpose(1, 2)
            return mixed

        return attend

    def convolution(self, weights: DepthwiseWeights) -> Convolve:
        """Make the convolution of a layer."""
        taps_KD = weights.taps_KD

        def convolve(gated: Tensor, cache: Tensor, place: Place) -> Tensor:
            keep_BT = torch.arange(place.steps, device=gated.device) < place.valid_B[:, None]
            y = F.glu(gated.float(), -1).masked_fill(~keep_BT[:, :, None], 0.0)
            y = torch.cat([cache[place.slots_B], y], 1)
            cache[place.slots_B] = y[:, place.steps :]
            # A sum of shifted products: ten times as fast as a grouped conv1d of few frames.
            z = y[:, : place.steps] * taps_KD[0] + weights.bias_D
            for tap in range(1, len(taps_KD)):
                z.addcmul_(y[:, tap : tap + place.steps], taps_KD[tap])
            return F.silu(_normed(z, weights.norm)).to(self._dtype)

        return convolve

    def first_stage(self, weights: StageWeights) -> FirstStage:
        """Make the first stage of subsampling."""
        kernel = weights.taps_9C.T.reshape(-1, 1, 3, 3).contiguous()

        def run(mel: Tensor, cache: Tensor, slots: Tensor, inside: Inside) -> Tensor:
            x = _padded(mel.unsqueeze(-1), cache.unsqueeze(-1), slots)
            x = F.relu(F.conv2d(x, kernel, weights.bias_C, stride=2))
            row = torch.arange(x.shape[2], device=x.device)
            seen = (row >= inside[0][:, None]) & (row < inside[1][:, None])
            return x.masked_fill(~seen[:, None, :, None], 0.0).permute(0, 2, 3, 1).to(self._dtype)

        return run

    def stage(self, weights: StageWeights) -> Stage:
        """Make the depthwise half of a later stage."""
        kernel = weights.taps_9C.T.reshape(-1, 1, 3, 3).contiguous()

        def run(x: Tensor, cache: Tensor, slots: Tensor) -> Tensor:
            padded = _padded(x, cache, slots).float()
            y = F.conv2d(padded, kernel, weights.bias_C, stride=2, groups=len(kernel))
            return y.permute(0, 2, 3, 1).to(self._dtype)

        return run

    def mask(self, x: Tensor, first_B: Tensor, until_B: Tensor) -> None:
        """Set rows to 0."""
        x.masked_fill_(outside(x, first_B, until_B)[:, :, None, None], 0.0)


def outside(x: Tensor, first_B: Tensor, until_B: Tensor) -> Tensor:
    """Say which rows of x [B, T, ..] lie outside the stream."""
    row = torch.arange(x.shape[1], device=x.device)
    return (row < first_B[:, None]) | (row >= until_B[:, None])


def _normed(x: Tensor, norm: Norm) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias)


def _padded(x_BTFC: Tensor, cache_SFC: Tensor, slots: Tensor) -> Tensor:
    """Put the cached row in front, keep the last one, pad the mel axis; [B, C, T + 1, F + 3]."""
    x = torch.cat([cache_SFC[slots][:, None], x_BTFC], 1)
    cache_SFC[slots] = x[:, -1]
    return F.pad(x.permute(0, 3, 1, 2), (2, 1))  # kernel - 1 left, stride - 1 right
