"""Features do not depend on how audio is cut."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from asr.features import HOP, FeatureStream, FrontEnd
from asr.interface import Samples


@pytest.fixture(scope="module")
def front_end() -> FrontEnd:
    generator = torch.Generator().manual_seed(0)
    return FrontEnd(
        torch.hann_window(400, periodic=False), torch.rand(80, 257, generator=generator)
    )


def whole(front_end: FrontEnd, samples: Samples) -> torch.Tensor:
    stream = FeatureStream(front_end)
    return torch.cat([stream.push(samples), stream.finish()])


@pytest.mark.parametrize("cut", [1, 159, 160, 161, 1600, 5003])
def test_frames_are_bit_equal_for_any_cut(
    front_end: FrontEnd, babble: Callable[[float, int], Samples], cut: int
) -> None:
    audio = babble(0.6 if cut == 1 else 2.0, 0)
    stream = FeatureStream(front_end)
    pieces = [stream.push(audio[i : i + cut]) for i in range(0, len(audio), cut)]
    assert torch.equal(torch.cat([*pieces, stream.finish()]), whole(front_end, audio))


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 361, 16_000, 16_040])
def test_an_utterance_has_a_frame_each_hop(front_end: FrontEnd, samples: int) -> None:
    assert len(whole(front_end, np.zeros(samples, np.float32))) == samples // HOP


def test_silence_is_the_log_of_the_guard(front_end: FrontEnd) -> None:
    frames = whole(front_end, np.zeros(4000, np.float32))
    torch.testing.assert_close(frames, torch.full_like(frames, -16.6355), atol=1e-3, rtol=0)


def test_a_frame_comes_as_soon_as_its_window_is_heard(front_end: FrontEnd) -> None:
    stream = FeatureStream(front_end)
    assert len(stream.push(np.zeros(199, np.float32))) == 0
    assert len(stream.push(np.zeros(1, np.float32))) == 1
    assert len(stream.push(np.zeros(HOP, np.float32))) == 1


def test_a_fork_goes_its_own_way(
    front_end: FrontEnd, babble: Callable[[float, int], Samples]
) -> None:
    audio = babble(1.0, 1)
    stream = FeatureStream(front_end)
    first = stream.push(audio[:7001])
    fork = stream.fork()
    fork.push(np.ones(500, np.float32))
    rest = torch.cat([stream.push(audio[7001:]), stream.finish()])
    assert torch.equal(torch.cat([first, rest]), whole(front_end, audio))


def test_memory_stays_constant_over_an_hour_of_audio(front_end: FrontEnd) -> None:
    stream = FeatureStream(front_end)
    for _ in range(36):
        stream.push(np.zeros(16_000 * 10, np.float32))
    assert stream.state()["tail"].numel() <= 512 + HOP
