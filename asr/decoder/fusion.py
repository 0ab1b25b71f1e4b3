"""What a stream favours beside its acoustic scores: boosted phrases, a language model.

Does: keep both per slot; say what each next piece would gain; decide between pieces and blank.
Does not know: audio, heads, how tokens of CTC or RNN-T repeat.

Gains never make words out of nothing: on a frame where blank is near certain they do not count;
they lift only pieces within a margin of the best one; what is given back ranks pieces among
themselves only; and the language model moves probability between pieces, never to or from blank.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor

from asr.decoder.boosting import Automaton, BoostPool
from asr.decoder.ngram import NgramModel
from asr.decoder.spelling import alphabet, spellings
from asr.interface import NO_BIASING, BadBiasing, Biasing, Phrase
from asr.tokenizer import Tokenizer

SURE_BLANK = 0.9
"""Blank probability from which on nothing is favoured."""
MARGIN = 5.0
"""Nats that a piece may be behind the best one and still be favoured."""
KEPT_AUTOMATA = 32


@dataclass(frozen=True, slots=True)
class Hints:
    """What each next piece is worth, for N rows: [N, V]; the states it leads to."""

    gain: Tensor
    boost_next: Tensor
    lm: Tensor | None
    lm_next: Tensor | None
    lm_weight: Tensor

    def take(self, rows: Tensor) -> "Hints":
        """Return some of the rows."""
        lm = None if self.lm is None else self.lm[rows]
        lm_next = None if self.lm_next is None else self.lm_next[rows]
        return Hints(self.gain[rows], self.boost_next[rows], lm, lm_next, self.lm_weight[rows])

    def put(self, rows: Tensor, other: "Hints") -> None:
        """Replace some of the rows."""
        self.gain[rows], self.boost_next[rows] = other.gain, other.boost_next
        if self.lm is not None and other.lm is not None:
            self.lm[rows] = other.lm
        if self.lm_next is not None and other.lm_next is not None:
            self.lm_next[rows] = other.lm_next


class Fusion:
    """Tools of every stream by slot. A slot without any is never looked at."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        slots: int,
        device: torch.device,
        lm: NgramModel | None = None,
        lm_weight: float = 0.0,
    ) -> None:
        self._tokenizer, self._device = tokenizer, device
        self._lm = None if lm is None else lm.to(device)
        self._lm_weight = lm_weight if lm else 0.0
        self._biasing: dict[int, Biasing] = {}
        self._boost = BoostPool(slots=slots, vocabulary=len(tokenizer.pieces), device=device)
        self._lm_state_S = torch.zeros(slots + 1, dtype=torch.long, device=device)
        self._lm_weight_S = torch.zeros(slots + 1, device=device)
        self._is_used_S = torch.zeros(slots + 1, dtype=torch.bool, device=device)
        self._used: set[int] = set()
        self._turns = torch.tensor(sorted(tokenizer.turn_tokens), dtype=torch.long, device=device)
        self._compile = lru_cache(KEPT_AUTOMATA)(self._compiled)

    def check(self, biasing: Biasing) -> None:
        """Raise BadBiasing when a phrase cannot be written with this vocabulary."""
        if biasing.phrases:
            self._compile(biasing.phrases)

    def set(self, slot: int, biasing: Biasing) -> None:
        """Favour this from here on; what was said last stays known."""
        automaton = self._compile(biasing.phrases) if biasing.phrases else None
        self._boost.set(slot, automaton)
        self._biasing[slot] = biasing
        weight = self._lm_weight if biasing.lm_weight is None else biasing.lm_weight
        self._lm_weight_S[slot] = weight if self._lm else 0.0
        is_used = automaton is not None or bool(self._lm_weight_S[slot] > 0)
        self._is_used_S[slot] = is_used
        (self._used.add if is_used else self._used.discard)(slot)

    def clear(self, slot: int) -> None:
        """Set a slot to the start of a stream."""
        self._boost.clear(slot)
        self._lm_state_S[slot] = self._lm.start if self._lm else 0
        self.set(slot, NO_BIASING)

    def copy(self, source: int, target: int) -> None:
        """Copy a slot."""
        self.set(target, self._biasing.get(source, NO_BIASING))
        self._boost.copy(source, target)
        self._lm_state_S[target] = self._lm_state_S[source]

    def export_row(self, slot: int) -> dict[str, Tensor]:
        """Copy a slot out: what is favoured, and where in it the stream stands."""
        if slot not in self._used:
            return {}
        about = json.dumps(asdict(self._biasing[slot])).encode()
        favoured = torch.frombuffer(bytearray(about), dtype=torch.uint8)
        return {"bias": favoured} | self.export_place(slot)

    def import_row(self, slot: int, row: Mapping[str, Tensor]) -> None:
        """Put a slot back. Another language model goes on behind the same pieces."""
        self.clear(slot)
        if "bias" in row:
            about = json.loads(bytes(row["bias"].tolist()))
            phrases = tuple(Phrase(**phrase) for phrase in about.pop("phrases"))
            self.set(slot, Biasing(phrases=phrases, **about))
        self.import_place(slot, row)

    def export_place(self, slot: int) -> dict[str, Tensor]:
        """Return the pieces that lead to where a slot stands: small."""
        if slot not in self._used:
            return {}
        lm = self._lm.path(int(self._lm_state_S[slot])) if self._lm else []
        return {
            "bias_said": torch.tensor(self._boost.path(slot), dtype=torch.long),
            "bias_lm_said": torch.tensor(lm, dtype=torch.long),
        }

    def import_place(self, slot: int, row: Mapping[str, Tensor]) -> None:
        """Put a slot where ``export_place`` found it."""
        if "bias_said" in row:
            self._boost.follow(slot, row["bias_said"].tolist())
            if self._lm:
                self._lm_state_S[slot] = self._lm.follow(row["bias_lm_said"].tolist())

    def rows(self, slots_N: Tensor) -> Tensor | None:
        """Return the positions of the slots that favour something, None if there is none."""
        if not self._used:
            return None
        rows = torch.nonzero(self._is_used_S[slots_N]).squeeze(1)
        return rows if len(rows) else None

    def look(self, slots_N: Tensor) -> Hints:
        """Say what each next piece is worth."""
        gain, boost_next = self._boost.look(slots_N)
        lm, lm_next = self._lm.look(self._lm_state_S[slots_N]) if self._lm else (None, None)
        return Hints(gain, boost_next, lm, lm_next, self._lm_weight_S[slots_N])

    def advance(self, slots_N: Tensor, pieces_N: Tensor, hints: Hints) -> None:
        """Let slots say pieces; ``hints`` is what ``look`` said of them before."""
        self._boost.move(slots_N, hints.boost_next.gather(1, pieces_N[:, None]).squeeze(1))
        if hints.lm_next is not None:
            self._lm_state_S[slots_N] = hints.lm_next.gather(1, pieces_N[:, None]).squeeze(1)

    def choose(self, logits: Tensor, hints: Hints, last_N: Tensor | None = None) -> Tensor:
        """Return the label of each row [N] or [N, T] of logits [.., V + 1], blank last.

        ``last_N``: the label before, of a head that says a piece over several frames: it goes on
        at no gain and no cost.
        """
        scores = torch.log_softmax(logits.float(), -1)
        raw = scores.argmax(-1)
        blank, pieces = scores[..., -1], scores[..., :-1]
        quiet, quiet_label = blank, torch.full_like(raw, scores.shape[-1] - 1)
        if last_N is not None:
            again = scores.gather(-1, last_N[:, None]).squeeze(-1)
            quiet, quiet_label = (
                torch.maximum(blank, again),
                torch.where(again > blank, last_N, quiet_label),
            )
            pieces = scores.scatter(-1, last_N[:, None], -torch.inf)[..., :-1]
        near = pieces >= pieces.amax(-1, keepdim=True) - MARGIN
        pieces = self._reweighed(pieces.masked_fill(~near, -torch.inf), hints)
        gain = hints.gain if pieces.dim() == 2 else hints.gain[:, None]
        best = (pieces + gain).argmax(-1)
        lifted = (pieces + gain.clamp(min=0)).amax(-1)
        label = torch.where(lifted > quiet, best, quiet_label)
        is_left_alone = blank.exp() >= SURE_BLANK
        if len(self._turns):
            is_left_alone |= torch.isin(raw, self._turns)
        return torch.where(is_left_alone, raw, label)

    def _reweighed(self, pieces: Tensor, hints: Hints) -> Tensor:
        """Move probability between pieces as the language model says; their sum stays."""
        if hints.lm is None:
            return pieces
        lm, weight = hints.lm, hints.lm_weight[:, None]
        if pieces.dim() == 3:
            lm, weight = lm[:, None], weight[:, None]
        mixed = pieces + weight * lm
        return mixed + pieces.logsumexp(-1, keepdim=True) - mixed.logsumexp(-1, keepdim=True)

    def _compiled(self, phrases: tuple[Phrase, ...]) -> Automaton:
        weights = dict[tuple[int, ...], float]()
        for number, phrase in enumerate(phrases):
            found = spellings(phrase.text, self._tokenizer)
            if not found:
                raise BadBiasing(f"phrase {number} cannot be written in the model's alphabet")
            for spelling in found:
                weights[spelling] = max(phrase.weight, weights.get(spelling, 0.0))
        return Automaton(weights, len(self._tokenizer.pieces))

    @property
    def alphabet(self) -> str:
        """Characters that phrases may have."""
        return alphabet(self._tokenizer.pieces)
