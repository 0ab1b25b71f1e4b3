"""Losses over lattices: CTC and the transducer's, exact, pure torch.

Does: values and gradients, per batch.
Does not know: the network, weights of the losses, schedules.

The joint [B, T, U + 1, V + 1] is never held whole: only blank and next label enter the lattice, so
logits are made in slices of T and made again in the backward pass.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NEVER = -1e30
SLICE = 32
"""Frames of the joint made at once."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets of a padded batch: ids [B, U] and how many of them count."""

    ids: Tensor
    lengths: Tensor


def ctc(logits: Tensor, frames: Tensor, labels: Labels) -> Tensor:
    """Nats a label; the blank is the last output. Always in fp32."""
    logp = logits.float().log_softmax(-1).transpose(0, 1)
    total = F.ctc_loss(
        logp, labels.ids, frames, labels.lengths,
        blank=logits.shape[-1] - 1, reduction="sum", zero_infinity=True,
    )  # fmt: skip
    return total / labels.lengths.sum().clamp_min(1)


def frame_cross_entropy(logits: Tensor, targets: Tensor, blank_weight: float = 0.3) -> Tensor:
    """Cross-entropy per frame; targets of -100 do not count, blank (last) counts less."""
    size = logits.shape[-1]
    weight = torch.ones(size, device=logits.device)
    weight[-1] = blank_weight
    flat = targets.flatten()
    if not bool((flat >= 0).any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float().flatten(0, 1), flat, weight)


