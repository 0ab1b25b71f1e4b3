"""Steps over fixed memory: a replay of what was recorded says what step by step is said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from asr import precision
from asr.checkpoint.spec import Checkpoint
from asr.decoder.fixed import Rows, Said
from asr.engine import Engine, EngineConfig
from asr.graphs import Arena, CudaRecorder, Layout, recorder
from asr.interface import Biasing, Phrase, Samples
from asr.runner import GraphRunner
from tests.unit.asr import tape
from tests.unit.asr.test_engine import Bench, Heard, assert_same

Babble = Callable[[float, int], Samples]
Maker = Callable[..., Checkpoint]
CPU = torch.device("cpu")


class Player:
    """A bench whose engine records with a tape, fed in packets so that no chunk waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint, **config: object):
        monkeypatch.setattr("asr.engine.recorder", lambda _: tape.record)
        self.bench = Bench(checkpoint, graphs=True, parts="plain", **config)
        self.engine = self.bench.engine

    def play(self, said: list[tuple[Samples, int]], packet: int = 1_280) -> list[Heard]:
        streams = [self.bench.open(look_ahead) for _, look_ahead in said]
        heard = [self.bench.heard[stream] for stream in streams]
        for at in range(0, max(len(samples) for samples, _ in said) + packet, packet):
            for stream, one, (samples, _) in zip(streams, heard, said, strict=True):
                if at < len(samples):
                    self.engine.feed(stream, samples[at : at + packet])
                elif at < len(samples) + packet and not one.is_finished:
                    self.engine.finish(stream)
            self.bench.run()
        return heard


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Player]:
    """What is recorded are torch's operations, as on a GPU: products of our own are none."""
    monkeypatch.setattr("asr.encoder.linear.can_pack", lambda *_: False)
    return lambda checkpoint, **config: Player(monkeypatch, checkpoint, **config)


def recorded(engine: Engine) -> GraphRunner:
    assert isinstance(engine._runner, GraphRunner)
    return engine._runner


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_replayed_steps_say_what_unrecorded_ones_say(
    make_checkpoint: Maker, babble: Babble, player: Callable[..., Player], decoder: str
) -> None:
    lengths = [(1.7, 6), (0.05, 6), (1.2, 6), (1.3, 1)]
    said = [(babble(seconds, i), look_ahead) for i, (seconds, look_ahead) in enumerate(lengths)]
    playing = player(make_checkpoint(), decoder=decoder)
    for look_ahead in (1, 6):
        playing.engine.warm(look_ahead)
    heard = playing.play(said)
    shapes = set(recorded(playing.engine)._passes)
    assert {(6, 7, 4), (6, 7, 2), (1, 2, 1)} <= shapes  # and with padded rows
    alone = Bench(make_checkpoint(), decoder=decoder)
    for one, (samples, look_ahead) in zip(heard, said, strict=True):
        assert_same(one, alone.whole(samples, look_ahead))
    assert sum(len(one.tokens) for one in heard) > 10


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_fixed_memory_without_a_recorder_says_the_same_words_in_any_traffic(
    make_checkpoint: Maker, babble: Babble, decoder: str
) -> None:
    audio, cut = babble(4.0, 2), 31_003
    plain = Bench(make_checkpoint(), decoder=decoder)
    fixed, other = (Bench(make_checkpoint(), decoder=decoder, graphs=True) for _ in range(2))
    assert_same(fixed.whole(audio, 6), plain.whole(audio, 6))  # several chunks in a pass
    stream = fixed.open(1)
    fixed.engine.feed(stream, audio[:cut])
    fixed.run()
    fork = fixed.engine.fork(stream)
    fixed.heard[fork] = Heard(list(fixed.heard[stream].tokens), list(fixed.heard[stream].frames))
    fixed.engine.feed(stream, audio[cut : cut + 1_000])  # rows that wait and move with the stream
    moved = other.engine.restore(fixed.engine.snapshot(stream))
    other.heard[moved] = fixed.heard[stream]
    other.engine.feed(moved, audio[cut + 1_000 :])
    other.engine.finish(moved)
    other.run()
    assert_same(other.heard[moved], plain.whole(audio))
    fixed.engine.drop(stream)
    fixed.engine.finish(fork)
    fixed.run()
    assert_same(fixed.heard[fork], plain.whole(audio[:cut]))


