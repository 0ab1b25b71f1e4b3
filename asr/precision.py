"""Which precision an engine runs in when the user leaves it to us.

Does: ``auto`` -> the fastest that this processor, or a GPU, multiplies in hardware and for which
the model's WER gate passed, else fp32. The gates are a record that ``make accuracy`` writes.
Does not know: models beyond their fingerprint.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Literal

from asr.encoder.linear import Precision, has_fast_bf16
from asr.encoder.product import has_tiles, way_of
from asr.interface import EngineError

GATES = Path(__file__).parent / "models" / "precision_gates.json"
"""fingerprint -> {precision: bool, "evidence": str}; a model without a record runs in fp32."""


def choose_precision(
    wanted: Literal["auto", "fp32", "bf16", "int8"], fingerprint: str, device: str = "cpu"
) -> Precision:
    """Return what to run in. Raises EngineError where that cannot be."""
    fast = fast_precisions(device)
    if wanted == "int8" and wanted not in fast:
        raise EngineError(
            "int8 needs a CPU with AVX512-VNNI and a C++ compiler (apt install g++): use auto"
        )
    if wanted != "auto":
        return wanted
    passed = _gates().get(fingerprint, {})
    return next((x for x in fast if passed.get(x)), "fp32")


def fast_precisions(device: str = "cpu") -> tuple[Precision, ...]:
    """Return what is multiplied faster than fp32 here, the fastest first.

    A core with AMX multiplies bf16 in tiles, which no 8 bits outside tiles reach.
    """
    if device.startswith("cuda"):
        return ("bf16",)
    eight: tuple[Precision, ...] = ("int8",) if way_of("int8") else ()
    if not has_fast_bf16():
        return eight
    return ("bf16", *eight) if has_tiles() else (*eight, "bf16")


@lru_cache
def _gates() -> dict[str, dict[str, bool]]:
    return json.loads(GATES.read_text()) if GATES.exists() else {}
