"""What one stream favours is its own, and goes where the stream goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr.checkpoint.spec import Checkpoint
from asr.decoder import fusion
from asr.decoder.counting import estimate
from asr.engine import Engine, EngineConfig
from asr.interface import NO_BIASING, BadBiasing, Biasing, EngineError, Phrase, Samples
from asr.live import ChannelOptions, Recognizer

Babble = Callable[[float, int], Samples]
Maker = Callable[..., Checkpoint]
Labels = list[tuple[int, int]]
FAVOURED = Biasing(phrases=(Phrase("bce", 6.0), Phrase("hgk", 6.0), Phrase("li", 6.0)))
DECODERS: list[dict[str, Any]] = [{"decoder": "rnnt"}, {"decoder": "ctc", "beam": 1}, {"beam": 4}]


@pytest.fixture(params=DECODERS, ids=["rnnt", "ctc", "beam"])
def make_engine(request: pytest.FixtureRequest, make_checkpoint: Maker) -> Callable[..., Engine]:
    def make(**changes: Any) -> Engine:
        config = {"slots": 4, "precision": "fp32"} | request.param | changes
        return Engine(make_checkpoint(), EngineConfig(**config))

    return make


def run(engine: Engine, said: dict[int, Labels]) -> None:
    while engine.is_ready():
        for emission in engine.step():
            said.setdefault(emission.stream, []).extend((t.id, t.frame) for t in emission.tokens)


def whole(engine: Engine, audio: Samples, biasing: Biasing = NO_BIASING) -> Labels:
    stream, said = engine.open(1, biasing=biasing), dict[int, Labels]()
    engine.feed(stream, audio)
    engine.finish(stream)
    run(engine, said)
    return said[stream]


def test_a_boosted_stream_changes_and_its_neighbours_do_not(
    make_engine: Callable[..., Engine], babble: Babble
) -> None:
    audio, engine = babble(3.0, 1), make_engine()
    plain, favoured = whole(make_engine(), audio), whole(make_engine(), audio, FAVOURED)
    assert plain != favoured
    streams, said = [engine.open(1), engine.open(1, biasing=FAVOURED)], dict[int, Labels]()
    for at in range(0, len(audio), 3_700):
        for stream in streams:
            engine.feed(stream, audio[at : at + 3_700])
        run(engine, said)
    for stream in streams:
        engine.finish(stream)
    run(engine, said)
    assert [said[stream] for stream in streams] == [plain, favoured]
    assert whole(engine, audio) == plain  # a slot forgets what was favoured in it


def test_phrases_come_and_go_while_streaming(
    make_engine: Callable[..., Engine], babble: Babble
) -> None:
    audio, cut, engine = babble(4.0, 2), 32_000, make_engine()
    plain = whole(make_engine(), audio)
    streams, said = [engine.open(1) for _ in range(2)], dict[int, Labels]()
    for stream in streams:
        engine.feed(stream, audio[:cut])
    run(engine, said)
    engine.bias(streams[0], FAVOURED)
    engine.bias(streams[1], FAVOURED)
    engine.bias(streams[1], NO_BIASING)
    for stream in streams:
        engine.feed(stream, audio[cut:])
        engine.finish(stream)
    run(engine, said)
    assert said[streams[0]] != plain
    assert said[streams[1]] == plain


def test_forks_and_snapshots_go_on_as_the_stream_does(
    make_engine: Callable[..., Engine], babble: Babble
) -> None:
    audio, cut, engine, said = babble(4.0, 3), 30_000, make_engine(), dict[int, Labels]()
    stream = engine.open(1, biasing=FAVOURED)
    engine.feed(stream, audio[:cut])
    run(engine, said)
    before = said[stream][:]
    fork, moved = engine.fork(stream), make_engine()
    restored = moved.restore(engine.snapshot(stream))
    for host, other in ((engine, stream), (engine, fork), (moved, restored)):
        said[other] = before[:] if host is engine else said.get(other, [])
        host.feed(other, audio[cut:])
        host.finish(other)
    elsewhere: dict[int, Labels] = {restored: before[:]}
    run(engine, said)
    run(moved, elsewhere)
    assert said[stream] == said[fork] == elsewhere[restored]
    assert said[stream] == whole(make_engine(), audio, FAVOURED)


def test_a_flushed_fork_says_what_the_end_would_and_its_stream_holds_to_it(
    make_engine: Callable[..., Engine], babble: Babble
) -> None:
    audio, engine = babble(4.0, 3), make_engine()
    for cut in range(20_000, len(audio), 3_100):
        expected, said = whole(make_engine(), audio[:cut], FAVOURED), dict[int, Labels]()
        stream = engine.open(1, biasing=FAVOURED)
        for at in range(0, cut, 1_600):
            engine.feed(stream, audio[at : min(cut, at + 1_600)])
            run(engine, said)
        before = said[stream][:]
        fork = engine.fork(stream)
        engine.finish(fork)
        engine.feed(stream, audio[cut:])  # it does not pass the fork by
        run(engine, said)
        assert before + said[fork] == expected
        engine.drop(stream)


def test_a_record_goes_on_with_the_phrases_of_the_reopened_stream(
    make_engine: Callable[..., Engine], babble: Babble
) -> None:
    audio, cut, engine, said = babble(4.0, 3), 30_000, make_engine(), dict[int, Labels]()
    stream = engine.open(1, biasing=FAVOURED)
    engine.feed(stream, audio[:cut])
    run(engine, said)
    again, elsewhere = make_engine(), dict[int, Labels]()
    reopened = again.open(1, biasing=FAVOURED)
    again.install(reopened, engine.record(stream))
    again.feed(reopened, audio)
    again.finish(reopened)
    run(again, elsewhere)
    assert said[stream] + elsewhere[reopened] == whole(make_engine(), audio, FAVOURED)


def test_a_language_model_moves_words_and_a_stream_may_do_without(
    make_engine: Callable[..., Engine], make_checkpoint: Maker, babble: Babble, tmp_path: Path
) -> None:
    path, pieces = tmp_path / "lm.safetensors", make_checkpoint().tokenizer.pieces
    text = [[1, 2, 5, 4, 3], [7, 6, 8], [1, 4, 4, 9]] * 5
    estimate(text, len(pieces), order=3).save(path, pieces, "babble")
    audio = babble(3.0, 5)
    plain = whole(make_engine(), audio)
    with_lm = whole(make_engine(lm=str(path), lm_weight=1.0), audio)
    assert with_lm != plain
    engine, said = make_engine(lm=str(path), lm_weight=1.0), dict[int, Labels]()
    stream = engine.open(1)
    for at in range(0, len(audio), 2_900):
        engine.feed(stream, audio[at : at + 2_900])
        run(engine, said)
    blob = engine.snapshot(stream)
    engine.finish(stream)
    run(engine, said)
    assert said[stream] == with_lm
    moved, elsewhere = make_engine(lm=str(path), lm_weight=1.0), dict[int, Labels]()
    restored = moved.restore(blob)
    moved.finish(restored)
    run(moved, elsewhere)
    assert with_lm[len(with_lm) - len(elsewhere[restored]) :] == elsewhere[restored]
    without = make_engine(lm=str(path), lm_weight=1.0)
    assert whole(without, audio, Biasing(lm_weight=0.0)) == plain


def test_what_cannot_be_favoured_is_refused_and_nothing_changes(make_checkpoint: Maker) -> None:
    engine = Engine(make_checkpoint(), EngineConfig(slots=2, precision="fp32"))
    with pytest.raises(BadBiasing, match="phrase 1 cannot be written"):
        engine.open(1, biasing=Biasing(phrases=(Phrase("bc"), Phrase("b7"))))
    assert engine.slots_in_use == 0
    for phrases in ((Phrase(""),), (Phrase("b" * 65),), (Phrase("b"),) * 1_001):
        with pytest.raises(BadBiasing):
            Biasing(phrases=phrases)
    with pytest.raises(BadBiasing, match="weight"):
        Biasing(phrases=(Phrase("b", 11.0),))
    with pytest.raises(EngineError, match="CTC head"):
        Engine(make_checkpoint(has_ctc=False), EngineConfig(beam=4))


def test_a_channel_hands_its_phrases_to_the_engine(
    make_checkpoint: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(make_checkpoint(), EngineConfig(slots=2, precision="fp32"))
    given, bias = list[tuple[int, Biasing]](), engine.bias

    def noted(stream: int, biasing: Biasing) -> None:
        given.append((stream, biasing))
        bias(stream, biasing)

    monkeypatch.setattr(engine, "bias", noted)
    recognizer = Recognizer(engine)
    channel = recognizer.open(ChannelOptions(look_ahead=1, biasing=FAVOURED))
    recognizer.feed(channel, np.zeros(1_600, np.float32))
    recognizer.configure(channel, partials="none")
    assert given == []
    recognizer.configure(channel, biasing=NO_BIASING)
    assert given == [(0, NO_BIASING)]
    with pytest.raises(BadBiasing):
        recognizer.configure(channel, biasing=Biasing(phrases=(Phrase("7"),)))


def test_phrases_are_compiled_in_small_steps_and_a_fork_needs_no_compiling(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "KEPT_AUTOMATA", 1)
    engine = make_engine()
    assert len(list(engine.prepare(FAVOURED))) > len(FAVOURED.phrases)
    compiled = list[Biasing]()
    monkeypatch.setattr(fusion, "spellings", compiled.append)  # finds nothing
    first = engine.open(1, biasing=FAVOURED)
    monkeypatch.undo()
    monkeypatch.setattr(fusion, "KEPT_AUTOMATA", 1)
    engine.open(1, biasing=Biasing(phrases=(Phrase("li", 2.0),)))
    monkeypatch.setattr(fusion, "spellings", compiled.append)
    engine.fork(first)
    assert not compiled
