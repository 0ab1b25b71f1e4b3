"""CTC prefix beam search, frame by frame: the hypotheses of streams and how they grow.

Does: hypotheses in tensors by slot; one frame for many rows in torch, which is the specification
of ``native_search``; what is decided after a frame, and what the best hypothesis says beyond it.
Does not know: encoders, heads, the life of a slot, text.

A hypothesis is a row of tensors; equal prefixes are found by a hash. On a frame where blank is near
certain no piece is added, so that neither phrases nor a language model speak into silence. A piece
is decided when every living hypothesis has it. Hypotheses die that differ from the best one in a
piece older than ``PATIENCE`` frames, or, once the best one has paused for ``PAUSE`` frames, in
anything older than that: behind a pause nothing is open. Which one is best is then judged as at the
end of the stream, for a phrase that broke off favours nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from asr.decoder.base import Heard, confidence
from asr.decoder.fusion import SURE_BLANK, Fusion, Hints
from asr.interface import Token

TRIED = 16
"""Pieces tried on a frame at most."""
REACH = 6.0
"""Nats below the best label beyond which a piece is not tried."""
PHRASE_TRIED = 64
PHRASE_REACH = 10.0
"""The same of pieces that go on with a phrase that has begun: it may be a word never met before."""
PATIENCE = 10
"""Frames after which the best hypothesis decides (0.8 s); 32 gave no fewer errors on dev."""
PAUSE = 4
"""Frames without a piece after which it decides (320 ms); 3 cost 0.6 points of WER, 6 gave 0.1."""
PEAK = 2
"""Frames after its first in which a piece may still grow surer."""
ROOM = 16
"""Pieces a hypothesis can be ahead of what is decided; more than PATIENCE frames ever bring."""
PIECE_BONUS = 4.0
"""Nats a piece is given for each unit of the language model's weight, as every piece costs some.

Measured on dev with rivulet-en: at weight 0.6, 2.1 to 2.4 nats a piece were best of 1.2 to 3.6.
"""
RELIEF = -3.0
"""Nats below which a language model does not rate a piece that goes on with a phrase: it may never
have seen the phrase. What this gives is taken back with the rest of a phrase that breaks off."""
HASH = 1_000_003
NEVER = -torch.inf


@dataclass(slots=True)
class Beams:
    """Hypotheses of N rows: [N, K], best first; their open pieces [N, K, ROOM]."""

    prefix: Tensor
    before: Tensor
    """Hash of the prefix without its last piece; -1: there is none."""
    last: Tensor
    boost: Tensor
    lm: Tensor
    count: Tensor
    """Open pieces."""
    newest: Tensor
    """Frame of the last piece, decided or not."""
    blank: Tensor
    """Log probability of the prefix, ending in a blank."""
    piece: Tensor
    """The same, ending in its last piece."""
    favour: Tensor
    """Nats of phrases, language model and bonus."""
    owed: Tensor
    """Nats of relief in a phrase that is not whole yet."""
    said: Tensor
    frame: Tensor
    sure: Tensor

    @classmethod
    def allocate(cls, rows: int, width: int) -> "Beams":
        """Make room; ``clear`` fills it."""
        return cls(
            **{
                part.name: torch.zeros(
                    (rows, width, ROOM) if part.name in _DEEP else (rows, width),
                    dtype=_DTYPES.get(part.name, torch.int32),
                )
                for part in fields(cls)
            }
        )

    def clear(self, slot: int, blank: int) -> None:
        """Set a row to the start of a stream: one empty hypothesis."""
        for tensor in self.tensors().values():
            tensor[slot] = 0
        self.last[slot], self.before[slot] = blank, -1
        self.blank[slot], self.piece[slot] = NEVER, NEVER
        self.blank[slot, 0] = 0.0
        self.prefix[slot] = -2 - torch.arange(self.prefix.shape[1])

    def tensors(self) -> dict[str, Tensor]:
        """All parts by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def rows(self, rows: Tensor) -> "Beams":
        """Copy rows out."""
        return Beams(*(tensor[rows] for tensor in self.tensors().values()))

    def put(self, rows: Tensor, other: "Beams") -> None:
        """Put rows back."""
        for name, tensor in self.tensors().items():
            tensor[rows] = getattr(other, name).to(tensor.dtype)

    def pick(self, which_NK: Tensor) -> "Beams":
        """Return hypotheses in another order, perhaps one several times."""
        deep = which_NK[..., None].expand(-1, -1, ROOM)
        return Beams(
            *(t.gather(1, which_NK if t.dim() == 2 else deep) for t in self.tensors().values())
        )

    def score(self) -> Tensor:
        """Nats of each hypothesis."""
        return torch.logaddexp(self.blank, self.piece) + self.favour


