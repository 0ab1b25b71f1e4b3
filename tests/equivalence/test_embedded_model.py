"""The embedded model on real speech: our streaming against NeMo with the same weights."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from asr.checkpoint import DEFAULT_MODEL, Checkpoint, embedded_models, load_checkpoint
from asr.checkpoint.hub import EMBEDDED
from asr.engine import Engine, EngineConfig
from asr.reference import NemoEngine, offline, open_nemo_model
from tests.equivalence.play import Player, Traffic, Utterance

if DEFAULT_MODEL not in embedded_models():
    pytest.skip("the embedded model is not there", allow_module_level=True)
pytest.importorskip("nemo.collections.asr", reason="NeMo is not installed")


def write_nemo(checkpoint: Checkpoint, path: Path) -> Path:
    """The embedded folder as NeMo wants it, in fp32."""
    config = yaml.safe_load((EMBEDDED / DEFAULT_MODEL / "model_config.yaml").read_text())
    pieces = checkpoint.tokenizer.pieces
    config["tokenizer"] = {
        "dir": "unused, but NeMo reads the key",
        "type": "bpe",
        "model_path": "nemo:tokenizer.model",
        "vocab_path": "nemo:vocab.txt",
        "spe_tokenizer_vocab": "nemo:tokenizer.vocab",
    }
    weights = io.BytesIO()
    torch.save({name: t.float() for name, t in checkpoint.tensors.items()}, weights)
    members = {
        "model_config.yaml": yaml.safe_dump(config, allow_unicode=True).encode(),
        "model_weights.ckpt": weights.getvalue(),
        "tokenizer.model": checkpoint.tokenizer.model_proto,
        "vocab.txt": "\n".join(pieces).encode(),
        "tokenizer.vocab": "\n".join(f"{piece}\t0" for piece in pieces).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def nemo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("embedded") / "embedded.nemo"
    yield open_nemo_model(write_nemo(load_checkpoint(), path))


def test_real_speech_through_the_embedded_model_equals_nemo_offline(
    nemo: Any, speech: list[NDArray[np.float32]]
) -> None:
    checkpoint = load_checkpoint()
    look_aheads = checkpoint.spec.look_aheads
    said = [Utterance(samples, look_ahead) for samples in speech[:4] for look_ahead in look_aheads]
    for head in [name for name in ("rnnt", "ctc") if getattr(checkpoint.spec, f"has_{name}")]:
        config = EngineConfig(slots=8, precision="fp32", decoder=head)
        heard = Player(Engine(checkpoint, config), said, Traffic(seed=9)).play()
        total = 0
        for one in heard:
            utterance = said[one.utterance]
            truth = offline(nemo, utterance.samples, utterance.look_ahead)
            tokens = truth.tokens if head == "rnnt" else truth.ctc
            frames = truth.frames if head == "rnnt" else truth.ctc_frames
            assert float((one.rows - truth.encoded).abs().max()) <= 1e-4
            assert [token.id for token in one.tokens] == tokens
            assert [token.frame for token in one.tokens] == frames
            total += len(one.tokens)
        assert total > 50


def test_the_nemo_backend_says_what_nemo_says_offline(
    nemo: Any, speech: list[NDArray[np.float32]]
) -> None:
    engine = NemoEngine(nemo, slots=2)
    samples = speech[0][: 16_000 * 4]
    stream = engine.open(1)
    engine.feed(stream, samples[:30_000])
    while engine.is_ready():
        engine.step()
    fork = engine.fork(stream)
    engine.finish(fork)
    engine.feed(stream, samples[30_000:])
    engine.finish(stream)
    tokens = []
    while engine.is_ready():
        tokens += [emission for emission in engine.step() if emission.stream == stream]
    assert tokens[-1].finished and engine.slots_in_use == 0
    assert tokens[-1].frames == len(offline(nemo, samples, 1).encoded)
