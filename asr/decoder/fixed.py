"""Greedy decoding in fixed shapes: what a batch says, in memory of a fixed size, ready for a graph.

Does: name what such a decoder keeps to; read what was said into tokens.
Does not know: heads (``ctc``, ``rnnt``), encoders, what records.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asr.decoder.base import Heard
from asr.graphs import Layout
from asr.interface import Token


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of a batch are decoded; a row that pads the batch has the spare slot and 0."""

    slots_B: Tensor
    valid_B: Tensor
    """Frames to decode."""
    first_frame_B: Tensor
    """Number of the first one in its stream."""


@dataclass(frozen=True, slots=True)
class Said:
    """Tokens of a batch in the order they were said, [B, room], and where decoding stands."""

    token_BN: Tensor
    frame_BN: Tensor
    sure_BN: Tensor
    count_B: Tensor
    at_B: Tensor
    """Frame of the batch that a row stands on."""
    symbols_B: Tensor
    """Tokens already said on it."""
    left: Tensor
    """[1] rows that have not come to their end."""

    @classmethod
    def layout(cls, rows: int, room: int) -> Layout:
        """Say what memory it takes."""
        many, one = (rows, room), (rows,)
        return {
            "token_BN": (torch.int32, many),
            "frame_BN": (torch.int32, many),
            "sure_BN": (torch.float32, many),
            "count_B": (torch.int64, one),
            "at_B": (torch.int64, one),
            "symbols_B": (torch.int64, one),
            "left": (torch.int64, (1,)),
        }

    def heard(self) -> list[Heard]:
        """Read the tokens, on the host."""
        rows = [Heard() for _ in range(len(self.count_B))]
        counts = self.count_B.numpy()
        for row in counts.nonzero()[0].tolist():
            parts = (part[row, : counts[row]].tolist() for part in self._parts())
            rows[row].decided.extend(Token(*token) for token in zip(*parts, strict=True))
        return rows

    def say(self, who_B: Tensor, token_B: Tensor, frame_B: Tensor, sure_B: Tensor) -> None:
        """Append a token to the rows that have one."""
        place = self.count_B.clamp(max=self.token_BN.shape[1] - 1)[:, None]
        for part, value in zip(self._parts(), (token_B, frame_B, sure_B), strict=True):
            new = value[:, None].to(part.dtype)
            part.scatter_(1, place, torch.where(who_B[:, None], new, part.gather(1, place)))
        self.count_B.add_(who_B)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.token_BN, self.frame_BN, self.sure_BN


class FixedDecoder(Protocol):
    """What it does depends on shapes alone; values decide only by masks."""

    def room(self, steps: int) -> int:
        """Most tokens that a row can say in so many frames."""
        ...

    def begin(self, x_BTD: Tensor, rows: Rows, said: Said) -> Tensor:
        """Empty ``said``; return what ``go_on`` asks for."""
        ...

    def go_on(self, prepared: Tensor, rows: Rows, said: Said) -> None:
        """Decode as far as almost every batch needs; ``left`` says how many rows need more."""
        ...