def agreement(logits: Tensor, frames: Tensor, labels: Labels) -> Tensor:
    """Divergence of two views of each clip from one another, in nats a label.

    ``logits`` [2 B, T, V + 1]: all clips, then all again. Each view is held against the other,
    which does not move (Yao et al., "CR-CTC: consistency regularization on CTC", 2025).
    """
    logp = logits.float().log_softmax(-1)
    other = logp.detach().roll(len(logp) // 2, 0)
    apart = F.kl_div(logp, other, reduction="none", log_target=True).sum(-1)
    inside = torch.arange(logp.shape[1], device=logp.device) < frames[:, None]
    return (apart * inside).sum() / labels.lengths.sum().clamp_min(1)


def likeness(states: Tensor, targets: Tensor, inside: Tensor) -> Tensor:
    """Mean squared error of [B, T, D] over the frames that count; 1 for a guess of zero."""
    error = (states.float() - targets).pow(2).mean(-1)
    return (error * inside).sum() / inside.sum().clamp_min(1)


def rnnt(
    encoded: Tensor, predicted: Tensor, out: nn.Linear, frames: Tensor, labels: Labels
) -> Tensor:
    """Transducer loss in nats a label.

    ``encoded`` [B, T, J] and ``predicted`` [B, U + 1, J] are both sides already projected.
    """
    total = rnnt_each(encoded, predicted, out, frames, labels).sum()
    return total / labels.lengths.sum().clamp_min(1)


def rnnt_each(
    encoded: Tensor, predicted: Tensor, out: nn.Linear, frames: Tensor, labels: Labels
) -> Tensor:
    """Compute the same for each utterance, in nats altogether."""
    following = F.pad(labels.ids, (0, 1))
    columns = [
        checkpoint(_columns, part, predicted, out.weight, out.bias, following, use_reentrant=False)
        for part in torch.split(encoded, SLICE, 1)
    ]
    blank, label = (torch.cat([c[i] for c in columns], 1) for i in (0, 1))
    return _Lattice.apply(blank, label, frames, labels.lengths)  # type: ignore[no-untyped-call]


def _columns(
    encoded: Tensor, predicted: Tensor, weight: Tensor, bias: Tensor, following: Tensor
) -> tuple[Tensor, Tensor]:
    logits = F.linear(F.relu(encoded[:, :, None] + predicted[:, None]), weight, bias)
    total = logits.float().logsumexp(-1)
    index = following[:, None, :, None].expand(-1, logits.shape[1], -1, 1)
    label = logits.gather(3, index).squeeze(3)
    return logits[..., -1].float() - total, label.float() - total


def _skew(x: Tensor) -> Tensor:
    """[B, T, U] -> [B, T + U - 1, U]: row d holds the cells with t + u = d."""
    b, t, u = x.shape
    row = torch.arange(t + u - 1, device=x.device)[:, None] - torch.arange(u, device=x.device)
    picked = x.gather(1, row.clamp(0, t - 1).expand(b, -1, -1))
    return picked.masked_fill((row < 0) | (row >= t), NEVER)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The cells of a batch of lattices that exist, and how to look at them from the end."""

    inside: Tensor
    has_label: Tensor
    last: Tensor
    flip_t: Tensor
    flip_u: Tensor

    @classmethod
    def of(cls, shape: torch.Size, frames: Tensor, lengths: Tensor) -> "_Grid":
        _, t, w = shape
        ti, ui = torch.arange(t, device=frames.device), torch.arange(w, device=frames.device)
        n, u = frames[:, None], lengths[:, None]
        in_time = (ti < n)[:, :, None]
        return cls(
            inside=in_time & (ui <= u)[:, None, :],
            has_label=in_time & (ui < u)[:, None, :],
            last=(ti == n - 1)[:, :, None] & (ui == u)[:, None, :],
            flip_t=((n - 1 - ti) % t)[:, :, None].expand(shape),
            flip_u=((u - ui) % w)[:, None, :].expand(shape),
        )

    def flip(self, x: Tensor) -> Tensor:
        """Reverse each utterance's own rectangle along both axes."""
        return x.gather(1, self.flip_t).gather(2, self.flip_u)


def _forward_variables(grid: _Grid, blank: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and beta, side by side as one batch along anti-diagonals.

    Beta is alpha of the lattice seen from its end, where a cell pays for itself when entered.
    """
    b, t, w = blank.shape
    down_a = F.pad(blank, (0, 0, 1, 0), value=NEVER)[:, :t]
    right_a = F.pad(label, (1, 0), value=NEVER)[:, :, :w]
    down_b = grid.flip(blank)
    final = down_b[:, 0, 0].clone()
    down_b[:, 0] = NEVER
    down = _skew(torch.cat([down_a, down_b]))
    right = _skew(torch.cat([right_a, grid.flip(label)]))
    row = torch.full((2 * b, w), NEVER, device=blank.device)
    row[:b, 0] = 0.0
    row[b:, 0] = final
    rows = [row]
    for d in range(1, t + w - 1):
        beside = F.pad(row, (1, 0), value=NEVER)[:, :w]
        row = torch.logaddexp(row + down[:, d], beside + right[:, d])
        rows.append(row)
    index = torch.arange(t, device=blank.device)[:, None] + torch.arange(w, device=blank.device)
    cells = torch.stack(rows, 1).gather(1, index.expand(2 * b, t, w))
    return cells[:b], grid.flip(cells[b:])


class _Lattice(torch.autograd.Function):
    """Minus log-probability of all paths, with the gradient by forward and backward variables."""

    @staticmethod
    def forward(ctx, blank, label, frames, lengths):  # type: ignore[no-untyped-def]
        grid = _Grid.of(blank.shape, frames, lengths)
        label = label.masked_fill(~grid.has_label, NEVER)
        blank = blank.masked_fill(~grid.inside, NEVER)
        alpha, beta = _forward_variables(grid, blank, label)
        logp = beta[:, 0, 0]
        beta = beta.masked_fill(~grid.inside, NEVER)
        after_blank = F.pad(beta, (0, 0, 0, 1), value=NEVER)[:, 1:].masked_fill(grid.last, 0.0)
        after_label = F.pad(beta, (0, 1), value=NEVER)[:, :, 1:]
        base = alpha - logp[:, None, None]
        by_blank = torch.exp((base + blank + after_blank).clamp(max=1.0))
        by_label = torch.exp((base + label + after_label).clamp(max=1.0))
        ctx.save_for_backward(
            by_blank.masked_fill(~grid.inside, 0.0), by_label.masked_fill(~grid.has_label, 0.0)
        )
        return -logp

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        by_blank, by_label = ctx.saved_tensors
        scale = gradient[:, None, None]
        return -by_blank * scale, -by_label * scale, None, None
