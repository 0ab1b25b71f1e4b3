"""One conformer layer over a batch of slots: feed-forward, attention, convolution, feed-forward.

Does: x [B, T, D] + caches of this layer -> x, caches written in place.
Does not know: subsampling, decoders, who the streams are.
Source: NeMo ConformerLayer; caching keys and values projected changes nothing but the cost.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.checkpoint.spec import ModelSpec
from asr.encoder.batch import Geometry
from asr.encoder.linear import LinearFn, Precision, make_linear
from asr.encoder.pool import SlotPool

MASKED_SCORE = -10000.0
"""NeMo's value for a hidden key (INF_VAL)."""


class ConformerLayer:
    """Weights of one layer, prepared for the precision they run in."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        spec: ModelSpec,
        index: int,
        *,
        positions_PD: Tensor,
        precision: Precision,
    ) -> None:
        self._spec, self._index = spec, index
        self._prefix, self._tensors, self._precision = (
            f"encoder.layers.{index}.",
            tensors,
            precision,
        )
        self._norms = {
            name: (self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias"))
            for name in (
                "norm_feed_forward1",
                "norm_self_att",
                "norm_conv",
                "norm_feed_forward2",
                "norm_out",
                "conv.batch_norm",  # so named in checkpoints; it is a LayerNorm
            )
        }
        self._feed_forward = [
            (self._linear(f"feed_forward{i}.linear1"), self._linear(f"feed_forward{i}.linear2"))
            for i in (1, 2)
        ]
        self._qkv = self._make_qkv()
        self._attention_out = self._linear("self_attn.linear_out")
        self._pointwise1 = self._linear("conv.pointwise_conv1")
        self._pointwise2 = self._linear("conv.pointwise_conv2")
        taps_KD = self._tensor("conv.depthwise_conv.weight").squeeze(1).T.contiguous()
        depthwise_bias = tensors.get(self._prefix + "conv.depthwise_conv.bias")
        no_bias = torch.zeros(spec.d_model, device=taps_KD.device)
        self._depthwise = (taps_KD, no_bias if depthwise_bias is None else depthwise_bias.float())
        heads, head = spec.heads, spec.d_model // spec.heads
        projected = positions_PD @ self._tensor("self_attn.linear_pos.weight").T
        self._positions_HdP = projected.view(-1, heads, head).permute(1, 2, 0).contiguous()
        self._bias_u = self._tensor("self_attn.pos_bias_u").unsqueeze(1)
        self._bias_v = self._tensor("self_attn.pos_bias_v").unsqueeze(1)
        if precision == "bf16":
            self._positions_HdP = self._positions_HdP.bfloat16()

    def __call__(
        self, x_BTD: Tensor, pool: SlotPool, slots_B: Tensor, geometry: Geometry
    ) -> Tensor:
        """Run the layer; writes keys, values and convolution columns of this step."""
        x = x_BTD + 0.5 * self._run_feed_forward(0, self._norm(x_BTD, "norm_feed_forward1"))
        x = x + self._attend(self._norm(x, "norm_self_att"), pool, slots_B, geometry)
        x = x + self._convolve(self._norm(x, "norm_conv"), pool, slots_B, geometry)
        x = x + 0.5 * self._run_feed_forward(1, self._norm(x, "norm_feed_forward2"))
        return self._norm(x, "norm_out")

    def _tensor(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name].float()

    def _linear(self, name: str) -> LinearFn:
        bias = self._tensors.get(f"{self._prefix}{name}.bias")
        return make_linear(self._tensor(f"{name}.weight"), bias, self._precision)

    def _make_qkv(self) -> LinearFn:
        names = [f"{self._prefix}self_attn.linear_{part}" for part in "qkv"]
        weight = torch.cat([self._tensors[f"{name}.weight"] for name in names])
        biases = [self._tensors.get(f"{name}.bias") for name in names]
        bias = torch.cat([b for b in biases if b is not None]) if biases[0] is not None else None
        return make_linear(weight, bias, self._precision)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._norms[name]
        return F.layer_norm(x, (x.shape[-1],), weight, bias)

    def _run_feed_forward(self, which: int, x: Tensor) -> Tensor:
        first, second = self._feed_forward[which]
        return second(F.silu(first(x)))

    def _attend(self, x: Tensor, pool: SlotPool, slots_B: Tensor, geometry: Geometry) -> Tensor:
        spec, (batch, steps, width) = self._spec, x.shape
        head = width // spec.heads
        q, k, v = self._qkv(x).view(batch, steps, 3, spec.heads, head).permute(2, 0, 3, 1, 4)
        keys, values = pool.keys_LSHRd[self._index], pool.values_LSHRd[self._index]
        k, v = k.to(keys.dtype), v.to(values.dtype)
        all_keys = torch.cat([keys[slots_B], k], 2)
        all_values = torch.cat([values[slots_B], v], 2)
        content = (q + self._bias_u).to(keys.dtype) @ all_keys.transpose(-2, -1)
        # Only the distances that occur in this step: left + T - 1 down to -(C - 1).
        spare = self._positions_HdP.shape[-1] - self._used_positions(geometry)
        position = (q + self._bias_v).to(keys.dtype) @ self._positions_HdP[:, :, spare:]
        index = geometry.position_B1TN.expand(-1, spec.heads, -1, -1)
        score = (content.float() + position.float().gather(3, index)) / math.sqrt(head)
        hidden = ~geometry.is_visible_B1TN
        weight = score.masked_fill(hidden, MASKED_SCORE).softmax(-1).masked_fill(hidden, 0.0)
        mixed = (weight.to(values.dtype) @ all_values).transpose(1, 2).flatten(2)
        first, rows = geometry.write_from, geometry.ring_rows_BT
        keys[slots_B[:, None], :, rows] = k[:, :, first:].transpose(1, 2)
        values[slots_B[:, None], :, rows] = v[:, :, first:].transpose(1, 2)
        return self._attention_out(mixed.float())

    def _used_positions(self, geometry: Geometry) -> int:
        steps = geometry.keep_BT.shape[1]
        return self._spec.left_context + steps - 1 + max(self._spec.look_aheads) + 1

    def _convolve(self, x: Tensor, pool: SlotPool, slots_B: Tensor, geometry: Geometry) -> Tensor:
        y = F.glu(self._pointwise1(x), -1).masked_fill(~geometry.keep_BT[:, :, None], 0.0)
        cache, steps = pool.conv_LSKD[self._index], y.shape[1]
        y = torch.cat([cache[slots_B], y], 1)
        cache[slots_B] = y[:, steps:]
        # A sum of shifted products: ten times as fast as a grouped conv1d of few frames.
        weight_KD, bias_D = self._depthwise
        z = y[:, :steps] * weight_KD[0] + bias_D
        for tap in range(1, len(weight_KD)):
            z.addcmul_(y[:, tap : tap + steps], weight_KD[tap])
        return self._pointwise2(F.silu(self._norm(z, "conv.batch_norm")))
