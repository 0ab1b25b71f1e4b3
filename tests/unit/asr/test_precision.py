"""Which precision runs where, and what company does to it."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asr import precision
from asr.checkpoint import Checkpoint
from asr.encoder.linear import Precision, beside
from asr.encoder.product import LARGEST, way_of
from asr.interface import EngineError, Samples
from tests.unit.asr.test_engine import Bench, Heard

Babble = Callable[[float, int], NDArray[np.float32]]
FRAME = 1_280
"""Samples of a frame of the encoder."""
CHUNK = 2 * FRAME
AMX, ZEN, VNNI, OLD, GPU = range(5)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Precision]:
    def on(machine: int, wanted: str = "auto", **passed: bool) -> Precision:
        monkeypatch.setattr(precision, "has_fast_bf16", lambda: machine in {AMX, ZEN})
        monkeypatch.setattr(precision, "has_tiles", lambda: machine == AMX)
        has_eight = machine in {AMX, ZEN, VNNI}
        monkeypatch.setattr(
            precision, "way_of", lambda name: (has_eight and name == "int8") or None
        )
        monkeypatch.setattr(precision, "_gates", lambda: {"mine": passed})
        device = "cuda:0" if machine == GPU else "cpu"
        return precision.choose_precision(wanted, "mine", device)  # type: ignore[arg-type]

    return on


@pytest.mark.parametrize(
    ("machine", "passed", "chosen"),
    [
        (AMX, ["bf16", "int8"], "bf16"),
        (ZEN, ["bf16", "int8"], "int8"),
        (ZEN, ["bf16"], "bf16"),
        (ZEN, [], "fp32"),
        (VNNI, ["bf16", "int8"], "int8"),
        (VNNI, ["bf16"], "fp32"),
        (OLD, ["bf16", "int8"], "fp32"),
        (GPU, ["bf16", "int8"], "bf16"),
    ],
)
def test_auto_is_the_fastest_here_of_those_that_passed(
    choose: Callable[..., Precision], machine: int, passed: list[str], chosen: str
) -> None:
    assert choose(machine, **dict.fromkeys(passed, True)) == chosen


def test_who_asks_gets_it_or_is_told_what_is_missing(choose: Callable[..., Precision]) -> None:
    assert choose(VNNI, "int8") == "int8"
    assert choose(OLD, "bf16") == "bf16"
    for machine in (OLD, GPU):
        with pytest.raises(EngineError, match=r"AVX512-VNNI and a C\+\+ compiler .*: use auto"):
            choose(machine, "int8")


def spoken(bench: Bench, audio: Sequence[Samples]) -> list[Heard]:
    """Let them speak at the same time."""
    streams = [bench.open() for _ in audio]
    for at in range(0, max(map(len, audio)), CHUNK):
        for stream, samples in zip(streams, audio, strict=True):
            bench.engine.feed(stream, samples[at : at + CHUNK])
        bench.run()
    for stream in streams:
        bench.engine.finish(stream)
        bench.run()
    return [bench.heard[stream] for stream in streams]


@pytest.mark.parametrize("numbers", ["fp32", "bf16", "int8"])
def test_company_changes_no_bit(
    make_checkpoint: Callable[..., Checkpoint], babble: Babble, numbers: Precision
) -> None:
    if way_of(numbers) is None or way_of(beside(numbers)) is None:
        pytest.skip(f"no {numbers} in this processor, or no C++ compiler")
    checkpoint = make_checkpoint(d_model=32, subsampling_channels=32)
    audio = [babble(3.0, 1), 20 * babble(2.6, 2), 0.01 * babble(1.9, 3)]
    together = spoken(Bench(checkpoint, precision=numbers), audio)
    for samples, heard in zip(audio, together, strict=True):
        (alone,) = spoken(Bench(checkpoint, precision=numbers), [samples])
        assert heard.labels == alone.labels
        assert torch.equal(heard.encoded, alone.encoded)


@pytest.mark.parametrize("look_ahead", [0, 1, 6])
@pytest.mark.parametrize("numbers", ["fp32", "bf16", "int8"])
def test_a_pass_of_many_chunks_changes_no_bit(
    make_checkpoint: Callable[..., Checkpoint], babble: Babble, numbers: Precision, look_ahead: int
) -> None:
    """What comes as a file, or is caught up, says the same words as live: no near tie tips."""
    if way_of(numbers) is None or way_of(beside(numbers)) is None:
        pytest.skip(f"no {numbers} in this processor, or no C++ compiler")
    checkpoint = make_checkpoint(d_model=32, subsampling_channels=32)
    audio, live = babble(7.3, 1), Bench(checkpoint, precision=numbers)
    stream = live.open(look_ahead)
    for at in range(0, len(audio), FRAME):
        live.engine.feed(stream, audio[at : at + FRAME])
        live.run()
    live.engine.finish(stream)
    live.run()
    at_once = Bench(checkpoint, precision=numbers).whole(audio, look_ahead)
    assert at_once.labels == live.heard[stream].labels
    assert torch.equal(at_once.encoded, live.heard[stream].encoded)


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize(("before", "behind"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_stream_goes_on_where_the_precision_is_another(
    make_checkpoint: Callable[..., Checkpoint],
    babble: Babble,
    before: Precision,
    behind: Precision,
    decoder: str,
) -> None:
    checkpoint, audio, cut = make_checkpoint(d_model=32), babble(5.0, 2), 41_003
    one, other = (Bench(checkpoint, precision=x, decoder=decoder) for x in (before, behind))
    stream = one.open(6)
    one.engine.feed(stream, audio[:cut])
    one.run()
    record = one.engine.record(stream)
    moved = other.engine.restore(one.engine.snapshot(stream))
    other.engine.install(moved, record)
    other.heard[moved] = one.heard[stream]
    other.engine.feed(moved, audio[cut:])
    other.engine.finish(moved)
    other.run()
    whole = Bench(checkpoint, precision="fp32", decoder=decoder).whole(audio, 6).encoded
    moved_on = other.heard[moved].encoded
    assert moved_on.shape == whole.shape
    away = (moved_on - whole).square().mean().sqrt() / whole.square().mean().sqrt()
    assert away < 0.05


def test_eight_bits_are_near_what_they_stand_for(
    make_checkpoint: Callable[..., Checkpoint], babble: Babble
) -> None:
    if way_of("int8") is None:
        pytest.skip("no AVX512-VNNI in this processor, or no C++ compiler")
    checkpoint = make_checkpoint(d_model=32)
    exact, near = (
        Bench(checkpoint, precision=numbers).whole(babble(3.0, 1)).encoded
        for numbers in ("fp32", "int8")
    )
    away = (near - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0 < away < 10 / LARGEST
