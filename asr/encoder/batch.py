"""One batch of streams as the encoder sees it: mel rows, slots, masks, positions.

Does: work out once per step everything that does not depend on the layer.
Does not know: weights, layers, audio.
Shapes: B streams, T frames in this step (whole chunks of C = look-ahead + 1), R left context.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """What a step runs on. A fresh stream has 7 zero rows in front; a last chunk may be short."""

    mel_BTF: Tensor
    """[B, 8 T, bins]"""
    slots_B: Tensor
    valid_B: Tensor
    """Encoder frames of this step that exist; less than T only when the stream ends here."""
    stage_from: Tensor
    """[2, B] first row of the stages 1 and 2 that lies inside the stream."""
    stage_until: Tensor
    """[2, B] one past the last such row."""
    look_ahead: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """Ring rows, visibility and distances of one step."""

    ring_rows_BT: Tensor
    """Where the new keys and values go."""
    position_B1TN: Tensor
    """Index into the relative-position keys, for R ring rows and T new frames."""
    is_visible_B1TN: Tensor
    keep_BT: Tensor
    """Frames that exist."""
    write_from: int
    """First frame of the step that is written to the ring (the last R at most)."""


def step_geometry(
    frames_B: Tensor, valid_B: Tensor, *, steps: int, left: int, chunk: int
) -> Geometry:
    """Masks of chunked_limited attention over a ring cache and the frames of this step.

    ``frames_B`` counts the frames before this step (a multiple of ``chunk``). Distances are
    query - key; the relative-position table starts at the largest, left + steps - 1.
    """
    device = frames_B.device
    ring = torch.arange(left, device=device)
    new = torch.arange(steps, device=device)
    back_BR = (frames_B[:, None] - 1 - ring) % left  # ring row r holds frame n - 1 - back
    batch = frames_B.shape[0]
    ring_distance = 1 + back_BR[:, None, :] + new[:, None]
    new_distance = (new[:, None] - new).expand(batch, steps, steps)
    distance = torch.cat([ring_distance, new_distance], 2)
    chunks_back_ring = (new // chunk)[:, None] + 1 + (back_BR // chunk)[:, None, :]
    chunks_back_new = (new // chunk)[:, None] - new // chunk
    reach = left // chunk
    keep_BT = new < valid_B[:, None]
    sees_ring = (chunks_back_ring <= reach) & (back_BR < frames_B[:, None])[:, None, :]
    sees_new = (chunks_back_new >= 0) & (chunks_back_new <= reach) & keep_BT[:, None, :]
    largest = left + steps - 1
    write_from = max(0, steps - left)
    return Geometry(
        ring_rows_BT=(frames_B[:, None] + new[write_from:]) % left,
        position_B1TN=(largest - distance).clamp(0, largest + chunk - 1)[:, None],
        is_visible_B1TN=torch.cat([sees_ring, sees_new], 2)[:, None],
        keep_BT=keep_BT,
        write_from=write_from,
    )
