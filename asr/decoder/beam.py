"""CTC prefix beam search over chunks, with phrases and a language model in the path scores.

Does: encoder frames -> tokens once every hypothesis agrees on them, or after ``PATIENCE`` frames;
all streams of a batch and all hypotheses in one tensor step a frame.
Does not know: RNN-T, text.

A hypothesis is a row of tensors; equal prefixes are found by a hash. On a frame where blank is near
certain no piece is added, so that neither phrases nor a language model speak into silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from asr.checkpoint.spec import ModelSpec
from asr.decoder.base import confidence
from asr.decoder.fusion import SURE_BLANK, Fusion, Hints
from asr.encoder.linear import Precision, make_linear
from asr.interface import Token

CANDIDATES = 16
"""Pieces tried on a frame."""
PATIENCE = 32
"""Frames after which the best hypothesis decides (2.6 s)."""
OPEN = 96
"""Pieces a hypothesis can be ahead of what is decided; more than PATIENCE frames ever bring."""
PIECE_BONUS = 4.0
"""Nats a piece is given for each unit of the language model's weight, as every piece costs some.

Measured on dev clips with rivulet-en: weights 0.3 and 0.5 were best with 1.5 and 2 nats a piece.
"""
TAIL = 80
"""Decided pieces remembered: longer than any phrase."""
_HASH = 1_000_003
_NEVER = -torch.inf


@dataclass(slots=True)
class _Beams:
    """Hypotheses of N rows: [N, K], best first; their open pieces [N, K, OPEN]."""

    prefix: Tensor
    before: Tensor
    """Hash of the prefix without its last piece; -1: there is none."""
    last: Tensor
    blank: Tensor
    """Log probability of the prefix, ending in a blank."""
    piece: Tensor
    """The same, ending in its last piece."""
    favour: Tensor
    """Nats of phrases, language model and bonus."""
    boost: Tensor
    lm: Tensor
    count: Tensor
    """Open pieces."""
    said: Tensor
    frame: Tensor
    sure: Tensor

    @classmethod
    def allocate(cls, rows: int, width: int, device: torch.device) -> "_Beams":
        """Make room; ``start`` fills it."""
        flat, deep = (rows, width), (rows, width, OPEN)
        reals = {"blank", "piece", "favour", "sure"}
        parts = {
            part.name: torch.zeros(
                deep if part.name in ("said", "frame", "sure") else flat,
                dtype=torch.float32 if part.name in reals else torch.long,
                device=device,
            )
            for part in fields(cls)
        }
        return cls(**parts)

    def tensors(self) -> dict[str, Tensor]:
        """All parts by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def rows(self, rows: Tensor) -> "_Beams":
        """Copy rows out."""
        return _Beams(*(tensor[rows] for tensor in self.tensors().values()))

    def put(self, rows: Tensor, other: "_Beams") -> None:
        """Put rows back."""
        for name, tensor in self.tensors().items():
            tensor[rows] = getattr(other, name)

    def pick(self, which_NK: Tensor) -> "_Beams":
        """Return hypotheses in another order, perhaps one several times."""
        deep = which_NK[..., None].expand(-1, -1, OPEN)
        return _Beams(
            *(t.gather(1, which_NK if t.dim() == 2 else deep) for t in self.tensors().values())
        )

    def score(self) -> Tensor:
        """Nats of each hypothesis."""
        return torch.logaddexp(self.blank, self.piece) + self.favour


