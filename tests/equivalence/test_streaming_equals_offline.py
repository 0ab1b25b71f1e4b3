"""Streaming is offline: tokens, times and encoder frames of our engine against NeMo's offline path.

fp32, any packets, joins, leaves, forks and moves; models written by NeMo and read by our loader.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asr.engine import Engine, EngineConfig
from asr.features import FeatureStream, FrontEnd
from asr.reference import Offline, offline
from tests.equivalence import models
from tests.equivalence.conftest import Pair
from tests.equivalence.play import Heard, Player, Traffic, Utterance

MOST_DIFFERENCE = 1e-4
SMALL = [models.SMALL, models.SMALL_PROMPTED, models.SMALL_EOU]
LARGE = [models.HYBRID, models.EOU, models.RNNT_600M, models.PROMPTED]
MakePair = Callable[[models.Shape], Pair]


def shapes(listed: list[models.Shape]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shape", listed, ids=lambda shape: shape.name)


def said_by(shape: models.Shape, *, each: int, seconds: float) -> list[Utterance]:
    """``each`` utterances per look-ahead, one of them shorter than any chunk."""
    random, said = np.random.default_rng(len(shape.name)), list[Utterance]()
    languages = list(models.PROMPTS) if shape.is_prompted else [None]
    for look_ahead in shape.look_aheads:
        for number in range(each):
            length = 0.05 if number == 0 else seconds * random.uniform(0.3, 1.0)
            # An odd number of samples ends in the middle of a mel hop.
            samples = models.audio(length + len(said) / 16_000, 10 + len(said))
            said.append(Utterance(samples, look_ahead, languages[len(said) % len(languages)]))
    order = random.permutation(len(said))
    return [said[i] for i in order]


def offline_of(pair: Pair, said: list[Utterance]) -> list[Offline]:
    prompts = pair.checkpoint.spec.prompts
    return [
        offline(
            pair.nemo,
            utterance.samples,
            utterance.look_ahead,
            prompt=prompts[utterance.language] if utterance.language else None,
        )
        for utterance in said
    ]


def assert_equal(heard: list[Heard], truth: list[Offline], *, head: str = "rnnt") -> None:
    assert {one.utterance for one in heard} == set(range(len(truth)))
    for one in heard:
        nemo = truth[one.utterance]
        assert one.frames == len(nemo.encoded)
        assert one.rows.shape == nemo.encoded.shape
        assert float((one.rows - nemo.encoded).abs().max()) <= MOST_DIFFERENCE
        assert [token.id for token in one.tokens] == (nemo.tokens if head == "rnnt" else nemo.ctc)
        frames = nemo.frames if head == "rnnt" else nemo.ctc_frames
        assert [token.frame for token in one.tokens] == frames


def assert_telling(truth: list[Offline]) -> None:
    """The test says something only if tokens of several kinds come, not ten on every frame."""
    tokens = [token for one in truth for token in one.tokens]
    frames = sum(len(one.encoded) for one in truth)
    assert 0.05 < len(tokens) / frames < 8
    assert len(set(tokens)) > 5


def play(pair: Pair, said: list[Utterance], *, slots: int, traffic: Traffic, **how: Any) -> Player:
    engine = Engine(pair.checkpoint, EngineConfig(slots=slots, precision="fp32", **how))
    player = Player(engine, said, traffic)
    player.play()
    assert engine.slots_in_use == 0
    return player


@shapes(SMALL)
def test_any_traffic_gives_the_words_and_times_of_offline(
    pair: MakePair, shape: models.Shape
) -> None:
    both = pair(shape)
    said = said_by(shape, each=4 if len(shape.look_aheads) > 1 else 8, seconds=5)
    truth = offline_of(both, said)
    assert_telling(truth)
    forks = moves = 0
    for seed, slots, packet in [(1, 6, (1, 6000)), (2, 3, (1, 2500)), (3, 16, (8000, 40_000))]:
        player = play(both, said, slots=slots, traffic=Traffic(seed=seed, packet=packet))
        assert max(player.batches) > 1
        assert_equal(player.done, truth)
        forks, moves = forks + player.forks, moves + player.moves
    assert forks > 0 and moves > 0


@pytest.mark.slow
@shapes(LARGE)
def test_published_shapes_give_the_words_and_times_of_offline(
    pair: MakePair, shape: models.Shape
) -> None:
    both = pair(shape)
    said = said_by(shape, each=2 if len(shape.look_aheads) > 1 else 5, seconds=5)
    truth = offline_of(both, said)
    assert_telling(truth)
    player = play(both, said, slots=6, traffic=Traffic(seed=4, packet=(1, 12_000)))
    assert_equal(player.done, truth)


def test_ctc_with_a_carried_label_gives_the_words_and_times_of_offline(pair: MakePair) -> None:
    both = pair(models.SMALL)
    said = said_by(models.SMALL, each=3, seconds=4)
    truth = offline_of(both, said)
    assert sum(len(one.ctc or ()) for one in truth) > 20
    player = play(both, said, slots=6, traffic=Traffic(seed=5), decoder="ctc")
    assert_equal(player.done, truth, head="ctc")


@shapes([models.SMALL, models.SMALL_PROMPTED])
def test_steps_over_fixed_memory_give_the_words_and_times_of_offline(
    pair: MakePair, shape: models.Shape
) -> None:
    """What a GPU records, called without a recorder."""
    both = pair(shape)
    said = said_by(shape, each=2, seconds=4)
    truth = offline_of(both, said)
    traffic = Traffic(seed=8, packet=(1, 9_000))
    player = play(both, said, slots=6, traffic=traffic, graphs=True, parts="plain")
    assert_equal(player.done, truth)
    assert player.forks + player.moves > 0


def test_a_backlog_caught_up_in_one_pass_gives_the_words_of_offline(pair: MakePair) -> None:
    both = pair(models.SMALL)
    said = said_by(models.SMALL, each=2, seconds=6)
    whole = Traffic(seed=6, packet=(200_000, 200_001), fork=0, move=0, stranger=0)
    player = play(both, said, slots=8, traffic=whole)
    assert_equal(player.done, offline_of(both, said))


def test_real_speech_gives_the_words_and_times_of_offline(
    pair: MakePair, speech: list[NDArray[np.float32]]
) -> None:
    both = pair(models.SMALL)
    look_aheads = models.SMALL.look_aheads
    said = [Utterance(one, look_aheads[i % len(look_aheads)]) for i, one in enumerate(speech)]
    player = play(both, said, slots=6, traffic=Traffic(seed=7))
    assert_equal(player.done, offline_of(both, said))


@pytest.mark.parametrize("cut", [1, 159, 160, 161, 777, 5000, 48_000])
def test_features_are_those_of_nemo_to_the_bit(pair: MakePair, cut: int) -> None:
    both = pair(models.SMALL)
    samples = models.audio(2.0, 5) if cut > 1 else models.audio(0.5, 5)
    tensors = both.checkpoint.tensors
    front = FrontEnd(
        tensors["preprocessor.featurizer.window"],
        tensors["preprocessor.featurizer.fb"].squeeze(0),
    )
    stream = FeatureStream(front)
    rows = [stream.push(samples[i : i + cut]) for i in range(0, len(samples), cut)]
    ours = torch.cat([*rows, stream.finish()])
    nemo = offline(both.nemo, samples, 1).features
    assert torch.equal(ours, nemo)
