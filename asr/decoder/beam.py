"""CTC beam decoder: the life of a slot around the search.

Does: encoder frames -> decided tokens, and open ones that may yet change.
Does not know: RNN-T, text, how hypotheses grow (``asr.decoder.search``).

The beams lie in the host's memory whatever the device of the encoder is.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from asr.checkpoint.spec import ModelSpec
from asr.decoder.base import Heard
from asr.decoder.fusion import Fusion
from asr.decoder.search import Beams, Search, Steps, only_first, tell, worth_now
from asr.encoder.linear import Precision, make_linear
from asr.interface import Token

TAIL = 80
"""Decided pieces remembered: longer than any phrase."""


class CtcBeamDecoder:
    """One linear head and the search's hypotheses for each stream."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        spec: ModelSpec,
        fusion: Fusion,
        *,
        slots: int,
        precision: Precision,
        search: Search,
    ) -> None:
        weight = tensors[f"{spec.ctc_prefix}.weight"]
        self._head = make_linear(weight, tensors[f"{spec.ctc_prefix}.bias"], precision)
        self._blank, self._fusion, self._search = spec.blank, fusion, search
        self._width = search.width
        self._beams = Beams.allocate(slots + 1, search.width)
        self._told_S = torch.zeros(slots + 1, dtype=torch.long)
        """Frame of the last decided piece: times never go back."""
        self._tail: list[list[int]] = [[] for _ in range(slots + 1)]
        """The last decided pieces, behind the start of the stream (the label V) at first."""
        for slot in range(slots + 1):
            self.clear(slot)

    def clear(self, slot: int) -> None:
        """Set a row to the start of a stream: one empty hypothesis."""
        self._beams.clear(slot, self._blank)
        self._told_S[slot], self._tail[slot] = 0, [self._blank]
        self.rebias(slot)

    def rebias(self, slot: int) -> None:
        """Find every hypothesis's place in what the slot favours from here on."""
        beams = self._beams
        for k in range(self._width):
            said = self._tail[slot] + beams.said[slot, k, : int(beams.count[slot, k])].tolist()
            beams.boost[slot, k], beams.lm[slot, k] = self._fusion.follow(slot, said)

    def copy(self, source: int, target: int) -> None:
        """Copy a row."""
        for tensor in self._beams.tensors().values():
            tensor[target] = tensor[source]
        self._told_S[target], self._tail[target] = self._told_S[source], self._tail[source][:]

    def export_row(self, slot: int) -> dict[str, Tensor]:
        """Copy a row out."""
        row = {f"beam_{k}": t[slot].clone() for k, t in self._beams.tensors().items()}
        tail = torch.tensor(self._tail[slot])
        return row | {"beam_told": self._told_S[slot].clone(), "beam_tail": tail}

    def import_row(self, slot: int, row: dict[str, Tensor]) -> None:
        """Put a row back; ``rebias`` is to follow."""
        for name, tensor in self._beams.tensors().items():
            tensor[slot].copy_(row[f"beam_{name}"])
        self._told_S[slot].copy_(row["beam_told"])
        self._tail[slot] = row["beam_tail"].tolist()

    def step(
        self, x_BTD: Tensor, slots_B: Tensor, valid_B: Tensor, first_frame_B: Tensor
    ) -> list[Heard]:
        """Search through every valid frame; return what is decided, and what is likely."""
        scores = torch.log_softmax(self._head(x_BTD).float(), -1).cpu()
        steps = Steps(slots_B.cpu(), valid_B.cpu(), first_frame_B.cpu())
        rows = self._search(self._beams, self._told_S, scores, steps)
        for slot, heard in zip(steps.slots_B.tolist(), rows, strict=True):
            self._remember(slot, heard.decided)
        return rows

    def settle(self, slot: int) -> None:
        """Leave the best hypothesis only, unfinished phrases given back."""
        row = torch.tensor([slot])
        beams = self._beams.rows(row)
        best = worth_now(self._fusion, beams, row).argmax(-1, keepdim=True)
        self._beams.put(row, only_first(beams.pick(best.expand(-1, self._width))))

    def flush(self, slot: int) -> list[Token]:
        """Return all that is open in the best hypothesis."""
        self.settle(slot)
        tokens = tell(self._beams, self._told_S, slot, int(self._beams.newest[slot, 0]))
        self._remember(slot, tokens)
        return tokens

    def _remember(self, slot: int, tokens: list[Token]) -> None:
        if tokens:
            self._tail[slot] = (self._tail[slot] + [token.id for token in tokens])[-TAIL:]
