"""One stream gives the same frames and tokens however it is cut, batched, moved or copied."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.checkpoint.spec import Checkpoint
from asr.encoder.batch import StepInput
from asr.encoder.pool import SlotPool
from asr.engine import Engine, EngineConfig
from asr.interface import (
    BadSnapshot,
    EngineError,
    NoFreeSlot,
    Samples,
    Token,
    UnknownStream,
    UnsupportedLookAhead,
)

Babble = Callable[[float, int], Samples]
Maker = Callable[..., Checkpoint]
TOLERANCE = 1e-4


@dataclass
class Heard:
    """What an engine said of one stream."""

    tokens: list[Token] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)
    is_finished: bool = False

    @property
    def labels(self) -> list[tuple[int, int]]:
        return [(token.id, token.frame) for token in self.tokens]

    @property
    def encoded(self) -> Tensor:
        return torch.cat(self.frames) if self.frames else torch.zeros(0, 16)


class Bench:
    """An engine and all that its streams said."""

    def __init__(self, checkpoint: Checkpoint, **config: object) -> None:
        settings_ = {"slots": 4, "precision": "fp32"} | config
        self.engine = Engine(checkpoint, EngineConfig(**settings_))  # type: ignore[arg-type]
        self.heard: dict[int, Heard] = {}
        self.engine.trace = lambda stream, x: self.heard[stream].frames.append(x.clone())

    def open(self, look_ahead: int = 1, **options: Any) -> int:
        stream = self.engine.open(look_ahead, **options)
        self.heard[stream] = Heard()
        return stream

    def run(self) -> None:
        while self.engine.is_ready():
            for emission in self.engine.step():
                heard = self.heard[emission.stream]
                heard.tokens += emission.tokens
                heard.is_finished |= emission.finished

    def whole(self, samples: Samples, look_ahead: int = 1) -> Heard:
        stream = self.open(look_ahead)
        self.engine.feed(stream, samples)
        self.engine.finish(stream)
        self.run()
        return self.heard[stream]


def assert_same(one: Heard, other: Heard) -> None:
    assert one.labels == other.labels
    assert one.encoded.shape == other.encoded.shape
    torch.testing.assert_close(one.encoded, other.encoded, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize("look_ahead", [0, 1, 6])
def test_words_do_not_depend_on_packets_or_company(
    make_checkpoint: Maker, babble: Babble, decoder: str, look_ahead: int
) -> None:
    audio = [babble(seconds, i) for i, seconds in enumerate((2.3, 0.05, 4.0, 1.001, 3.2))]
    alone = [Bench(make_checkpoint(), decoder=decoder).whole(a, look_ahead) for a in audio]
    assert sum(len(h.tokens) for h in alone) > 20
    bench, random = Bench(make_checkpoint(), decoder=decoder), np.random.default_rng(3)
    waiting, live, done = list(range(len(audio))), dict[int, list[int]](), dict[int, Heard]()
    while waiting or live:
        if waiting and bench.engine.slots_in_use < 4 and random.random() < 0.4:
            live[bench.open(look_ahead)] = [waiting.pop(0), 0]
        for stream, (job, at) in list(live.items()):
            packet = int(random.integers(1, 9000))
            bench.engine.feed(stream, audio[job][at : at + packet])
            live[stream][1] = at + packet
            if at + packet >= len(audio[job]):
                bench.engine.finish(stream)
                done[job] = bench.heard[stream]
                del live[stream]
        if random.random() < 0.5:
            bench.run()
        while bench.engine.slots_in_use > len(live):
            bench.run()
    bench.run()
    for job, heard in done.items():
        assert_same(heard, alone[job])


@pytest.mark.parametrize("graphs", [False, True])
def test_a_decoder_placed_by_name_says_the_same_and_has_weights_of_its_own(
    make_checkpoint: Maker, babble: Babble, *, graphs: bool
) -> None:
    audio = babble(2.0, 2)
    placed = Bench(make_checkpoint(), decoder_device="cpu", graphs=graphs)
    assert_same(placed.whole(audio), Bench(make_checkpoint()).whole(audio))
    assert placed.engine._decoding.device == torch.device("cpu")
    weights = placed.engine._decoder_tensors({"encoder.x": Tensor(), "joint.x": torch.ones(1)})
    assert list(weights) == ["joint.x"]
    with pytest.raises(RuntimeError, match="device"):
        Bench(make_checkpoint(), decoder_device="moon")


def test_frames_are_handed_to_the_decoder_where_it_is(
    make_checkpoint: Maker, babble: Babble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a second device the move itself is watched: all that crosses, and where to."""
    for graphs in (False, True):
        bench, audio, moved = Bench(make_checkpoint(), graphs=graphs), babble(1.0, 2), list[Any]()
        decoding, move = bench.engine._decoding, Tensor.to
        decoding.device = torch.device("meta")  # so that it is far for both runners

        def watched(self: Tensor, *to: Any, move: Any = move, moved: list[Any] = moved) -> Tensor:
            if to == (torch.device("meta"),):
                moved.append(self.shape)
                return self
            return move(self, *to)

        monkeypatch.setattr(Tensor, "to", watched)
        stream = bench.open(1)
        bench.engine.feed(stream, audio[:4_000])
        bench.run()
        monkeypatch.undo()
        assert len(moved) == 4 and moved[0][2] == 16 and moved[1:] == [moved[0][:1]] * 3


