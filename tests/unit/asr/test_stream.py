"""When the chunks of a stream are due: what the earliest deadline first is to be fair by."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.features import FrontEnd
from asr.interface import PATIENT
from asr.stream import Stream

LOOK_AHEAD, CHUNK_S = 6, 0.56


def stream() -> Stream:
    front_end = FrontEnd(torch.hann_window(400, periodic=False), torch.rand(80, 257))
    return Stream.start(front_end, LOOK_AHEAD, None)


@settings(max_examples=100, deadline=None)
@given(
    look_ahead=st.sampled_from([0, 1, 6, 13]),
    heard=st.lists(st.integers(0, 30_000), max_size=4),
    is_moved=st.booleans(),
)
def test_it_takes_what_it_lacks_until_a_chunk_more_could_run(
    look_ahead: int, heard: list[int], *, is_moved: bool
) -> None:
    front_end = FrontEnd(torch.hann_window(400, periodic=False), torch.rand(80, 257))
    one = Stream.start(front_end, look_ahead, None)
    for samples in heard:
        one.feed(np.zeros(samples, np.float32), 1.0)
        if one.chunks_ready():
            one.take(look_ahead + 1)
    if is_moved:
        one = Stream.from_state(front_end, one.state())
    ready, lacks = one.chunks_ready(), one.lacks()
    assert lacks > 0
    one.feed(np.zeros(lacks - 1, np.float32), 2.0)
    assert (one.chunks_ready(), one.lacks()) == (ready, 1)
    one.feed(np.zeros(1, np.float32), 3.0)
    assert one.chunks_ready() == ready + 1


def speak(one: Stream, packet_ms: int, until_s: float) -> list[float]:
    """Speak at the pace of speech, decoding at once; how long each ready chunk had left."""
    left, packet_s = list[float](), packet_ms / 1000
    for number in range(1, round(until_s / packet_s) + 1):
        now = number * packet_s
        one.feed(np.zeros(16 * packet_ms, np.float32), now)
        while one.chunks_ready():
            left.append(one.due - now)
            one.take(LOOK_AHEAD + 1)
    return left


@pytest.mark.parametrize("packet_ms", [10, 20, 100, 400])
def test_a_live_chunk_is_due_one_chunk_after_it_came_however_small_the_packets(
    packet_ms: int,
) -> None:
    left = speak(stream(), packet_ms, 20.0)
    assert len(left) > 30
    assert min(left) >= CHUNK_S - 1e-6
    assert max(left) <= CHUNK_S + packet_ms / 1000 + 1e-6


def test_a_backlog_is_due_at_the_pace_of_speech() -> None:
    one, left = stream(), list[float]()
    one.feed(np.zeros(16_000 * 10, np.float32), 5.0)
    while one.chunks_ready():
        left.append(one.due - 5.0)
        one.take(LOOK_AHEAD + 1)
    assert left == pytest.approx([CHUNK_S * (k + 1) for k in range(len(left))])


def waiting() -> Stream:
    """A stream with a backlog that may wait."""
    one = stream()
    one.feed(np.zeros(16_000 * 10, np.float32), PATIENT)
    assert one.due == PATIENT
    one.take(LOOK_AHEAD + 1)
    assert one.due == PATIENT
    return one


def test_what_waited_is_due_when_something_comes_that_does_not() -> None:
    one = waiting()
    one.feed(np.zeros(160, np.float32), 30.0)
    assert one.due == pytest.approx(30.0 + CHUNK_S)
    one.feed(np.zeros(160, np.float32), PATIENT)
    assert one.due == pytest.approx(30.0 + CHUNK_S)


def test_the_end_of_a_stream_does_not_wait() -> None:
    one = waiting()
    one.finish()
    assert one.due < PATIENT


def test_a_live_stream_that_hears_what_may_wait_is_still_due() -> None:
    one = stream()
    one.feed(np.zeros(16_000, np.float32), 5.0)
    one.feed(np.zeros(16_000, np.float32), PATIENT)
    assert one.due == pytest.approx(5.0 + CHUNK_S)


def test_what_a_snapshot_had_not_decoded_waits_with_what_comes_behind_it() -> None:
    one = stream()
    one.feed(np.zeros(16_000, np.float32), 5.0)
    assert one.chunks_ready()
    front_end = FrontEnd(torch.hann_window(400, periodic=False), torch.rand(80, 257))
    moved = Stream.from_state(front_end, one.state())
    assert moved.chunks_ready()
    moved.feed(np.zeros(16_000, np.float32), PATIENT)
    assert moved.due == PATIENT
    moved.feed(np.zeros(160, np.float32), 9.0)
    assert moved.due == pytest.approx(9.0 + CHUNK_S)
