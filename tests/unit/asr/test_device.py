"""The way of a GPU, run without one: the same words, one wait a step, all where it belongs."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asr.checkpoint.spec import Checkpoint
from asr.decoder.base import Heard as Said
from asr.decoder.counting import estimate
from asr.decoder.decoding import Decoding
from asr.decoder.fixed import Rows
from asr.encoder.encoder import Encoder
from asr.engine import Engine, EngineConfig
from asr.graphs import Arena
from asr.interface import NO_BIASING, Biasing, Phrase, Samples
from asr.runner import _decoded
from tests.unit.asr.pretend import DEVICE, Mixed, PretendGpu, pretend_gpu
from tests.unit.asr.test_engine import Bench, Heard, assert_same

Babble = Callable[[float, int], Samples]
Maker = Callable[..., Checkpoint]
BIASED = Biasing(phrases=tuple(Phrase(phrase, 6.0) for phrase in ("bce", "hgk", "li")))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendGpu]:
    with pretend_gpu(monkeypatch) as pretended:
        yield pretended


def at_home(heard: Heard) -> Heard:
    return Heard(heard.tokens, [frames.cpu() for frames in heard.frames], heard.is_finished)


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize("way", [{}, {"graphs": False}, {"decoder_device": "cpu"}], ids=str)
def test_the_words_of_a_device_are_those_of_the_host(
    make_checkpoint: Maker, babble: Babble, gpu: PretendGpu, decoder: str, way: dict[str, object]
) -> None:
    far = Bench(make_checkpoint(), device="cuda", decoder=decoder, **way)
    near = Bench(make_checkpoint(), decoder=decoder)
    audio = babble(2.0, 3)
    heard = near.whole(audio, 6)
    assert len(heard.tokens) > 3
    assert_same(at_home(far.whole(audio, 6)), heard)


@pytest.mark.parametrize(
    "config",
    [{}, {"decoder": "ctc", "beam": 1}, {"decoder": "ctc", "beam": 4}],
    ids=["rnnt", "ctc", "beam"],
)
def test_phrases_and_a_language_model_favour_the_same_behind_a_device(
    make_checkpoint: Maker,
    babble: Babble,
    gpu: PretendGpu,
    tmp_path: Path,
    config: dict[str, object],
) -> None:
    checkpoint, audio, heard = make_checkpoint(), babble(1.5, 6), []
    pieces, path = checkpoint.tokenizer.pieces, tmp_path / "lm.safetensors"
    estimate([[0, 1, 2], [2, 7, 1]] * 9, len(pieces), order=3).save(path, pieces, "")
    for device in ("cuda", "cpu"):
        bench = Bench(checkpoint, device=device, lm=str(path), **config)
        stream = bench.open(biasing=BIASED)
        bench.engine.feed(stream, audio[:12_000])
        bench.run()
        moved = bench.engine.restore(bench.engine.snapshot(stream))
        bench.heard[moved] = bench.heard[stream]
        bench.engine.feed(moved, audio[12_000:])
        bench.engine.finish(moved)
        bench.run()
        heard.append(at_home(bench.heard[moved]))
    assert_same(*heard)
    assert heard[0].tokens


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_a_step_waits_for_the_device_once(
    make_checkpoint: Maker,
    babble: Babble,
    gpu: PretendGpu,
    monkeypatch: pytest.MonkeyPatch,
    decoder: str,
) -> None:
    monkeypatch.setattr("asr.decoder.rnnt.SPARE_ROUNDS", 4)  # a tiny model says much
    bench = Bench(make_checkpoint(), device="cuda", decoder=decoder)
    bench.engine.warm(1)
    bench.engine.trace, audio, said = None, babble(2.0, 3)[:30_720], 0
    gpu.waits.clear()
    streams = [bench.open() for _ in range(3)]
    assert gpu.waits == []
    for at in range(0, len(audio), 2_560):
        for stream in streams:
            bench.engine.feed(stream, audio[at : at + 2_560])
        gpu.waits.clear()
        said += sum(len(emission.tokens) for emission in bench.engine.step())
        assert gpu.waits == ["synchronize"]
    assert said > 10


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_only_rows_that_favour_something_are_decoded_one_operation_after_the_other(
    make_checkpoint: Maker,
    babble: Babble,
    gpu: PretendGpu,
    monkeypatch: pytest.MonkeyPatch,
    decoder: str,
) -> None:
    audio, heard, alone = babble(2.5, 6), [], list[int]()

    def decoded(decoding: Decoding, x: Tensor, rows: Rows) -> list[Said]:
        alone.append(len(x))
        return _decoded(decoding, x, rows)

    monkeypatch.setattr("asr.runner._decoded", decoded)
    for device in ("cuda", "cpu"):
        bench = Bench(make_checkpoint(), device=device, decoder=decoder)
        streams = [bench.open(biasing=biasing) for biasing in (NO_BIASING, BIASED, NO_BIASING)]
        for at in range(0, len(audio), 2_560):
            for stream in streams:
                bench.engine.feed(stream, audio[at : at + 2_560])
            bench.run()
        heard.append([at_home(bench.heard[stream]) for stream in streams])
        assert (max(alone) == 1) == (device == "cuda")
    for one, other in zip(*heard, strict=True):
        assert_same(one, other)
    assert heard[0][0].labels == heard[0][2].labels != heard[0][1].labels


def test_weights_do_not_stay_as_they_were_stored(make_checkpoint: Maker) -> None:
    checkpoint = make_checkpoint()
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    stored = weakref.ref(tensors["encoder.layers.0.feed_forward1.linear1.weight"])
    encoder = Encoder(tensors, checkpoint.spec, precision="bf16", max_steps=14, parts="plain")
    del tensors
    gc.collect()
    assert encoder and stored() is None


def test_streams_move_between_host_and_device(
    make_checkpoint: Maker, babble: Babble, gpu: PretendGpu
) -> None:
    audio, cut = babble(4.0, 2), 31_003
    whole = Bench(make_checkpoint()).whole(audio)
    benches = [Bench(make_checkpoint(), device=device) for device in ("cuda", "cpu", "cuda")]
    stream, heard = benches[0].open(), Heard()
    for number, bench in enumerate(benches):
        if number:
            before = benches[number - 1].engine
            stream = bench.engine.restore(before.snapshot(stream))
        bench.heard[stream] = heard
        fork = bench.engine.fork(stream)
        bench.engine.feed(stream, audio[number * cut : (number + 1) * cut])
        bench.run()
        bench.engine.drop(fork)
    bench.engine.finish(stream)
    bench.run()
    assert_same(at_home(heard), whole)


def test_a_device_multiplies_in_fp32_where_that_was_asked_for(
    make_checkpoint: Maker, gpu: PretendGpu
) -> None:
    numbers = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    for part in numbers:
        part.fp32_precision = "tf32"  # as an environment variable of NVIDIA's containers sets it
    Engine(make_checkpoint(), EngineConfig(slots=2, precision="fp32", device="cuda"))
    assert [part.fp32_precision for part in numbers] == ["ieee", "ieee"]


@pytest.mark.parametrize(
    "act",
    [
        lambda far, near: far + near,
        lambda far, near: torch.cat([far, near]),
        lambda far, near: far.masked_fill(near > 0, 0.0),
        lambda far, _: far.numpy(),
        lambda far, _: far.data_ptr(),
    ],
    ids=["sum", "cat", "mask", "numpy", "pointer"],
)
def test_the_pretended_device_refuses_what_a_device_refuses(
    gpu: PretendGpu, act: Callable[[Tensor, Tensor], object]
) -> None:
    near = torch.ones(3)
    with pytest.raises(Mixed):
        act(near.to("cuda"), near)


def test_the_pretended_device_copies_as_late_as_a_device(gpu: PretendGpu) -> None:
    into, out = (Arena(DEVICE).block({"a": (torch.float32, (2,))}) for _ in range(2))
    into.here["a"][:] = 1
    into.send()
    out.there["a"].copy_(into.there["a"] + 1)
    out._host.copy_(out._device, non_blocking=True)
    assert out.here["a"].tolist() != [2, 2]
    gpu.synchronize()
    assert out.here["a"].tolist() == [2, 2]
    into.send()
    into.here["a"][:] = 3
    with pytest.raises(AssertionError, match="still being sent"):
        gpu.synchronize()
