"""NeMo 3.0.0 itself: the oracle of tests, and ``--backend nemo`` for models we do not know."""

from asr.reference.engine import NemoEngine
from asr.reference.nemo import attention_context, ctc_head, open_nemo_model, pieces_of
from asr.reference.offline import Offline, collapse, offline

__all__ = [
    "NemoEngine",
    "Offline",
    "attention_context",
    "collapse",
    "ctc_head",
    "offline",
    "open_nemo_model",
    "pieces_of",
]