def test_a_fork_says_what_the_end_would_say_and_leaves_the_stream_alone(
    make_checkpoint: Maker, babble: Babble
) -> None:
    audio, cut = babble(4.0, 1), 29_000
    bench = Bench(make_checkpoint())
    stream = bench.open()
    bench.engine.feed(stream, audio[:cut])
    bench.run()
    fork = bench.engine.fork(stream)
    before = bench.heard[stream]
    bench.heard[fork] = Heard(list(before.tokens), list(before.frames))
    bench.engine.finish(fork)
    bench.engine.feed(stream, audio[cut:])
    bench.engine.finish(stream)
    bench.run()
    assert_same(bench.heard[fork], Bench(make_checkpoint()).whole(audio[:cut]))
    assert_same(bench.heard[stream], Bench(make_checkpoint()).whole(audio))
    assert bench.engine.slots_in_use == 0


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_a_snapshot_goes_on_in_another_engine(
    make_checkpoint: Maker, babble: Babble, decoder: str
) -> None:
    audio, cut = babble(5.0, 2), 41_003
    one, other = (Bench(make_checkpoint(), decoder=decoder) for _ in range(2))
    other.open()  # so that the stream lands in another slot
    stream = one.open(6)
    one.engine.feed(stream, audio[:cut])
    one.run()
    moved = other.engine.restore(one.engine.snapshot(stream))
    assert moved != stream
    other.heard[moved] = one.heard[stream]
    other.engine.feed(moved, audio[cut:])
    other.engine.finish(moved)
    other.run()
    whole = Bench(make_checkpoint(), decoder=decoder).whole(audio, 6)
    assert_same(other.heard[moved], whole)


def test_a_damaged_or_foreign_snapshot_is_refused(make_checkpoint: Maker, babble: Babble) -> None:
    bench = Bench(make_checkpoint())
    stream = bench.open()
    bench.engine.feed(stream, babble(1.0, 0))
    blob = bench.engine.snapshot(stream)
    foreign = Bench(make_checkpoint(), decoder="ctc").engine
    for engine, bad in (
        (bench.engine, blob[:-1]),
        (bench.engine, b"RVS0" + blob[4:]),
        (bench.engine, blob[:100] + b"\x00" + blob[101:]),
        (bench.engine, b""),
        (foreign, blob),
    ):
        used = engine.slots_in_use
        with pytest.raises(BadSnapshot):
            engine.restore(bad)
        assert engine.slots_in_use == used


@pytest.mark.parametrize("way", [None, object()])
def test_batches_are_padded_only_where_products_want_few_shapes(
    make_checkpoint: Maker, babble: Babble, monkeypatch: pytest.MonkeyPatch, way: object
) -> None:
    monkeypatch.setattr("asr.engine.way_of", lambda _: way)
    sizes, bench, audio = set[int](), Bench(make_checkpoint()), [babble(1.5, i) for i in range(3)]
    encode = bench.engine._encoder.step

    def encoded(pool: SlotPool, step: StepInput) -> Tensor:
        sizes.add(len(step.slots_B))
        return encode(pool, step)

    monkeypatch.setattr(bench.engine._encoder, "step", encoded)
    streams = [bench.open() for _ in audio]
    for stream, samples in zip(streams, audio, strict=True):
        bench.engine.feed(stream, samples)
        bench.engine.finish(stream)
    bench.run()
    assert max(sizes) == (4 if way is None else 3)
    for stream, samples in zip(streams, audio, strict=True):
        assert_same(bench.heard[stream], Bench(make_checkpoint()).whole(samples))


def test_a_reused_slot_remembers_nothing(make_checkpoint: Maker, babble: Babble) -> None:
    bench = Bench(make_checkpoint(), slots=1)
    bench.whole(babble(3.0, 7))
    assert_same(bench.whole(babble(2.0, 8)), Bench(make_checkpoint()).whole(babble(2.0, 8)))


def test_warming_up_leaves_streams_untouched(make_checkpoint: Maker, babble: Babble) -> None:
    bench, audio = Bench(make_checkpoint()), babble(3.0, 4)
    stream = bench.open()
    bench.engine.feed(stream, audio[:20_000])
    bench.run()
    bench.engine.warm(1)
    bench.engine.feed(stream, audio[20_000:])
    bench.engine.finish(stream)
    bench.run()
    assert_same(bench.heard[stream], Bench(make_checkpoint()).whole(audio))


