"""One conformer layer over a batch of slots: feed-forward, attention, convolution, feed-forward.

Does: x [B, T, D] + caches of this layer -> x, both written in place.
Does not know: subsampling, decoders, who the streams are, how parts between products are computed.
Source: NeMo ConformerLayer; caching keys and values projected changes nothing but the cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.checkpoint.spec import ModelSpec
from asr.encoder.kit import AttentionWeights, DepthwiseWeights, Kit, Norm, Place
from asr.encoder.linear import Activation, LinearFn, Precision, make_linear
from asr.encoder.pool import SlotPool


@dataclass(frozen=True, slots=True)
class Positions:
    """Sinusoids of distances, largest first, and which row is that of distance 0."""

    table_PD: Tensor
    zero: int


class ConformerLayer:
    """Weights of one layer, prepared for the precision they run in."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        spec: ModelSpec,
        index: int,
        *,
        positions: Positions,
        precision: Precision,
        kit: Kit,
    ) -> None:
        self._index, self._kit = index, kit
        self._prefix, self._tensors, self._precision = (
            f"encoder.layers.{index}.",
            tensors,
            precision,
        )
        self._before_first = self._norm("norm_feed_forward1")
        self._before_attention = self._norm("norm_self_att")
        self._before_convolution = self._norm("norm_conv")
        self._before_second = self._norm("norm_feed_forward2")
        self._at_end = self._norm("norm_out")
        self._first = self._feed_forward("feed_forward1")
        self._second = self._feed_forward("feed_forward2")
        self._qkv = self._make_qkv()
        heads, head = spec.heads, spec.d_model // spec.heads
        projected = positions.table_PD @ self._tensor("self_attn.linear_pos.weight").T
        self._attend = kit.attention(
            AttentionWeights(
                positions_HdP=projected.view(-1, heads, head).permute(1, 2, 0).contiguous(),
                zero=positions.zero,
                bias_u_Hd=self._tensor("self_attn.pos_bias_u").contiguous(),
                bias_v_Hd=self._tensor("self_attn.pos_bias_v").contiguous(),
            )
        )
        self._attention_out = self._linear("self_attn.linear_out")
        self._pointwise1 = self._linear("conv.pointwise_conv1")
        self._convolve = kit.convolution(self._depthwise())
        self._pointwise2 = self._linear("conv.pointwise_conv2")
        del self._tensors  # as they were stored, they would stay on a GPU beside those in use

    def __call__(self, x: Tensor, pool: SlotPool, place: Place) -> None:
        """Run the layer on x [B, T, D]; x, keys, values and convolution columns are written."""
        kit, at = self._kit, self._index
        y = self._run(self._first, kit.norm(x, self._before_first))
        y = self._qkv(kit.add_norm(x, y, 0.5, self._before_attention))
        y = self._attend(y, pool.keys_LSHdR[at], pool.values_LSHRd[at], place)
        y = kit.add_norm(x, self._attention_out(y), 1.0, self._before_convolution)
        y = self._convolve(self._pointwise1(y), pool.conv_LSKD[at], place)
        y = kit.add_norm(x, self._pointwise2(y), 1.0, self._before_second)
        kit.settle(x, self._run(self._second, y), 0.5, self._at_end)

    def _run(self, feed_forward: tuple[LinearFn, LinearFn], x: Tensor) -> Tensor:
        first, second = feed_forward
        return second(first(x))

    def _tensor(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name].float()

    def _norm(self, name: str) -> Norm:
        return Norm(self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias"))

    def _feed_forward(self, name: str) -> tuple[LinearFn, LinearFn]:
        return self._linear(f"{name}.linear1", "swish"), self._linear(f"{name}.linear2")

    def _linear(self, name: str, activation: Activation = "none") -> LinearFn:
        bias = self._tensors.get(f"{self._prefix}{name}.bias")
        return make_linear(self._tensor(f"{name}.weight"), bias, self._precision, activation)

    def _make_qkv(self) -> LinearFn:
        names = [f"{self._prefix}self_attn.linear_{part}" for part in "qkv"]
        weight = torch.cat([self._tensors[f"{name}.weight"] for name in names])
        biases = [self._tensors.get(f"{name}.bias") for name in names]
        bias = torch.cat([b for b in biases if b is not None]) if biases[0] is not None else None
        return make_linear(weight, bias, self._precision)

    def _depthwise(self) -> DepthwiseWeights:
        taps_KD = self._tensor("conv.depthwise_conv.weight").squeeze(1).T.contiguous()
        bias = self._tensors.get(f"{self._prefix}conv.depthwise_conv.bias")
        return DepthwiseWeights(
            taps_KD=taps_KD,
            bias_D=torch.zeros_like(taps_KD[0]) if bias is None else bias.float(),
            norm=self._norm("conv.batch_norm"),  # so named in checkpoints; it is a LayerNorm
        )
