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
from asr.decoder.search import NEVER, ROOM, Beams, Search, Steps, only_first, tell, worth_now
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
        self._since: list[list[int]] = [[] for _ in range(slots + 1)]
        """The first pieces decided since a row was copied: as many as were open then, at most."""
        for slot in range(slots + 1):
            self.clear(slot)

    def clear(self, slot: int) -> None:
        """Set a row to the start of a stream: one empty hypothesis."""
        self._beams.clear(slot, self._blank)
        self._told_S[slot], self._tail[slot], self._since[slot] = 0, [self._blank], []
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
        self._since[target] = []

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
        worth = worth_now(self._fusion, self._beams.rows(row), row)
        self._leave(slot, [int(worth.argmax())])

    def agree(self, slot: int, copy: int) -> None:
        """Leave the hypotheses from which a copy may have gone on to what it said."""
        beams, said = self._beams.rows(torch.tensor([slot])), self._since[copy]
        living = (beams.score()[0] > NEVER).tolist()
        counts = beams.count[0].tolist()
        opened = [beams.said[0, k, :count].tolist() for k, count in enumerate(counts)]
        fitting = [k for k in range(self._width) if living[k] and opened[k] == said[: counts[k]]]
        self._leave(slot, fitting)

    def _leave(self, slot: int, which: list[int]) -> None:
        """Put these hypotheses first and let all others die."""
        row = torch.tensor([slot])
        order = which + [k for k in range(self._width) if k not in which]
        self._beams.put(
            row, only_first(self._beams.rows(row).pick(torch.tensor([order])), len(which))
        )

    def flush(self, slot: int) -> list[Token]:
        """Return all that is open in the best hypothesis."""
        self.settle(slot)
        tokens = tell(self._beams, self._told_S, slot, int(self._beams.newest[slot, 0]))
        self._remember(slot, tokens)
        return tokens

    def _remember(self, slot: int, tokens: list[Token]) -> None:
        if tokens:
            pieces = [token.id for token in tokens]
            self._tail[slot] = (self._tail[slot] + pieces)[-TAIL:]
            self._since[slot] = (self._since[slot] + pieces)[:ROOM]