_DEEP = frozenset({"said", "frame", "sure"})
_DTYPES = {
    "prefix": torch.int64, "before": torch.int64, "blank": torch.float32, "piece": torch.float32,
    "favour": torch.float32, "owed": torch.float32, "sure": torch.float32,
}  # fmt: skip


class Search(Protocol):
    """Takes the beams of slots through the frames of a step."""

    width: int
    """Hypotheses of a stream."""

    def __call__(
        self, beams: Beams, told_S: Tensor, scores_BTV: Tensor, steps: "Steps"
    ) -> list[Heard]:
        """Search valid frames of log probabilities (blank last); ``told_S`` is moved on."""
        ...


@dataclass(frozen=True, slots=True)
class Steps:
    """Which frames of a step exist, and for whom: [B] each."""

    slots_B: Tensor
    valid_B: Tensor
    first_frame_B: Tensor


class PlainSearch:
    """All rows and all hypotheses in one tensor step a frame."""

    def __init__(self, fusion: Fusion, *, width: int, blank: int) -> None:
        self._fusion, self._blank, self.width = fusion, blank, width

    def __call__(
        self, beams: Beams, told_S: Tensor, scores_BTV: Tensor, steps: Steps
    ) -> list[Heard]:
        """Search, one frame of all rows after the other."""
        decided: list[list[Token]] = [[] for _ in steps.slots_B]
        for t in range(scores_BTV.shape[1]):
            rows = torch.nonzero(t < steps.valid_B).squeeze(1)
            if not len(rows):
                break
            slots, at = steps.slots_B[rows], steps.first_frame_B[rows] + t
            grown = self._frame(beams.rows(slots), scores_BTV[rows, t], slots, at)
            beams.put(slots, _aged(self._judged(grown, slots, at), at))
            for row, slot, frame in zip(rows.tolist(), slots.tolist(), at.tolist(), strict=True):
                decided[row] += tell(beams, told_S, slot, frame)
        return [
            Heard(tokens, open_tokens(beams, told_S, slot) if valid else [])
            for tokens, slot, valid in zip(
                decided, steps.slots_B.tolist(), steps.valid_B.tolist(), strict=True
            )
        ]

    def _judged(self, beams: Beams, slots_N: Tensor, at_N: Tensor) -> Beams:
        """Where the best one pauses, put first what is best with unfinished phrases given back."""
        is_pause = at_N - beams.newest[:, 0] >= PAUSE
        if not bool(is_pause.any()):
            return beams
        first = torch.where(is_pause, worth_now(self._fusion, beams, slots_N).argmax(-1), 0)
        order = torch.arange(self.width).expand_as(beams.last).clone()
        order[:, 0] = first
        return beams.pick(order.scatter(1, first[:, None], 0 * first[:, None]))

    def _frame(self, beams: Beams, scores_NV: Tensor, slots_N: Tensor, at_N: Tensor) -> Beams:
        """Let every hypothesis stay or add a piece; keep the best ones."""
        rows, width = beams.last.shape
        last = beams.last.long()
        either = torch.logaddexp(beams.blank, beams.piece)
        again = (beams.piece + scores_NV.gather(1, last)).masked_fill(last == self._blank, NEVER)
        stay_blank = either + scores_NV[:, -1:]
        hints = look(self._fusion, beams, slots_N)
        tried, pieces = _tried(beams, hints, scores_NV)
        # A piece said twice needs a blank between.
        is_repeat = pieces == last[..., None]
        more = torch.where(is_repeat, beams.blank[..., None], either[..., None]) + tried
        # A hypothesis grown into a prefix that another one has already is that other one.
        is_same = (beams.prefix[:, :, None] == beams.before[:, None]).unsqueeze(-1) & (
            pieces[:, :, None] == last[:, None, :, None]
        )  # [N, from, to, C]
        grown = more[:, :, None].masked_fill(~is_same, NEVER).amax((1, 3))
        more = more.masked_fill(is_same.any(2), NEVER)
        stay_piece = torch.logaddexp(again, grown)
        gain, owed = _worth(beams, hints, pieces.reshape(rows * width, -1))
        favour = beams.favour[..., None] + gain.view(more.shape)
        stay = torch.logaddexp(stay_blank, stay_piece) + beams.favour
        best = torch.cat([stay, (more + favour).flatten(1)], 1).topk(width, -1).indices
        grows, tries = best >= width, more.shape[2]
        parent = torch.where(grows, (best - width) // tries, best)
        choice = torch.where(grows, best - width, 0)
        after = beams.pick(parent)
        after.blank = torch.where(grows, NEVER, stay_blank.gather(1, parent))
        grown_piece = more.flatten(1).gather(1, choice)
        after.piece = torch.where(grows, grown_piece, stay_piece.gather(1, parent))
        after.favour = torch.where(grows, favour.flatten(1).gather(1, choice), after.favour)
        owed = torch.where(grows, owed.view(rows, -1).gather(1, choice), after.owed)
        after.owed = owed
        piece = pieces.flatten(1).gather(1, choice)
        line = parent + width * torch.arange(rows)[:, None]
        after.boost = torch.where(grows, hints.boost_next[line, piece], after.boost)
        after.lm = torch.where(grows, hints.lm_next[line, piece], after.lm)
        return _grown(after, grows, piece, at_N, scores_NV)


def _tried(beams: Beams, hints: Hints, scores_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and ids of the pieces that hypotheses may add [N, K, C]; NEVER: may not."""
    rows, width = beams.last.shape
    is_begun = beams.boost != 0
    most = PHRASE_TRIED if bool(is_begun.any()) else TRIED
    scores_NC, ids_NC = scores_NV[:, :-1].topk(min(most, scores_NV.shape[1] - 1), -1)
    ids = ids_NC[:, None].expand(-1, width, -1)
    below_NC = scores_NV.amax(-1, keepdim=True) - scores_NC
    is_near_NC = (below_NC <= REACH) & (torch.arange(ids_NC.shape[1]) < TRIED)
    goes_on = is_begun[..., None] & (hints.gain.view(rows, width, -1).gather(2, ids) > 0)
    is_in = is_near_NC[:, None] | goes_on & (below_NC <= PHRASE_REACH)[:, None]
    is_in &= scores_NV[:, -1, None, None].exp() < SURE_BLANK
    return scores_NC[:, None].masked_fill(~is_in, NEVER), ids


def _worth(beams: Beams, hints: Hints, pieces: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each piece [N K, C] gains, and what the hypothesis owes behind it."""
    beams.owed = owed_of(beams, hints)
    owed, weight = beams.owed.view(-1, 1), hints.lm_weight[:, None]
    gain, lm = hints.gain.gather(1, pieces), hints.lm.gather(1, pieces)
    goes_on = gain > 0
    is_eased = goes_on & (beams.boost.view(-1, 1) != 0) & (lm < RELIEF)
    relief = torch.where(is_eased, weight * (RELIEF - lm), 0.0)
    gain = torch.where(goes_on, gain, gain - owed) + weight * (lm + PIECE_BONUS) + relief
    return gain, torch.where(goes_on, owed + relief, 0.0)


def owed_of(beams: Beams, hints: Hints) -> Tensor:
    """Return what hypotheses owe [N, K]: nothing behind a whole phrase."""
    return beams.owed.masked_fill(hints.rest.view_as(beams.owed) == 0, 0.0)


def worth_now(fusion: Fusion, beams: Beams, slots_N: Tensor) -> Tensor:
    """Return the nats of hypotheses [N, K] if nothing followed: unfinished phrases given back."""
    hints = look(fusion, beams, slots_N)
    return beams.score() + hints.rest.view_as(beams.owed) - owed_of(beams, hints)


def look(fusion: Fusion, beams: Beams, slots_N: Tensor) -> Hints:
    """Say what the slots favour behind each of their hypotheses."""
    slots = slots_N[:, None].expand_as(beams.lm).reshape(-1)
    return fusion.look_from(slots, beams.boost.long().view(-1), beams.lm.long().view(-1))


def only_first(beams: Beams, count: int) -> Beams:
    """Let all hypotheses but the first ones die."""
    beams.blank[:, count:], beams.piece[:, count:] = NEVER, NEVER
    return _buried(beams)


def tell(beams: Beams, told_S: Tensor, slot: int, at: int) -> list[Token]:
    """Take out what all living hypotheses begin with."""
    alive = beams.score()[slot] > NEVER
    alive[0] = True
    said, count = beams.said[slot][alive], beams.count[slot][alive]
    open_ = int(count.min())
    number = int((said[:, :open_] == said[:1, :open_]).all(0).long().cumprod(0).sum())
    if not number:
        return []
    tokens = open_tokens(beams, told_S, slot, at)[:number]
    told_S[slot] = tokens[-1].frame
    for part in (beams.said, beams.frame, beams.sure):
        part[slot] = part[slot].roll(-number, -1)
    beams.count[slot] = (beams.count[slot] - number).clamp(min=0)
    return tokens


def open_tokens(beams: Beams, told_S: Tensor, slot: int, at: int | None = None) -> list[Token]:
    """Return what the best hypothesis says beyond what is decided; ``at`` decides it."""
    count, told = int(beams.count[slot, 0]), int(told_S[slot])
    parts: Sequence[list[float]] = [
        part[slot, 0, :count].tolist() for part in (beams.said, beams.frame, beams.sure)
    ]
    tokens = list[Token]()
    for piece, frame, score in zip(*parts, strict=True):
        told = max(told, int(frame))
        tokens.append(Token(int(piece), told, score, -1 if at is None else at))
    return tokens


def _grown(beams: Beams, grows: Tensor, piece: Tensor, at_N: Tensor, scores_NV: Tensor) -> Beams:
    """Write the new piece of the hypotheses that grow; scale scores; mark dead ones."""
    scores = scores_NV.repeat_interleave(piece.shape[1], 0)
    sure = confidence(scores, piece.flatten())
    place = beams.count.long().clamp(max=ROOM - 1)[..., None]
    at = at_N[:, None].expand_as(piece)

    def write(into: Tensor, value: Tensor) -> Tensor:
        old, new = into.gather(2, place), value[..., None].to(into.dtype)
        return into.scatter(2, place, torch.where(grows[..., None], new, old))

    inner = beams.count.long().clamp(1, ROOM)[..., None] - 1
    is_last = (~grows & (beams.count > 0) & (at - beams.newest <= PEAK))[..., None]
    again = confidence(scores, beams.last.long().flatten()).view(piece.shape)[..., None]
    before = beams.sure.gather(2, inner)
    beams.sure = beams.sure.scatter(
        2, inner, torch.where(is_last, torch.maximum(before, again), before)
    )
    beams.said = write(beams.said, piece)
    beams.frame = write(beams.frame, at)
    beams.sure = write(beams.sure, sure.view(piece.shape))
    beams.newest = torch.where(grows, at, beams.newest.long())
    beams.count = beams.count + grows
    beams.before = torch.where(grows, beams.prefix, beams.before)
    beams.prefix = torch.where(grows, beams.prefix * HASH + piece + 1, beams.prefix)
    beams.last = torch.where(grows, piece, beams.last.long())
    # Only differences count: small numbers stay exact however long the stream is.
    top = torch.logaddexp(beams.blank[:, :1], beams.piece[:, :1])
    beams.blank, beams.piece = beams.blank - top, beams.piece - top
    beams.favour = beams.favour - beams.favour[:, :1]
    return _buried(beams)


def _buried(beams: Beams) -> Beams:
    """Give hypotheses without a chance a hash that no prefix has."""
    is_dead = beams.score() == NEVER
    beams.prefix = torch.where(is_dead, -2 - torch.arange(is_dead.shape[1]), beams.prefix)
    beams.before = beams.before.masked_fill(is_dead, -1)
    return beams


def _aged(beams: Beams, at_N: Tensor) -> Beams:
    """Drop hypotheses that differ from the best one in what is old."""
    is_pause = at_N - beams.newest[:, 0] >= PAUSE
    until = (at_N - torch.where(is_pause, PAUSE, PATIENCE))[:, None, None]
    place = torch.arange(ROOM)
    is_old = (beams.frame <= until) & (place < beams.count[..., None])
    is_behind = place >= beams.count[..., None]
    is_late = (is_old[:, :1] & ((beams.said != beams.said[:, :1]) | is_behind)).any(-1)
    says_more = (is_old & (place >= beams.count[:, :1, None])).any(-1)
    is_late = is_late | (is_pause[:, None] & says_more)
    beams.blank = beams.blank.masked_fill(is_late, NEVER)
    beams.piece = beams.piece.masked_fill(is_late, NEVER)
    return _buried(beams)
