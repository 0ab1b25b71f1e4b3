"""Which precision an engine runs in when the user leaves it to us.

Does: ``auto`` -> bf16 where the processor multiplies it in hardware, or a GPU does, and the model's
WER gate passed, else fp32. The gate is a record that ``rivulet evaluate`` of both precisions
justifies.
Does not know: models beyond their fingerprint.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Literal

from asr.encoder.linear import Precision, has_fast_bf16

GATES = Path(__file__).parent / "models" / "precision_gates.json"
"""fingerprint -> {"bf16": bool, "evidence": str}; a model without a record runs in fp32."""


def choose_precision(
    wanted: Literal["auto", "fp32", "bf16"], fingerprint: str, device: str = "cpu"
) -> Precision:
    """Return what to run in."""
    if wanted != "auto":
        return wanted
    is_fast = device.startswith("cuda") or has_fast_bf16()
    return "bf16" if is_fast and _gates().get(fingerprint, False) else "fp32"


@lru_cache
def _gates() -> dict[str, bool]:
    if not GATES.exists():
        return {}
    records = json.loads(GATES.read_text())
    return {fingerprint: bool(record["bf16"]) for fingerprint, record in records.items()}
