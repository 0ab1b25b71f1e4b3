"""A model's words on speech it never heard: how sure, how late they were, measured and kept.

Does: a manifest -> each word judged; what was measured -> the file that the checkpoint is loaded
with.
Does not know: how a curve is fitted (``asr.calibration``), how results are printed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr.calibration import Calibration, expected_calibration_error, fit
from asr.checkpoint import LATEST_MS, calibration_of, load_checkpoint
from asr.engine import Engine, EngineConfig
from asr.interface import StreamingEngine
from asr.offline import ManifestError, Recording, read_manifest, transcribe
from asr.scoring import matches, plain_words

FEWEST = 500
"""Words that a curve of confidence is fitted on."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Words that a model said of a manifest."""

    words: list[tuple[float, bool]]
    """Confidence of each, and whether it was right."""
    late_ms: list[float]
    """How much later than spoken right words were told to begin, where the manifest says."""


def judge(
    engine: StreamingEngine,
    manifest: Path,
    look_ahead: int,
    *,
    every: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Judged:
    """Transcribe each n-th line of a manifest through the streaming engine, look at every word."""
    utterances, judged = read_manifest(manifest)[::every], Judged([], [])
    recordings = (Recording(str(i), u.samples()) for i, u in enumerate(utterances))
    for done, heard in enumerate(transcribe(engine, recordings, look_ahead), 1):
        said = utterances[int(heard.name)]
        spoken = plain_words(said.text)
        pairs = matches(spoken, ["".join(plain_words(word.text)) for word in heard.words])
        right = {j for _, j in pairs}
        judged.words.extend((w.confidence or 0.0, j in right) for j, w in enumerate(heard.words))
        if len(said.starts_s) == len(spoken):
            judged.late_ms.extend(
                heard.words[j].start_ms - 1_000 * said.starts_s[i] for i, j in pairs
            )
        on_progress(done, len(utterances))
    return judged


def calibrate(
    model: Path, manifest: Path, lm: str, *, on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Measure confidence and delay of a checkpoint and write them where it is loaded from.

    ``lm``: the language model it will be served with, a file, auto or none. Raises ManifestError,
    CheckpointError, EngineError and OSError.
    """
    file, checkpoint = calibration_of(model), load_checkpoint(model)
    engine = Engine(replace(checkpoint, calibration=Calibration()), EngineConfig(lm=lm))
    look_ahead = engine.info.look_aheads[0]
    judged = judge(engine, manifest, look_ahead, on_progress=on_progress)
    words, late = judged.words, sorted(judged.late_ms)
    if len(words) < FEWEST:
        raise ManifestError(
            f"{len(words)} words were heard: a curve needs {FEWEST}, better some thousands"
        )
    late_ms = round(late[len(late) // 2]) if late else checkpoint.calibration.late_ms
    measured = {
        "confidence": fit(words).points,
        "late_ms": min(max(0, late_ms), LATEST_MS),
        "fitted_on": f"{len(words)} words of {manifest.name}, look-ahead {look_ahead}",
    }
    file.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    half, others = fit(words[::2]), words[1::2]  # judged by words it was not fitted on
    return {
        "file": str(file),
        "words": len(words),
        "right": round(sum(right for _, right in words) / len(words), 4),
        "late_ms": measured["late_ms"],
        "timed_words": len(late),
        "error_before": round(expected_calibration_error(others), 4),
        "error": round(expected_calibration_error([(half(c), ok) for c, ok in others]), 4),
    }