def test_prompts_reach_the_recorded_step(
    make_checkpoint: Maker, babble: Babble, player: Callable[..., Player]
) -> None:
    checkpoint = make_checkpoint(num_prompts=4, prompts={"en-US": 0, "de-DE": 2})
    playing, plain = player(checkpoint, slots=2), Bench(checkpoint, slots=2)
    playing.engine.warm(1)
    audio = babble(2.0, 1)
    for bench in (playing.bench, plain):
        for language in ("en-US", "de-DE"):
            bench.open(language=language)
        for at in range(0, len(audio), 2_560):
            for stream in list(bench.heard):
                bench.engine.feed(stream, audio[at : at + 2_560])
            bench.run()
    assert playing.bench.heard[0].labels != playing.bench.heard[1].labels
    for stream, heard in plain.heard.items():
        assert_same(playing.bench.heard[stream], heard)


def test_a_row_that_says_more_than_almost_any_goes_on(
    make_checkpoint: Maker, babble: Babble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.decoder.rnnt.SPARE_ROUNDS", -6)
    rounds = list[int]()
    fixed, plain = Bench(make_checkpoint(), graphs=True), Bench(make_checkpoint())
    decoder = fixed.engine._decoding.fixed
    assert decoder is not None
    go_on = decoder.go_on

    def counted(prepared: Tensor, rows: Rows, said: Said) -> None:
        go_on(prepared, rows, said)
        rounds.append(int(said.left))

    monkeypatch.setattr(decoder, "go_on", counted)
    audio = babble(3.0, 5)
    assert_same(fixed.whole(audio, 6), plain.whole(audio, 6))
    assert sum(left > 0 for left in rounds) > 3


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_what_runs_and_where_does_not_depend_on_what_is_heard(
    make_checkpoint: Maker, babble: Babble, decoder: str
) -> None:
    bench = Bench(make_checkpoint(), decoder=decoder, graphs=True, parts="plain")
    stories = []
    for samples in (np.zeros(9_160, np.float32), babble(0.6, 3), 9 * babble(0.6, 4)):
        bench.whole(samples[:9_160], 6)
        (found,) = recorded(bench.engine)._passes.values()  # its memory holds what was heard
        with torch.inference_mode(), tape.Tape() as written:
            found._encoded()
            found._begun()
        blocks = [found._into.there["samples"], found._into.there["counts"]]
        stories.append((written.story(), [x.data_ptr() for x in (*blocks, found._said.token_BN)]))
    assert stories[0] == stories[1] == stories[2]
    assert len(stories[0][0]) > 50


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x[x > 0],
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: float(x.sum()),
        lambda x: torch.nonzero(x),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
        lambda x: bool((x > 0).any()),
    ],
    ids=["mask", "write by mask", "item", "nonzero", "host tensor", "truth"],
)
def test_the_tape_refuses_what_a_capture_refuses(act: Callable[[Tensor], object]) -> None:
    with pytest.raises(tape.CannotBeRecorded):
        tape.record(lambda: (act(torch.ones(3)), None)[1])


def test_phrases_are_favoured_behind_a_recorded_encoder(
    make_checkpoint: Maker, babble: Babble, player: Callable[..., Player]
) -> None:
    phrases = tuple(Phrase(phrase, 6.0) for phrase in ("bce", "hgk", "li"))
    biasing, audio, config = (
        Biasing(phrases=phrases),
        babble(3.0, 6),
        {"decoder": "ctc", "slots": 2},
    )
    playing, plain = player(make_checkpoint(), **config), Bench(make_checkpoint(), **config)
    playing.engine.warm(1)
    labels = []
    for bench in (playing.bench, plain):
        for wish in (biasing, Biasing()):
            bench.open(biasing=wish)
        for at in range(0, len(audio), 2_560):
            for stream in list(bench.heard):
                bench.engine.feed(stream, audio[at : at + 2_560])
            bench.run()
        labels.append([heard.labels for heard in bench.heard.values()])
    assert labels[0] == labels[1]
    assert labels[0][0] != labels[0][1]


