"""A decoder and what its streams favour, as one.

Does: build the decoder of a checkpoint's head; keep it and the tools in step over a slot's life.
Does not know: encoders, chunks, files of streams.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from asr.checkpoint.spec import Checkpoint
from asr.decoder import ngram
from asr.decoder.base import Decoder, Heard
from asr.decoder.beam import CtcBeamDecoder
from asr.decoder.ctc import CtcDecoder
from asr.decoder.fixed import FixedDecoder
from asr.decoder.fusion import Fusion
from asr.decoder.native_search import make_search
from asr.decoder.rnnt import RnntDecoder
from asr.encoder.linear import Precision
from asr.interface import Biasing, EngineError, Token

Head = Literal["auto", "rnnt", "ctc"]
GREEDY = (CtcDecoder, RnntDecoder)
BEAM = 24
"""Hypotheses of a search that nobody gave a number; asr/training/README.md has what others do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """How streams are decoded."""

    slots: int
    precision: Precision
    head: Head
    beam: int | None
    """Hypotheses of a search; 1: greedy; None: BEAM where a language model meets a CTC head."""
    lm: str
    """File of a language model; empty: none."""
    lm_weight: float
    parts: str
    """``plain``: the search in torch, even where C++ could be compiled."""


class Decoding:
    """All that a stream is behind the encoder, by slot."""

    def __init__(self, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], setup: Setup) -> None:
        spec, tokenizer, slots = checkpoint.spec, checkpoint.tokenizer, setup.slots
        name = _pick_head(setup.head, checkpoint, setup.beam or 1)
        beam = setup.beam or (BEAM if name == "ctc" and setup.lm else 1)
        self.device = next(iter(tensors.values())).device
        """Where the encoder's frames are wanted."""
        device = self.device if beam == 1 else torch.device("cpu")
        lm = ngram.load(Path(setup.lm), tokenizer.pieces) if setup.lm else None
        fusion = Fusion(tokenizer, slots=slots, device=device, lm=lm, lm_weight=setup.lm_weight)
        parts = tensors, spec, fusion
        precision = setup.precision
        decoder: Decoder
        if beam > 1:
            is_native = setup.parts == "auto"
            search = make_search(fusion, width=beam, blank=spec.blank, is_native=is_native)
            decoder = CtcBeamDecoder(*parts, slots=slots, precision=precision, search=search)
            name = f"{name}-beam{beam}"
        elif name == "rnnt":
            decoder = RnntDecoder(*parts, slots=slots, precision=precision)
        else:
            decoder = CtcDecoder(*parts, slots=slots, precision=precision)
        self.name, self._fusion, self._decoder = name, fusion, decoder
        self.fixed: FixedDecoder | None = decoder if isinstance(decoder, GREEDY) else None
        """The decoder in fixed shapes, if it has such a form; it favours nothing."""
        self._confidence = checkpoint.calibration.confidence

    @property
    def alphabet(self) -> str:
        """Characters that boosted phrases may have."""
        return self._fusion.alphabet

    def prepare(self, biasing: Biasing) -> Iterator[None]:
        """Make ready to favour this, a little with each step; raises BadBiasing."""
        return self._fusion.prepare(biasing)

    def check(self, biasing: Biasing) -> None:
        """Raise BadBiasing when it holds what cannot be favoured."""
        self._fusion.check(biasing)

    def bias(self, slot: int, biasing: Biasing) -> None:
        """Favour this from the next frame on."""
        self._fusion.set(slot, biasing)
        self._decoder.rebias(slot)

    def clear(self, slot: int) -> None:
        """Set a slot to the start of a stream that favours nothing of its own."""
        self._fusion.clear(slot)
        self._decoder.clear(slot)

    def copy(self, source: int, target: int) -> None:
        """Copy a slot."""
        self._fusion.copy(source, target)
        self._decoder.copy(source, target)

    def agree(self, slot: int, copy: int) -> None:
        """Hold to what a copy said that was taken where the slot still stands, and flushed."""
        self._decoder.agree(slot, copy)

    def export_row(self, slot: int) -> dict[str, Tensor]:
        """Copy a slot out, with what it favours."""
        return self._decoder.export_row(slot) | self._fusion.export_row(slot)

    def import_row(self, slot: int, row: dict[str, Tensor]) -> None:
        """Put back what ``export_row`` gave."""
        self._fusion.import_row(slot, row)
        self._decoder.import_row(slot, row)
        self._decoder.rebias(slot)

    def export_place(self, slot: int) -> dict[str, Tensor]:
        """Copy a slot out, but for the phrases: small."""
        return self._decoder.export_row(slot) | self._fusion.export_place(slot)

    def import_place(self, slot: int, row: dict[str, Tensor]) -> None:
        """Put back what ``export_place`` gave into a slot that favours the same."""
        self._fusion.import_place(slot, row)
        self._decoder.import_row(slot, row)
        self._decoder.rebias(slot)

    def flush(self, slot: int) -> list[Token]:
        """Return what a stream that ends has heard and not yet told."""
        return self._rated(self._decoder.flush(slot))

    def step(
        self, x_BTD: Tensor, slots_B: Tensor, valid_B: Tensor, first_frame_B: Tensor
    ) -> list[Heard]:
        """Return what each row says; ``first_frame_B`` numbers the stream frame of x[:, 0]."""
        return self.rated(self._decoder.step(x_BTD, slots_B, valid_B, first_frame_B))

    def rated(self, rows: list[Heard]) -> list[Heard]:
        """Return what was said with the confidence that was measured for it."""
        return [Heard(self._rated(row.decided), self._rated(row.open)) for row in rows]

    def favours(self, slot: int) -> bool:
        """Whether a slot favours something: then ``fixed`` is not for it."""
        return self._fusion.favours(slot)

    def _rated(self, tokens: list[Token]) -> list[Token]:
        return [replace(token, confidence=self._confidence(token.confidence)) for token in tokens]


def _pick_head(wanted: Head, checkpoint: Checkpoint, beam: int) -> str:
    spec = checkpoint.spec
    if beam > 1:
        if wanted == "rnnt" or not spec.has_ctc:
            raise EngineError("beam search needs a CTC head")
        return "ctc"
    name = ("rnnt" if spec.has_rnnt else "ctc") if wanted == "auto" else wanted
    if (name == "rnnt" and not spec.has_rnnt) or (name == "ctc" and not spec.has_ctc):
        raise EngineError(f"{checkpoint.name} has no {name.upper()} head")
    return name