class CtcBeamDecoder:
    """One linear head and ``width`` hypotheses a stream."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        spec: ModelSpec,
        fusion: Fusion,
        *,
        slots: int,
        precision: Precision,
        width: int = 8,
    ) -> None:
        weight = tensors[f"{spec.ctc_prefix}.weight"]
        self._head = make_linear(weight, tensors[f"{spec.ctc_prefix}.bias"], precision)
        self._blank, self._fusion, self._width = spec.blank, fusion, width
        device = weight.device
        self._beams = _Beams.allocate(slots + 1, width, device)
        self._told_S = torch.zeros(slots + 1, dtype=torch.long, device=device)
        """Frame of the last decided piece: times never go back."""
        self._tail: list[list[int]] = [[] for _ in range(slots + 1)]
        """The last decided pieces, behind the start of the stream (the label V) at first."""
        for slot in range(slots + 1):
            self.clear(slot)

    def clear(self, slot: int) -> None:
        """Set a row to the start of a stream: one empty hypothesis."""
        beams = self._beams
        for tensor in beams.tensors().values():
            tensor[slot] = 0
        beams.last[slot], beams.before[slot] = self._blank, -1
        beams.blank[slot], beams.piece[slot] = _NEVER, _NEVER
        beams.blank[slot, 0] = 0.0
        beams.prefix[slot] = -2 - torch.arange(self._width, device=beams.prefix.device)
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
        row = {f"beam_{k}": t[slot].clone().cpu() for k, t in self._beams.tensors().items()}
        tail = torch.tensor(self._tail[slot])
        return row | {"beam_told": self._told_S[slot].clone().cpu(), "beam_tail": tail}

    def import_row(self, slot: int, row: dict[str, Tensor]) -> None:
        """Put a row back; ``rebias`` is to follow."""
        for name, tensor in self._beams.tensors().items():
            tensor[slot].copy_(row[f"beam_{name}"])
        self._told_S[slot].copy_(row["beam_told"])
        self._tail[slot] = row["beam_tail"].tolist()

    def step(
        self, x_BTD: Tensor, slots_B: Tensor, valid_B: Tensor, first_frame_B: Tensor
    ) -> list[list[Token]]:
        """Search through every valid frame; return what is decided."""
        logits = self._head(x_BTD).float()
        scores = torch.log_softmax(logits, -1)
        for t in range(scores.shape[1]):
            rows = torch.nonzero(t < valid_B).squeeze(1)
            if not len(rows):
                break
            beams = self._beams.rows(slots_B[rows])
            at = first_frame_B[rows] + t
            beams = self._search(beams, scores[rows, t], slots_B[rows], at)
            self._beams.put(slots_B[rows], _decided_by_age(beams, at))
        return [
            self._tell(slot) if frames else []
            for slot, frames in zip(slots_B.tolist(), valid_B.tolist(), strict=True)
        ]

    def flush(self, slot: int) -> list[Token]:
        """Return all that is open in the best hypothesis, unfinished phrases given back."""
        row = torch.tensor([slot], device=self._told_S.device)
        beams = self._beams.rows(row)
        rest = self._hints(beams, row).rest.view(1, self._width)
        best = (beams.score() + rest).argmax(-1, keepdim=True)
        self._beams.put(row, beams.pick(best.expand(-1, self._width)))
        return self._tell(slot)

    def _hints(self, beams: _Beams, slots_N: Tensor) -> Hints:
        slots = slots_N[:, None].expand(-1, self._width).reshape(-1)
        return self._fusion.look_from(slots, beams.boost.view(-1), beams.lm.view(-1))

    def _search(self, beams: _Beams, scores_NV: Tensor, slots_N: Tensor, at_N: Tensor) -> _Beams:
        """Let every hypothesis stay or add a piece; keep the best ones."""
        rows, width = beams.last.shape
        either = torch.logaddexp(beams.blank, beams.piece)
        again = beams.piece + scores_NV.gather(1, beams.last)
        again = again.masked_fill(beams.last == self._blank, _NEVER)
        stay_blank = either + scores_NV[:, -1:]
        tried_NC = scores_NV[:, :-1].topk(min(CANDIDATES, self._blank), -1)
        is_quiet = scores_NV[:, -1].exp() >= SURE_BLANK
        tried = tried_NC.values.masked_fill(is_quiet[:, None], _NEVER)
        pieces = tried_NC.indices[:, None].expand(-1, width, -1)
        # A piece said twice needs a blank between.
        is_repeat = pieces == beams.last[..., None]
        more = torch.where(is_repeat, beams.blank[..., None], either[..., None]) + tried[:, None]
        # A hypothesis grown into a prefix that another one has already is that other one.
        is_same = (beams.prefix[:, :, None] == beams.before[:, None]).unsqueeze(-1) & (
            pieces[:, :, None] == beams.last[:, None, :, None]
        )  # [N, from, to, C]
        grown = more[:, :, None].masked_fill(~is_same, _NEVER).amax((1, 3))
        more = more.masked_fill(is_same.any(2), _NEVER)
        stay_piece = torch.logaddexp(again, grown)
        hints = self._hints(beams, slots_N)
        flat = pieces.reshape(rows * width, -1)
        gain = hints.gain.gather(1, flat) + hints.lm_weight[:, None] * hints.lm.gather(1, flat)
        gain = gain + PIECE_BONUS * hints.lm_weight[:, None]
        favour = beams.favour[..., None] + gain.view(more.shape)
        stay = torch.logaddexp(stay_blank, stay_piece) + beams.favour
        best = torch.cat([stay, (more + favour).flatten(1)], 1).topk(width, -1).indices
        grows, tries = best >= width, more.shape[2]
        parent = torch.where(grows, (best - width) // tries, best)
        choice = torch.where(grows, best - width, 0)
        after = beams.pick(parent)
        after.blank = torch.where(grows, _NEVER, stay_blank.gather(1, parent))
        grown_piece = more.flatten(1).gather(1, choice)
        after.piece = torch.where(grows, grown_piece, stay_piece.gather(1, parent))
        after.favour = torch.where(grows, favour.flatten(1).gather(1, choice), after.favour)
        piece = pieces.flatten(1).gather(1, choice)
        line = parent + width * torch.arange(rows, device=parent.device)[:, None]
        after.boost = torch.where(grows, hints.boost_next[line, piece], after.boost)
        after.lm = torch.where(grows, hints.lm_next[line, piece], after.lm)
        return _grown(after, grows, piece, at_N, scores_NV)

    def _tell(self, slot: int) -> list[Token]:
        """Take out what all hypotheses agree on."""
        beams = self._beams
        alive = beams.score()[slot] > _NEVER
        alive[0] = True
        said, count = beams.said[slot][alive], beams.count[slot][alive]
        open_ = int(count.min())
        agreed = (said[:, :open_] == said[:1, :open_]).all(0).long().cumprod(0).sum()
        number = int(agreed)
        if not number:
            return []
        tokens, told = list[Token](), int(self._told_S[slot])
        pieces = said[0, :number].tolist()
        frames, sure = beams.frame[slot, 0, :number], beams.sure[slot, 0, :number]
        for piece, frame, score in zip(pieces, frames.tolist(), sure.tolist(), strict=True):
            told = max(told, frame)
            tokens.append(Token(piece, told, score))
        self._told_S[slot] = told
        self._tail[slot] = (self._tail[slot] + pieces)[-TAIL:]
        for part in (beams.said, beams.frame, beams.sure):
            part[slot] = part[slot].roll(-number, -1)
        beams.count[slot] = (beams.count[slot] - number).clamp(min=0)
        return tokens


def _grown(beams: _Beams, grows: Tensor, piece: Tensor, at_N: Tensor, scores_NV: Tensor) -> _Beams:
    """Write the new piece of the hypotheses that grow; scale scores; mark dead ones."""
    scores = scores_NV.repeat_interleave(piece.shape[1], 0)
    sure = confidence(scores, piece.flatten())
    place = beams.count.clamp(max=OPEN - 1)[..., None]

    def write(into: Tensor, value: Tensor) -> Tensor:
        old = into.gather(2, place)
        return into.scatter(2, place, torch.where(grows[..., None], value[..., None], old))

    beams.said = write(beams.said, piece)
    beams.frame = write(beams.frame, at_N[:, None].expand_as(piece))
    beams.sure = write(beams.sure, sure.view(piece.shape))
    beams.count = beams.count + grows
    beams.before = torch.where(grows, beams.prefix, beams.before)
    beams.prefix = torch.where(grows, beams.prefix * _HASH + piece + 1, beams.prefix)
    beams.last = torch.where(grows, piece, beams.last)
    # Only differences count: small numbers stay exact however long the stream is.
    top = torch.logaddexp(beams.blank[:, :1], beams.piece[:, :1])
    beams.blank, beams.piece = beams.blank - top, beams.piece - top
    beams.favour = beams.favour - beams.favour[:, :1]
    return _buried(beams)


def _buried(beams: _Beams) -> _Beams:
    """Give hypotheses without a chance a hash that no prefix has."""
    is_dead = beams.score() == _NEVER
    number = torch.arange(is_dead.shape[1], device=is_dead.device)
    beams.prefix = torch.where(is_dead, -2 - number, beams.prefix)
    beams.before = beams.before.masked_fill(is_dead, -1)
    return beams


def _decided_by_age(beams: _Beams, at_N: Tensor) -> _Beams:
    """Drop hypotheses that differ from the best one in a piece that is PATIENCE frames old."""
    place = torch.arange(OPEN, device=at_N.device)
    is_old = (beams.frame[:, :1] <= (at_N - PATIENCE)[:, None, None]) & (
        place < beams.count[:, :1, None]
    )
    differs = (beams.said != beams.said[:, :1]) | (place >= beams.count[..., None])
    is_late = (is_old & differs).any(-1)
    beams.blank = beams.blank.masked_fill(is_late, _NEVER)
    beams.piece = beams.piece.masked_fill(is_late, _NEVER)
    return _buried(beams)