def test_a_beam_searches_behind_a_recorded_encoder(
    make_checkpoint: Maker, babble: Babble, player: Callable[..., Player]
) -> None:
    checkpoint, audio = make_checkpoint(), babble(2.5, 6)
    playing = player(checkpoint, decoder="ctc", beam=4)
    playing.engine.warm(1)
    heard = playing.play([(audio, 1), (audio[:20_000], 1)])
    alone = Bench(checkpoint, decoder="ctc", beam=4)
    assert_same(heard[0], alone.whole(audio))
    assert_same(heard[1], alone.whole(audio[:20_000]))


def test_an_engine_that_cannot_record_goes_on_and_says_so(
    make_checkpoint: Maker,
    babble: Babble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries, said = list[object](), list[str]()

    def fails(act: Callable[[], None]) -> Callable[[], None]:
        tries.append(act)
        if len(tries) == 2:  # the encoder is recorded, the decoder not
            raise RuntimeError("operation not permitted when stream is capturing")
        return tape.record(act)

    monkeypatch.setattr("asr.engine.recorder", lambda _: fails)
    # not caplog: libraries of other tests configure the loggers of this process
    monkeypatch.setattr("asr.runner._logger.warning", lambda text, *_: said.append(text))
    bench = Bench(make_checkpoint(), graphs=True, parts="plain")
    bench.engine.warm(1)
    assert len(tries) == 2
    assert "not permitted" in recorded(bench.engine).failure
    assert "runs slower" in said[0]
    audio = babble(2.0, 1)
    assert_same(bench.whole(audio), Bench(make_checkpoint()).whole(audio))


def test_blocks_share_memory_and_keep_their_place_when_it_grows() -> None:
    arena = Arena(CPU)
    large: Layout = {"a": (torch.float32, (4, 5)), "b": (torch.int64, (3,))}
    one, other = arena.block(large), arena.block({"a": (torch.float32, (2, 2))})
    assert other.there["a"].data_ptr() == one.there["a"].data_ptr()
    one.here["b"][:] = 7
    one.send()
    assert one.there["b"].tolist() == [7, 7, 7]
    assert one.there["b"].data_ptr() % 64 == one.there["a"].data_ptr() % 64
    larger = arena.block({"a": (torch.float32, (400,))})
    larger.here["a"][:] = 1
    assert one.there["b"].tolist() == [7, 7, 7]


def test_a_gpu_would_be_recorded_and_a_processor_not(make_checkpoint: Maker) -> None:
    assert recorder(CPU) is None
    if torch.cuda.is_available():
        assert isinstance(recorder(torch.device("cuda")), CudaRecorder)
    config = EngineConfig(slots=2, precision="fp32")
    assert not isinstance(Engine(make_checkpoint(), config)._runner, GraphRunner)


def test_a_capture_that_breaks_leaves_the_engine_on_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch's own does: where a capture cannot end, its stream stays the current one."""

    class Streams:
        def wait_stream(self, _: object) -> None: ...

    main, side = Streams(), Streams()
    now = [main]

    @contextmanager
    def stream(other: Streams) -> Iterator[None]:
        before, now[0] = now[0], other
        try:
            yield
        finally:
            now[0] = before

    @contextmanager
    def graph(_: object, **how: object) -> Iterator[None]:
        assert how["capture_error_mode"] == "thread_local" and how["stream"] is side
        now[0] = side
        yield
        raise RuntimeError("operation failed due to a previous error during capture")

    for name, stand_in in {
        "stream": stream, "graph": graph, "Stream": lambda _: side, "CUDAGraph": object,
        "current_stream": lambda: now[0], "device": nullcontext, "graph_pool_handle": object,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    acts = list[object]()
    record = CudaRecorder(torch.device("cuda"))
    with pytest.raises(RuntimeError, match="during capture"):
        record(lambda: acts.append(now[0]))
    assert acts == [side] * 3 and now == [main]


def test_a_gpu_runs_in_16_bits_where_the_model_passed_its_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: False)
    monkeypatch.setattr(precision, "way_of", lambda _: None)
    passed = {"passed": {"bf16": True}, "failed": {"bf16": False}}
    monkeypatch.setattr(precision, "_gates", lambda: passed)
    chosen = {
        (mark, device): precision.choose_precision("auto", mark, device)
        for mark in ("passed", "failed", "unknown")
        for device in ("cpu", "cuda:0")
    }
    assert [pair for pair, numbers in chosen.items() if numbers == "bf16"] == [("passed", "cuda:0")]
