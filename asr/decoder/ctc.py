"""Greedy CTC over chunks: repeats collapse across chunk borders by the carried last label.

Does: encoder frames -> tokens, time = first frame of the run.
Does not know: RNN-T, text.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from asr.checkpoint.spec import ModelSpec
from asr.decoder.base import Heard, confidence
from asr.decoder.fixed import Rows, Said
from asr.decoder.fusion import Fusion
from asr.encoder.linear import Precision, make_linear
from asr.interface import Token


class CtcDecoder:
    """One linear head; the state of a stream is its last label, blank included."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        spec: ModelSpec,
        fusion: Fusion,
        *,
        slots: int,
        precision: Precision,
    ) -> None:
        weight = tensors[f"{spec.ctc_prefix}.weight"]
        self._head = make_linear(weight, tensors[f"{spec.ctc_prefix}.bias"], precision)
        self._blank, self._fusion = spec.blank, fusion
        self._last_S = torch.full((slots + 1,), spec.blank, device=weight.device)

    def clear(self, slot: int) -> None:
        """Set a row to the start of a stream."""
        self._last_S[slot] = self._blank

    def copy(self, source: int, target: int) -> None:
        """Copy a row."""
        self._last_S[target] = self._last_S[source]

    def rebias(self, slot: int) -> None:
        """Go on: the next frame asks anew what the row favours."""

    def agree(self, slot: int, copy: int) -> None:
        """Nothing is open."""

    def flush(self, slot: int) -> list[Token]:
        """Nothing is held back."""
        return []

    def export_row(self, slot: int) -> dict[str, Tensor]:
        """Copy a row out."""
        return {"ctc_last": self._last_S[slot].clone().cpu()}

    def import_row(self, slot: int, row: dict[str, Tensor]) -> None:
        """Put a row back."""
        self._last_S[slot].copy_(row["ctc_last"])

    def step(
        self, x_BTD: Tensor, slots_B: Tensor, valid_B: Tensor, first_frame_B: Tensor
    ) -> list[Heard]:
        """Decode every valid frame of the batch at once."""
        logits = self._head(x_BTD).float()
        label = logits.argmax(-1)
        if (favoured := self._fusion.rows(slots_B)) is not None:
            label[favoured] = self._favoured(logits[favoured], slots_B[favoured], valid_B[favoured])
        before = torch.cat([self._last_S[slots_B][:, None], label[:, :-1]], 1)
        steps = torch.arange(label.shape[1], device=label.device)
        exists = steps < valid_B[:, None]
        rows, times = torch.nonzero(
            exists & (label != self._blank) & (label != before), as_tuple=True
        )
        last = (valid_B - 1).clamp(min=0)[:, None]
        self._last_S[slots_B] = torch.where(
            valid_B > 0, label.gather(1, last).squeeze(1), self._last_S[slots_B]
        )
        found = label[rows, times]
        sure = confidence(logits[rows, times], found)
        frames = first_frame_B[rows] + times
        rows_heard = [Heard() for _ in label]
        for row, token, frame, score in zip(
            rows.tolist(), found.tolist(), frames.tolist(), sure.tolist(), strict=True
        ):
            rows_heard[row].decided.append(Token(token, frame, score))
        return rows_heard

    def room(self, steps: int) -> int:
        """Most tokens of a row."""
        return steps

    def begin(self, x_BTD: Tensor, rows: Rows, said: Said) -> Tensor:
        """Return the logits [B, T, V]."""
        said.count_B.zero_()
        said.left.zero_()
        return self._head(x_BTD).float()

    def go_on(self, prepared: Tensor, rows: Rows, said: Said) -> None:
        """Say every frame's label, as ``step`` does, frame after frame."""
        label, before = prepared.argmax(-1), self._last_S[rows.slots_B]
        for t in range(prepared.shape[1]):
            exists, new = t < rows.valid_B, label[:, t]
            sure = confidence(prepared[:, t], new)
            says = exists & (new != self._blank) & (new != before)
            said.say(says, new, rows.first_frame_B + t, sure)
            before = torch.where(exists, new, before)
        self._last_S[rows.slots_B] = before

    def _favoured(self, logits_NTV: Tensor, slots_N: Tensor, valid_N: Tensor) -> Tensor:
        """Return the labels [N, T] of rows that favour something, frame by frame."""
        last, hints = self._last_S[slots_N], self._fusion.look(slots_N)
        labels = torch.full_like(logits_NTV[..., 0], self._blank, dtype=torch.long)
        for t in range(labels.shape[1]):
            label = self._fusion.choose(logits_NTV[:, t], hints, last)
            exists = t < valid_N
            said = torch.nonzero(exists & (label != self._blank) & (label != last)).squeeze(1)
            if len(said):
                self._fusion.advance(slots_N[said], label[said], hints.take(said))
                hints.put(said, self._fusion.look(slots_N[said]))
            last = torch.where(exists, label, last)
            labels[:, t] = label
        return labels
