"""What a stream favours beside its acoustic scores: boosted phrases, a language model.

Does: keep both per slot; say what each next piece would gain; decide between pieces and blank.
Does not know: audio, heads, how tokens of CTC or RNN-T repeat.

Gains never make words out of nothing: on a frame where blank is near certain they do not count;
they reach only pieces within a margin of the best one; against blank only pieces that go on with a
phrase are lifted; and the language model moves probability between pieces, never to or from blank.
"""

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor

from asr.decoder.boosting import Automaton, BoostPool
from asr.decoder.ngram import NgramModel
from asr.decoder.spelling import alphabet, spellings
from asr.interface import NO_BIASING, BadBiasing, Biasing, Phrase
from asr.tokenizer import Tokenizer, is_unspoken

SURE_BLANK = 0.9
"""Blank probability from which on nothing is favoured."""
MARGIN = 5.0
"""Nats that a piece may be behind the best one and still be favoured."""
KEPT_AUTOMATA = 32


class Hints(NamedTuple):
    """What each next piece is worth, for N rows: [N, V] but for the last two, [N]."""

    gain: Tensor
    """Nats by boosting."""
    lift: Tensor
    """The part of it that counts against blank."""
    boost_next: Tensor
    lm: Tensor
    """Log probabilities; zeros without a language model."""
    lm_next: Tensor
    rest: Tensor
    """Nats of a piece in no phrase: 0 or less."""
    lm_weight: Tensor

    def take(self, rows: Tensor) -> "Hints":
        """Return some of the rows."""
        return Hints(*(tensor[rows] for tensor in self))

    def put(self, rows: Tensor, other: "Hints") -> None:
        """Replace some of the rows."""
        for mine, new in zip(self, other, strict=True):
            mine[rows] = new


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
        unspoken = [i for i, piece in enumerate(tokenizer.pieces) if is_unspoken(piece)]
        self._unspoken = torch.tensor(unspoken, dtype=torch.long, device=device)
        self._automata: dict[tuple[Phrase, ...], Automaton] = {}
        """The last ones in use, the newest at the end."""

    def prepare(self, biasing: Biasing) -> Iterator[None]:
        """Compile phrases, a little with each step, for ``set``.

        Raises BadBiasing when a phrase cannot be written with this vocabulary.
        """
        phrases, kept = biasing.phrases, self._automata
        if phrases:
            automaton = kept.pop(phrases, None) or (yield from self._compiling(phrases))
            kept[phrases] = automaton
            if len(kept) > KEPT_AUTOMATA:
                del kept[next(iter(kept))]

    def check(self, biasing: Biasing) -> None:
        """Raise BadBiasing when a phrase cannot be written with this vocabulary."""
        for _ in self.prepare(biasing):
            pass

    def set(self, slot: int, biasing: Biasing) -> None:
        """Favour this from here on; what was said last stays known."""
        self.check(biasing)
        self._boost.set(slot, self._automata[biasing.phrases] if biasing.phrases else None)
        self._note(slot, biasing)

    def _note(self, slot: int, biasing: Biasing) -> None:
        self._biasing[slot] = biasing
        wanted = self._lm_weight if biasing.lm_weight is None else biasing.lm_weight
        weight = wanted if self._lm else 0.0
        self._lm_weight_S[slot] = weight
        is_used = bool(biasing.phrases) or weight > 0
        self._is_used_S[slot] = is_used
        (self._used.add if is_used else self._used.discard)(slot)

    def clear(self, slot: int) -> None:
        """Set a slot to the start of a stream; it favours nothing before ``set``."""
        self._boost.clear(slot)
        self._biasing.pop(slot, None)
        self._lm_state_S[slot] = self._lm.start if self._lm else 0
        self._lm_weight_S[slot] = 0.0
        self._is_used_S[slot] = False
        self._used.discard(slot)

    def copy(self, source: int, target: int) -> None:
        """Copy a slot."""
        self.clear(target)
        self._boost.copy(source, target)
        if source in self._biasing:
            self._note(target, self._biasing[source])
        self._lm_state_S[target] = self._lm_state_S[source]

    def export_row(self, slot: int) -> dict[str, Tensor]:
        """Copy a slot out: what is favoured, and where in it the stream stands."""
        if self._biasing.get(slot, NO_BIASING) == NO_BIASING:
            return self.export_place(slot)
        about = json.dumps(asdict(self._biasing[slot])).encode()
        favoured = torch.frombuffer(bytearray(about), dtype=torch.uint8)
        return {"bias": favoured} | self.export_place(slot)

    def import_row(self, slot: int, row: Mapping[str, Tensor]) -> None:
        """Put a slot back. Another language model goes on behind the same pieces."""
        self.clear(slot)
        biasing = NO_BIASING
        if "bias" in row:
            about = json.loads(bytes(row["bias"].tolist()))
            phrases = tuple(Phrase(**phrase) for phrase in about.pop("phrases"))
            biasing = Biasing(phrases=phrases, **about)
        self.set(slot, biasing)
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

    def follow(self, slot: int, labels: list[int]) -> tuple[int, int]:
        """Return the states of phrases and language model behind labels (V: the start)."""
        pieces = [label for label in labels if label < len(self._tokenizer.pieces)]
        lm = self._lm.follow(labels) if self._lm else 0
        return self._boost.behind(slot, pieces), lm

    def favours(self, slot: int) -> bool:
        """Whether a slot favours something."""
        return slot in self._used

    def rows(self, slots_N: Tensor) -> Tensor | None:
        """Return the positions of the slots that favour something, None if there is none."""
        if not self._used:
            return None
        rows = torch.nonzero(self._is_used_S[slots_N]).squeeze(1)
        return rows if len(rows) else None

    def look(self, slots_N: Tensor) -> Hints:
        """Say what each next piece is worth to slots, from where they stand."""
        return self.look_from(slots_N, self._boost.states(slots_N), self._lm_state_S[slots_N])

    def look_from(self, slots_N: Tensor, boost_states_N: Tensor, lm_states_N: Tensor) -> Hints:
        """Say what each next piece is worth to slots that stand elsewhere."""
        moves = self._boost.look(slots_N, boost_states_N)
        if self._lm is None:
            lm, lm_next = torch.zeros_like(moves.gain), torch.zeros_like(moves.next)
        else:
            lm, lm_next = self._lm.look(lm_states_N)
        weight = self._lm_weight_S[slots_N]
        return Hints(moves.gain, moves.lift, moves.next, lm, lm_next, moves.rest, weight)

    @property
    def lm_weights(self) -> Tensor:
        """Share of the language model by slot."""
        return self._lm_weight_S

    def lm_tables(self) -> dict[str, Tensor]:
        """Return the language model in rows, nothing where there is none."""
        return self._lm.packed() if self._lm else {}

    def phrase_tables(self) -> dict[str, Tensor]:
        """Return the arrays of all phrases in use; good until a slot's are changed."""
        return self._boost.arrays()

    def advance(self, slots_N: Tensor, pieces_N: Tensor, hints: Hints) -> None:
        """Let slots say pieces; ``hints`` is what ``look`` said of them before."""
        self._boost.move(slots_N, hints.boost_next.gather(1, pieces_N[:, None]).squeeze(1))
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
        gain, lift = hints.gain, hints.lift
        if pieces.dim() == 3:
            gain, lift = gain[:, None], lift[:, None]
        best = (pieces + gain).argmax(-1)
        lifted = (pieces + lift).amax(-1)
        label = torch.where(lifted > quiet, best, quiet_label)
        is_left_alone = blank.exp() >= SURE_BLANK
        if len(self._unspoken):
            is_left_alone |= torch.isin(raw, self._unspoken)
        return torch.where(is_left_alone, raw, label)

    def _reweighed(self, pieces: Tensor, hints: Hints) -> Tensor:
        """Move probability between pieces as the language model says; their sum stays."""
        if self._lm is None:
            return pieces
        lm, weight = hints.lm, hints.lm_weight[:, None]
        if pieces.dim() == 3:
            lm, weight = lm[:, None], weight[:, None]
        mixed = pieces + weight * lm
        return mixed + pieces.logsumexp(-1, keepdim=True) - mixed.logsumexp(-1, keepdim=True)

    def _compiling(self, phrases: tuple[Phrase, ...]) -> Generator[None, None, Automaton]:
        weights = dict[tuple[int, ...], float]()
        for number, phrase in enumerate(phrases):
            found = spellings(phrase.text, self._tokenizer)
            if not found:
                raise BadBiasing(f"phrase {number} cannot be written in the model's alphabet")
            for spelling in found:
                weights[spelling] = max(phrase.weight, weights.get(spelling, 0.0))
            yield
        return (yield from Automaton.compiling(weights, len(self._tokenizer.pieces)))

    @property
    def alphabet(self) -> str:
        """Characters that phrases may have."""
        return alphabet(self._tokenizer.pieces)