def test_prompts_of_different_languages_share_a_batch(
    make_checkpoint: Maker, babble: Babble
) -> None:
    checkpoint = make_checkpoint(num_prompts=4, prompts={"en-US": 0, "de-DE": 2})
    alone = {}
    for language in ("en-US", "de-DE"):
        bench = Bench(checkpoint)
        stream = bench.open(language=language)
        bench.engine.feed(stream, babble(2.0, 1))
        bench.run()
        alone[language] = bench.heard[stream]
    assert alone["en-US"].labels != alone["de-DE"].labels
    together = Bench(checkpoint)
    streams = {language: together.open(language=language) for language in alone}
    for stream in streams.values():
        together.engine.feed(stream, babble(2.0, 1))
    together.run()
    for language, stream in streams.items():
        assert_same(together.heard[stream], alone[language])
    with pytest.raises(EngineError, match="language"):
        together.engine.open(1, language="xx")


def test_silly_numbers_hurt_nobody_else(make_checkpoint: Maker, babble: Babble) -> None:
    bench, audio = Bench(make_checkpoint()), babble(2.0, 3)
    good, bad = bench.open(), bench.open()
    bench.engine.feed(bad, np.full(20_000, 3e38, np.float32))
    bench.engine.feed(good, audio)
    for value in (np.nan, np.inf):
        with pytest.raises(EngineError, match="finite"):
            bench.engine.feed(bad, np.full(10, value, np.float32))
    bench.run()
    bench.engine.drop(bad)
    bench.engine.finish(good)
    bench.run()
    assert_same(bench.heard[good], Bench(make_checkpoint()).whole(audio))
    assert_same(bench.whole(audio), Bench(make_checkpoint()).whole(audio))


def test_an_empty_stream_finishes_without_a_word(make_checkpoint: Maker) -> None:
    heard = Bench(make_checkpoint()).whole(np.zeros(0, np.float32))
    assert heard.is_finished
    assert heard.tokens == []


def test_refusals_name_what_is_wrong(make_checkpoint: Maker) -> None:
    bench = Bench(make_checkpoint(), slots=1)
    with pytest.raises(UnsupportedLookAhead, match="6, 1, 0"):
        bench.engine.open(5)
    stream = bench.open()
    with pytest.raises(NoFreeSlot):
        bench.engine.fork(stream)
    bench.engine.finish(stream)
    with pytest.raises(EngineError, match="finished"):
        bench.engine.feed(stream, np.zeros(10, np.float32))
    bench.engine.drop(stream)
    bench.engine.drop(stream)
    with pytest.raises(UnknownStream):
        bench.engine.finish(stream)
    with pytest.raises(EngineError, match="CTC"):
        Engine(make_checkpoint(has_ctc=False), EngineConfig(decoder="ctc"))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_no_order_of_calls_leaks_a_slot(make_checkpoint: Maker, data: st.DataObject) -> None:
    bench = Bench(make_checkpoint())
    streams: list[int] = []
    for _ in range(data.draw(st.integers(1, 25))):
        verb = data.draw(st.sampled_from(["open", "feed", "finish", "drop", "fork", "step"]))
        if verb == "open" and bench.engine.slots_in_use < 4:
            streams.append(bench.open(data.draw(st.sampled_from([0, 1, 6]))))
        elif verb == "step":
            for emission in bench.engine.step():
                if emission.finished:
                    streams.remove(emission.stream)
        elif streams and verb != "open":
            _poke(bench, streams, verb, data)
        assert bench.engine.is_ready() == _has_work(bench.engine)
    for stream in streams:
        bench.engine.drop(stream)
    assert bench.engine.slots_in_use == 0
    assert not bench.engine.is_ready()


def _has_work(engine: Engine) -> bool:
    """Whether a stream has something to do, by asking each."""
    streams = engine._streams
    waiting = {stream.source for stream in streams.values() if stream.is_finishing}
    going = [stream for slot, stream in streams.items() if slot not in waiting]
    return any(stream.chunks_ready() or stream.is_done() for stream in going)


def _poke(bench: Bench, streams: list[int], verb: str, data: st.DataObject) -> None:
    stream = data.draw(st.sampled_from(streams))
    try:
        if verb == "feed":
            bench.engine.feed(stream, np.zeros(data.draw(st.integers(0, 9000)), np.float32))
        elif verb == "finish":
            bench.engine.finish(stream)
        elif verb == "fork":
            streams.append(bench.engine.fork(stream))
            bench.heard[streams[-1]] = Heard()
        else:
            bench.engine.drop(stream)
            streams.remove(stream)
    except (NoFreeSlot, EngineError):
        pass
