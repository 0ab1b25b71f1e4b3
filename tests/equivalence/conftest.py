"""NeMo models of each shape, built once a session; speech when it is there."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asr.checkpoint import Checkpoint, load_checkpoint
from tests.equivalence import models

SPEECH = Path(__file__).resolve().parents[3] / "shared" / "speech"


@dataclass(frozen=True, slots=True)
class Pair:
    """One set of weights twice: in NeMo, and as our loader reads the file NeMo wrote."""

    nemo: Any
    checkpoint: Checkpoint
    path: Path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[models.Shape], Pair]:
    """Build a model of a shape; the last one is kept, for the large ones fill the memory."""
    pytest.importorskip("nemo.collections.asr", reason="NeMo is not installed")
    kept: dict[str, Pair] = {}

    def make(shape: models.Shape) -> Pair:
        if shape.name not in kept:
            kept.clear()
            folder = tmp_path_factory.mktemp(shape.name)
            model = models.build(shape, folder)
            models.tune(model, shape)
            path = models.save(model, folder / "model.nemo")
            kept[shape.name] = Pair(model, load_checkpoint(path), path)
        return kept[shape.name]

    return make


@pytest.fixture(scope="session")
def speech() -> list[NDArray[np.float32]]:
    """A few real utterances of different length at 16 kHz."""
    import soundfile

    manifests = sorted(SPEECH.glob("eval/**/*.jsonl"))
    if not manifests:
        pytest.skip("../shared/speech is not there")
    found = []
    for manifest in manifests:
        entry = json.loads(manifest.read_text().splitlines()[1])
        samples, rate = soundfile.read(manifest.parent / entry["audio_filepath"], dtype="float32")
        if rate == 16_000 and samples.ndim == 1:
            found.append(samples[: 16_000 * 12])
    return found[:6]
