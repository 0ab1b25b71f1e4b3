"""The network as it is trained: a cache-aware FastConformer with CTC and transducer heads.

Does: offline forward with the chunked mask of one look-ahead a batch; parameter names are NeMo's.
Does not know: losses, audio, streaming (the engine's encoder does that).

torch's default initialisation leaves, at the encoder's input, a deviation over time a quarter of
the constant beside it, and CTC then stays on blank for hours: the subsampling starts by He's rule.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.training.config import ModelConfig

MELS = 80
SUBFRAMES = 4
"""Outputs of the sounds head for one encoder frame: 50 Hz."""
MASKED = -10_000.0
FEATURE_SCALE = 0.25
"""Log-mel deviates by about four; the first convolution starts by taking that away."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoder says of a batch."""

    final: Tensor
    frames: Tensor
    sounding: Tensor
    """Output of the layer the sounds head listens to."""
    middle: Tensor
    """Output of the layer of the inner CTC."""


class Subsampling(nn.Module):
    """Causal depthwise-striding by 8; each stage is masked by its own length, as NeMo does."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        ch = config.channels

        def depthwise() -> nn.Conv2d:
            return nn.Conv2d(ch, ch, 3, 2, groups=ch)

        def pointwise() -> nn.Conv2d:
            return nn.Conv2d(ch, ch, 1)

        self.conv = nn.Sequential(
            nn.Conv2d(1, ch, 3, 2), nn.ReLU(),
            depthwise(), pointwise(), nn.ReLU(),
            depthwise(), pointwise(), nn.ReLU(),
        )  # fmt: skip
        bands = ((MELS // 2 + 1) // 2 + 1) // 2 + 1
        self.out = nn.Linear(ch * bands, config.width)
        with torch.no_grad():
            for part in (*self.conv, self.out):
                if isinstance(part, nn.Conv2d | nn.Linear):
                    gain = 1 if part is self.out else 2
                    part.weight.normal_(0, math.sqrt(gain / part.weight[0].numel()))
                    nn.init.zeros_(part.bias)  # type: ignore[arg-type]
            first = self.conv[0]
            assert isinstance(first, nn.Conv2d)
            first.weight.mul_(FEATURE_SCALE)

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, mels] -> [B, T / 8, width]. Stays in fp32: bf16 convolutions are slower on CPU."""
        with torch.autocast(mel.device.type, enabled=False):
            x = _mask(mel.unsqueeze(1), frames)
            for group in ((0,), (2, 3), (5, 6)):
                x = F.pad(x, (2, 1, 2, 1))
                for i in group:
                    x = self.conv[i](x) if i else self._first(x)
                frames = frames // 2 + 1
                x = _mask(F.relu(x), frames)
        return self.out(x.transpose(1, 2).flatten(2)), frames

    def _first(self, x: Tensor) -> Tensor:
        """Multiply patches by the first filters, channels last: half the time of a convolution."""
        conv = self.conv[0]
        assert isinstance(conv, nn.Conv2d)
        patches = x[:, 0].unfold(1, 3, 2).unfold(2, 3, 2).flatten(3)
        return F.linear(patches, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def _mask(x: Tensor, frames: Tensor) -> Tensor:
    inside = torch.arange(x.shape[2], device=x.device) < frames[:, None]
    return x * inside[:, None, :, None]


class Attention(nn.Module):
    """Multi-head attention with relative positions (Transformer-XL), untied biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, self.size))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, self.size))

    def forward(self, x: Tensor, positions: Tensor, blocked: Tensor) -> Tensor:
        """``positions`` [2T - 1, width] for distances T - 1 down to 1 - T."""
        b, t, width = x.shape
        q, k, v = (
            f(x).view(b, t, self.heads, self.size)
            for f in (self.linear_q, self.linear_k, self.linear_v)
        )
        p = self.linear_pos(positions).view(-1, self.heads, self.size).permute(1, 2, 0)
        content = (q + self.pos_bias_u.to(q.dtype)).transpose(1, 2) @ k.permute(0, 2, 3, 1)
        place = (q + self.pos_bias_v.to(q.dtype)).transpose(1, 2) @ p
        place = F.pad(place, (1, 0)).view(b, self.heads, 2 * t, t)[:, :, 1:]
        place = place.reshape(b, self.heads, t, 2 * t - 1)[..., :t]
        scores = ((content + place) / math.sqrt(self.size)).masked_fill(blocked, MASKED)
        mixed = scores.softmax(-1).to(v.dtype) @ v.transpose(1, 2)
        return self.linear_out(mixed.transpose(1, 2).reshape(b, t, width))


class Convolution(nn.Module):
    """Causal convolution module with layer norm (which NeMo calls batch_norm)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, groups=width)
        self.batch_norm = nn.LayerNorm(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """1 x 1 convolutions as matrices, the depthwise one as shifts: faster on CPU."""
        steps = x.shape[1]
        y = F.glu(_pointwise(self.pointwise_conv1, x), -1) * keep.to(x.dtype)
        y = F.pad(y, (0, 0, self.kernel - 1, 0))
        taps = self.depthwise_conv.weight.squeeze(1).to(y.dtype)
        z = y[:, :steps] * taps[:, 0]
        for i in range(1, self.kernel):
            z = torch.addcmul(z, y[:, i : i + steps], taps[:, i])
        bias = self.depthwise_conv.bias
        assert bias is not None
        return _pointwise(self.pointwise_conv2, F.silu(self.batch_norm(z + bias.to(y.dtype))))


def _pointwise(conv: nn.Conv1d, x: Tensor) -> Tensor:
    return F.linear(x, conv.weight.squeeze(-1), conv.bias)


class FeedForward(nn.Module):
    """Two matrices with SiLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, dropout: float) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.linear2(_drop(F.silu(self.linear1(x)), dropout))


def _drop(x: Tensor, share: float) -> Tensor:
    return F.dropout(x, share) if share else x


class Layer(nn.Module):
    """One Conformer layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.norm_feed_forward1, self.norm_self_att, self.norm_conv = (
            nn.LayerNorm(width) for _ in range(3)
        )
        self.norm_feed_forward2, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward1, self.feed_forward2 = FeedForward(width), FeedForward(width)
        self.self_attn = Attention(width, config.heads)
        self.conv = Convolution(width, config.kernel)

    def forward(self, x: Tensor, where: "Where", dropout: float) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        x = x + 0.5 * _drop(self.feed_forward1(self.norm_feed_forward1(x), dropout), dropout)
        attended = self.self_attn(self.norm_self_att(x), where.positions, where.blocked)
        x = x + _drop(attended, dropout)
        x = x + _drop(self.conv(self.norm_conv(x), where.keep), dropout)
        x = x + 0.5 * _drop(self.feed_forward2(self.norm_feed_forward2(x), dropout), dropout)
        return self.norm_out(x)


@dataclass(frozen=True, slots=True)
class Where:
    """Positions and masks all layers share."""

    positions: Tensor
    blocked: Tensor
    keep: Tensor


class Encoder(nn.Module):
    """Subsampling and layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.width, self.left = config.width, config.left
        self.pre_encode = Subsampling(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(
        self, mel: Tensor, frames: Tensor, look_ahead: int, dropout: float = 0.0
    ) -> Encoded:
        """Encode a padded batch of log-mel [B, T, mels] under one look-ahead."""
        x, frames = self.pre_encode(mel, frames)
        steps = x.shape[1]
        valid = torch.arange(steps, device=x.device) < frames[:, None]
        seen = chunk_mask(steps, self.left, look_ahead, x.device)
        blocked = ~(seen & valid[:, None, :]).unsqueeze(1)
        where = Where(positions(steps, self.width, x.device), blocked, valid.unsqueeze(-1))
        taken, half, later = [], len(self.layers) // 2, len(self.layers) * 3 // 4
        x = _drop(x, dropout)
        for layer in self.layers:
            x = layer(x, where, dropout)
            taken.append(x)
        return Encoded(x, frames, taken[max(half, 1) - 1], taken[max(later, 1) - 1])


def chunk_mask(steps: int, left: int, look_ahead: int, device: torch.device) -> Tensor:
    """[T, T]: whether a frame (row) sees another: own chunk and ``left`` frames back."""
    size = look_ahead + 1
    chunk = torch.arange(steps, device=device) // size
    back = chunk[:, None] - chunk
    return (back >= 0) & (back <= left // size)


def positions(steps: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of the distances steps - 1 down to 1 - steps."""
    distance = torch.arange(steps - 1, -steps, -1, device=device, dtype=torch.float32)
    even = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angle = distance[:, None] * torch.exp(even * -(math.log(10_000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class Predictor(nn.Module):
    """The transducer's language side: embedding (the blank's row is zero) and one LSTM."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        blank, size = config.vocabulary, config.predictor
        rnn = nn.Module()
        rnn.lstm = nn.LSTM(size, size, 1)
        embed = nn.Embedding(blank + 1, size, padding_idx=blank)
        self.prediction = nn.ModuleDict({"embed": embed, "dec_rnn": rnn})

    def forward(self, targets: Tensor) -> Tensor:
        """[B, U] -> [B, U + 1, size]: state before each label and after the last."""
        embedded = F.pad(self.prediction["embed"](targets), (0, 0, 1, 0))
        out, _ = self.prediction["dec_rnn"].lstm(embedded.transpose(0, 1))  # type: ignore[operator]
        return out.transpose(0, 1)


class Joint(nn.Module):
    """Projections of both sides and the output layer; the losses put them together."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.enc = nn.Linear(config.width, config.joint)
        self.pred = nn.Linear(config.predictor, config.joint)
        out = nn.Linear(config.joint, config.vocabulary + 1)
        self.joint_net = nn.Sequential(nn.ReLU(), nn.Identity(), out)


class Model(nn.Module):
    """Encoder, CTC head, transducer head; heads of sounds and of a teacher only while training."""

    def __init__(self, config: ModelConfig, sounds: int, *, taught: int = 0) -> None:
        """``taught`` is the size of a frame of the teacher's states, 0 without a teacher."""
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.ctc_decoder = nn.Module()
        self.ctc_decoder.decoder_layers = nn.ModuleList(
            [nn.Conv1d(config.width, config.vocabulary + 1, 1)]
        )
        self.decoder, self.joint = Predictor(config), Joint(config)
        self.sounds = nn.Linear(config.width, SUBFRAMES * (sounds + 1))
        self.taught = nn.Linear(config.width, taught) if taught else None

    def ctc(self, x: Tensor) -> Tensor:
        """Logits over pieces and blank (last) of encoder outputs."""
        head = self.ctc_decoder.decoder_layers[0]  # type: ignore[index]
        assert isinstance(head, nn.Conv1d)
        return _pointwise(head, x)

    def sound_logits(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, 4 T, sounds + 1]."""
        b, t, _ = x.shape
        return self.sounds(x).view(b, t * SUBFRAMES, -1)
