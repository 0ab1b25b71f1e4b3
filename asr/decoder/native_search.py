"""The beam search in C++ (``search.cpp``): a step of all rows in one call.

Does: hand the tables and the beams to the function, read what it says into tokens.
Does not know: how it searches (``search`` is the specification), how it is compiled.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from asr.decoder.base import Heard
from asr.decoder.fusion import SURE_BLANK, Fusion
from asr.decoder.search import (
    PATIENCE,
    PAUSE,
    PEAK,
    PHRASE_REACH,
    PHRASE_TRIED,
    PIECE_BONUS,
    REACH,
    RELIEF,
    ROOM,
    TRIED,
    Beams,
    PlainSearch,
    Search,
    Steps,
)
from asr.interface import Token
from asr.native import library

SOURCE = Path(__file__).with_name("search.cpp")


def _structure(name: str, pointers: Sequence[str], **first: object) -> type[ctypes.Structure]:
    """Mirror a structure of the source: its first fields, then pointers to tensors."""
    rest = [(pointer, ctypes.c_void_p) for pointer in pointers]
    return type(name, (ctypes.Structure,), {"_fields_": [*first.items(), *rest]})


_WHOLE = ("width", "pieces", "tried", "phrase_tried", "room", "patience", "pause", "peak")
_REAL = ("sure_blank", "reach", "phrase_reach", "bonus", "relief")
_Rules = _structure(
    "Rules", (), **dict.fromkeys(_WHOLE, ctypes.c_int64), **dict.fromkeys(_REAL, ctypes.c_float)
)
_NGRAM = ("child", "state")
_Ngram = _structure("Ngram", _NGRAM)
_PHRASES = ("number_S", "base", "begin", "count", "piece", "next", "gain", "given_back",
            "first_next", "first_gain")  # fmt: skip
_Phrases = _structure("Phrases", _PHRASES)
_BEAMS = ("prefix", "before", "last", "boost", "lm", "count", "newest", "blank", "piece", "favour",
          "owed", "said", "frame", "sure")  # fmt: skip
_Beams = _structure("Beams", _BEAMS)
_TOLD = ("decided", "open", "piece", "frame", "at", "sure")
_Told = _structure("Told", _TOLD, room=ctypes.c_int64)


def make_search(fusion: Fusion, *, width: int, blank: int, is_native: bool) -> Search:
    """Return the search in C++ if it is wanted and can be compiled, else in torch."""
    functions = library(SOURCE) if is_native else None
    if functions is None:
        return PlainSearch(fusion, width=width, blank=blank)
    return NativeSearch(functions, fusion, width=width, blank=blank)


class NativeSearch:
    """asr.decoder.search.Search in C++."""

    def __init__(self, functions: ctypes.CDLL, fusion: Fusion, *, width: int, blank: int) -> None:
        self._run = functions.search_step
        self._run.restype = None
        self._fusion, self.width = fusion, width
        most = min(TRIED, blank), min(PHRASE_TRIED, blank)
        whole = (width, blank, *most, ROOM, PATIENCE, PAUSE, PEAK)
        self._rules = _Rules(*whole, SURE_BLANK, REACH, PHRASE_REACH, PIECE_BONUS, RELIEF)
        tables = fusion.lm_tables()
        self._ngram = _Ngram(*(tables[name].data_ptr() for name in _NGRAM) if tables else ())
        self._kept = tables  # the C++ reads their memory

    def __call__(
        self, beams: Beams, told_S: Tensor, scores_BTV: Tensor, steps: Steps
    ) -> list[Heard]:
        """Search all rows."""
        rows, frames, _ = scores_BTV.shape
        room = ROOM + frames
        told = {name: torch.empty(rows, room, dtype=torch.int32) for name in _TOLD[2:5]}
        told |= {"sure": torch.empty(rows, room)}
        told |= {name: torch.empty(rows, dtype=torch.int32) for name in _TOLD[:2]}
        phrases = self._fusion.phrase_tables()
        inside = (scores_BTV.contiguous(), steps.slots_B, steps.valid_B, steps.first_frame_B)
        self._run(
            ctypes.byref(self._rules),
            ctypes.byref(self._ngram),
            ctypes.byref(_Phrases(*(phrases[name].data_ptr() for name in _PHRASES))),
            ctypes.byref(_Beams(*(beams.tensors()[name].data_ptr() for name in _BEAMS))),
            ctypes.byref(_Told(room, *(told[name].data_ptr() for name in _TOLD))),
            ctypes.c_int64(rows),
            ctypes.c_int64(frames),
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in inside),
            ctypes.c_void_p(self._fusion.lm_weights.data_ptr()),
            ctypes.c_void_p(told_S.data_ptr()),
        )
        counts = zip(told["decided"].tolist(), told["open"].tolist(), strict=True)
        return [_heard(told, row, *count) for row, count in enumerate(counts)]


def _heard(told: dict[str, Tensor], row: int, decided: int, open_: int) -> Heard:
    if not decided and not open_:
        return Heard([], [])
    names = ("piece", "frame", "sure", "at")
    parts = (told[name][row, : decided + open_].tolist() for name in names)
    tokens = [Token(*each) for each in zip(*parts, strict=True)]
    return Heard(tokens[:decided], tokens[decided:])
