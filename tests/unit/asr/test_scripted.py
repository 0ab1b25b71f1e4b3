"""The engine without a model keeps the promises of a real one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.interface import (
    BadSnapshot,
    Emission,
    EngineError,
    NoFreeSlot,
    Token,
    UnknownStream,
    UnsupportedLookAhead,
)
from asr.scripted import PIECES, ScriptedEngine, frames_of, silence, tokens_of, utter

TEXT = "turn on the kitchen light please"


def run(engine: ScriptedEngine) -> list[Emission]:
    emissions = []
    while engine.is_ready():
        emissions += engine.step()
    return emissions


def tokens(emissions: list[Emission], stream: int) -> list[Token]:
    return [token for e in emissions if e.stream == stream for token in e.tokens]


@pytest.mark.parametrize("look_ahead", [0, 1, 6, 13])
def test_a_chunk_is_ready_at_the_sample_a_real_engine_needs(look_ahead: int) -> None:
    engine = ScriptedEngine()
    stream = engine.open(look_ahead)
    engine.feed(stream, silence(5000)[: 1280 * look_ahead + 199])
    assert not engine.is_ready()
    assert engine.step() == []
    engine.feed(stream, np.zeros(1, np.float32))
    assert engine.step() == [Emission(stream, look_ahead + 1, ())]


@pytest.mark.parametrize("look_ahead", [0, 1, 6])
@pytest.mark.parametrize("heard", [0, 199, 200, 20_000])
def test_what_it_lacks_makes_a_chunk(look_ahead: int, heard: int) -> None:
    engine = ScriptedEngine()
    stream = engine.open(look_ahead)
    engine.feed(stream, silence(5000)[:heard])
    lacks = engine.lacks(stream)
    run(engine)
    assert engine.lacks(stream) == lacks  # whether the chunks before have run or not
    engine.feed(stream, np.zeros(lacks - 1, np.float32))
    assert not engine.is_ready()
    engine.feed(stream, np.zeros(1, np.float32))
    assert engine.is_ready()


@settings(deadline=None, max_examples=50)
@given(
    look_ahead=st.sampled_from((0, 1, 6, 13)),
    cuts=st.lists(st.integers(0, 15_000), max_size=10),
    delay=st.integers(0, 3),
)
def test_tokens_depend_on_the_audio_only(look_ahead: int, cuts: list[int], delay: int) -> None:
    engine = ScriptedEngine(delay_frames=delay)
    stream, emissions = engine.open(look_ahead), list[Emission]()
    audio = utter(TEXT)
    for piece in np.split(audio, sorted(cuts)):
        engine.feed(stream, piece)
        emissions += run(engine)
    engine.finish(stream)
    emissions += run(engine)
    assert [token.id for token in tokens(emissions, stream)] == tokens_of(TEXT)
    assert [e.finished for e in emissions] == [False] * (len(emissions) - 1) + [True]
    assert emissions[-1].frames == frames_of(len(audio))
    assert engine.slots_in_use == 0


def test_a_fork_and_a_restored_snapshot_go_on_like_the_stream_they_came_from() -> None:
    engine = ScriptedEngine(delay_frames=2)
    stream = engine.open(1)
    audio = utter(TEXT)
    engine.feed(stream, audio[:5000])
    before = tokens(run(engine), stream)
    others = [engine.fork(stream), engine.restore(engine.snapshot(stream))]
    for each in (stream, *others):
        engine.feed(each, audio[5000:])
        engine.finish(each)
    emissions = run(engine)
    for each in (stream, *others):
        assert [t.id for t in before + tokens(emissions, each)] == tokens_of(TEXT)


def test_real_sound_is_mostly_silence() -> None:
    engine = ScriptedEngine()
    stream = engine.open(0)
    engine.feed(stream, np.random.default_rng(0).standard_normal(32_000, dtype=np.float32) * 0.1)
    assert tokens(run(engine), stream) == []


def test_misuse_is_refused_by_name() -> None:
    engine = ScriptedEngine(slots=1)
    stream = engine.open(1)
    with pytest.raises(NoFreeSlot):
        engine.fork(stream)
    with pytest.raises(BadSnapshot):
        engine.restore(engine.snapshot(stream)[:-1] + b"x")
    engine.finish(stream)
    with pytest.raises(EngineError, match="finish"):
        engine.feed(stream, silence(10))
    engine.drop(stream)
    with pytest.raises(UnknownStream):
        engine.finish(stream)
    with pytest.raises(UnsupportedLookAhead):
        engine.open(5)
    with pytest.raises(ValueError, match="vocabulary"):
        tokens_of("xylophone")
    assert engine.info.turn_tokens == {PIECES.index("<EOU>"), PIECES.index("<EOB>")}
