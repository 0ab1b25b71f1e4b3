"""The embedded model on real speech: our streaming against NeMo with the same weights."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asr.checkpoint import DEFAULT_MODEL, embedded_models, load_checkpoint
from asr.engine import Engine, EngineConfig
from asr.offline import Recording, transcribe
from asr.reference import NemoEngine, offline, open_nemo_model
from tests.equivalence.play import Player, Traffic, Utterance

if DEFAULT_MODEL not in embedded_models():
    pytest.skip("the embedded model is not there", allow_module_level=True)
pytest.importorskip("nemo.collections.asr", reason="NeMo is not installed")


@pytest.fixture(scope="module")
def nemo() -> Any:
    return open_nemo_model(DEFAULT_MODEL)


def test_real_speech_through_the_embedded_model_equals_nemo_offline(
    nemo: Any, speech: list[NDArray[np.float32]]
) -> None:
    checkpoint = load_checkpoint()
    look_aheads = checkpoint.spec.look_aheads
    said = [Utterance(samples, look_ahead) for samples in speech[:4] for look_ahead in look_aheads]
    for head in [name for name in ("rnnt", "ctc") if getattr(checkpoint.spec, f"has_{name}")]:
        config = EngineConfig(slots=8, precision="fp32", decoder=head, lm="none")
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


@pytest.mark.parametrize("look_ahead", load_checkpoint().spec.look_aheads)
def test_the_nemo_backend_says_what_our_engine_says(
    nemo: Any, speech: list[NDArray[np.float32]], look_ahead: int
) -> None:
    said = [Recording(str(i), samples[: 16_000 * 6]) for i, samples in enumerate(speech[:2])]
    ours = Engine(load_checkpoint(), EngineConfig(slots=2, precision="fp32", lm="none"))
    theirs = NemoEngine(nemo, slots=2)
    assert theirs.info.look_aheads == ours.info.look_aheads
    texts = [
        {one.name: one.text for one in transcribe(engine, said, look_ahead)}
        for engine in (ours, theirs)
    ]
    assert texts[0] == texts[1] and len(texts[0]["0"]) > 20
