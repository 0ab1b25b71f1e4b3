"""The nemo backend streams to NeMo's own offline words, at every look-ahead, 0 included."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr.checkpoint import UnreadableCheckpoint, UnsupportedModel, load_checkpoint
from asr.checkpoint.archive import read_nemo
from asr.interface import Emission, EngineError
from asr.reference import NemoEngine, offline, open_nemo_model, pieces_of
from tests.equivalence import models
from tests.equivalence.conftest import Pair
from tests.equivalence.play import Player, Traffic, Utterance

MakePair = Callable[[models.Shape], Pair]


@pytest.mark.parametrize("shape", [models.SMALL, models.SMALL_PROMPTED], ids=lambda one: one.name)
def test_any_packets_and_forks_give_the_words_and_times_of_offline(
    pair: MakePair, shape: models.Shape
) -> None:
    both = pair(shape)
    prompts = both.checkpoint.spec.prompts
    languages: list[str | None] = list(prompts) or [None]
    said = [
        Utterance(models.audio(seconds, 70 + i), look_ahead, languages[i % len(languages)])
        for i, (look_ahead, seconds) in enumerate(
            (look_ahead, seconds) for look_ahead in shape.look_aheads for seconds in (0.05, 0.2, 3)
        )
    ]
    heard = Player(NemoEngine(both.nemo, slots=4), said, Traffic(seed=3, move=0, fork=0.1))
    heard.play()
    assert heard.forks > 0
    tokens = 0
    for one in heard.done:
        utterance = said[one.utterance]
        prompt = prompts[utterance.language] if utterance.language else None
        truth = offline(both.nemo, utterance.samples, utterance.look_ahead, prompt=prompt)
        assert one.frames == len(truth.encoded)
        assert [token.id for token in one.tokens] == truth.tokens
        assert [token.frame for token in one.tokens] == truth.frames
        tokens += len(one.tokens)
    assert tokens > 20


def test_a_model_that_asks_for_another_search_is_decoded_greedily(pair: MakePair) -> None:
    both = pair(models.SMALL)
    said = [Utterance(models.audio(3, 81), 1)]
    truth = offline(both.nemo, said[0].samples, 1)
    both.nemo.change_decoding_strategy({"strategy": "greedy", "greedy": {"max_symbols": 10}})
    heard = Player(NemoEngine(both.nemo, slots=2), said, Traffic(seed=4, move=0)).play()
    assert truth.tokens and all([t.id for t in one.tokens] == truth.tokens for one in heard)


def test_a_stream_that_heard_nothing_ends_without_frames(pair: MakePair) -> None:
    engine = NemoEngine(pair(models.SMALL).nemo, slots=1)
    stream = engine.open(0)
    with pytest.raises(EngineError, match="finite"):
        engine.feed(stream, np.full(10, np.nan, np.float32))
    engine.finish(stream)
    assert engine.step() == [Emission(stream, 0, (), finished=True)]
    assert engine.slots_in_use == 0


@pytest.fixture
def folder(pair: MakePair, tmp_path: Path) -> Path:
    """The small model in the form of an embedded one."""
    both = pair(models.SMALL)
    config = yaml.safe_load(read_nemo(both.path).config)
    config["tokenizer"] = {"type": "bpe", "model_path": "nemo:tokenizer.model"}
    (tmp_path / "model_config.yaml").write_text(json.dumps(config))
    (tmp_path / "tokenizer.model").write_bytes(both.checkpoint.tokenizer.model_proto)
    save_file(dict(both.checkpoint.tensors), tmp_path / "model.safetensors")
    return tmp_path


def test_a_folder_opens_with_all_its_weights_and_leaves_no_file(
    pair: MakePair, folder: Path
) -> None:
    files = sorted(folder.iterdir())
    opened, saved = open_nemo_model(folder).state_dict(), pair(models.SMALL).nemo.state_dict()
    assert opened.keys() == saved.keys()
    assert all(torch.equal(opened[name], saved[name]) for name in saved)
    assert load_checkpoint(folder).tokenizer.pieces == pieces_of(open_nemo_model(folder))
    assert sorted(folder.iterdir()) == files


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: weights.pop("joint.enc.bias"), "lack joint.enc.bias"),
        (lambda weights: weights.update(more=torch.zeros(1)), "unknown more"),
        (lambda weights: weights.update({"joint.enc.bias": torch.zeros(3)}), "shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, Tensor]], object], reason: str
) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UnreadableCheckpoint, match=reason):
        open_nemo_model(folder)


def test_a_transformers_folder_is_refused_in_one_sentence(folder: Path) -> None:
    (folder / "model_config.yaml").rename(folder / "config.json")
    with pytest.raises(UnsupportedModel, match="neither a"):
        open_nemo_model(folder)
