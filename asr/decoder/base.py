"""What every decoder keeps to, and the confidence of an emitted token.

Does not know: encoders, text, streams beyond their slot.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from asr.interface import Token


@dataclass(frozen=True, slots=True)
class Heard:
    """What a stream says after a step: decided tokens; open ones, which may yet change."""

    decided: list[Token] = field(default_factory=list)
    open: list[Token] = field(default_factory=list)


class Decoder(Protocol):
    """State lies in rows by slot; a step decodes every valid frame of a batch."""

    def clear(self, slot: int) -> None:
        """Set a row to the start of a stream."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Copy a row."""
        ...

    def rebias(self, slot: int) -> None:
        """Take note that what a row favours has changed."""
        ...

    def agree(self, slot: int, copy: int) -> None:
        """Hold to what a copy said that was taken where the row still stands, and flushed."""
        ...

    def flush(self, slot: int) -> list[Token]:
        """Return what a row that ends has heard and not yet told."""
        ...

    def export_row(self, slot: int) -> dict[str, Tensor]:
        """Copy a row out, for a snapshot."""
        ...

    def import_row(self, slot: int, row: dict[str, Tensor]) -> None:
        """Put back what ``export_row`` gave."""
        ...

    def step(
        self, x_BTD: Tensor, slots_B: Tensor, valid_B: Tensor, first_frame_B: Tensor
    ) -> list[Heard]:
        """Return what each row says; ``first_frame_B`` numbers the stream frame of x[:, 0]."""
        ...


def confidence(logits_NV: Tensor, chosen_N: Tensor) -> Tensor:
    """Return 0..1 a row: the softmax probability, 0 where it is no better than chance.

    Source: NeMo max_prob confidence, (p * V - 1) / (V - 1).
    """
    size = logits_NV.shape[-1]
    p = torch.softmax(logits_NV.float(), -1).gather(1, chosen_N[:, None]).squeeze(1)
    return ((p * size - 1) / (size - 1)).clamp(0.0, 1.0)
