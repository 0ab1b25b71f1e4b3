"""The reorder window: offsets always advance, order is restored, what is missing is concealed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import decode
from edge import g711
from edge.media import LONG_S, MAX_HELD, SILENT_S, Piece, ReorderWindow
from edge.wire import Encoding

RATE, UNIT = 8_000, 160


def packet(number: int) -> bytes:
    """A packet that says its number."""
    return bytes([number % 250]) * UNIT


def join(pieces: list[Piece]) -> bytes:
    return b"".join(bytes(p.samples) if p.data is None else p.data for p in pieces)


@settings(max_examples=200, deadline=None)
@given(
    order=st.permutations(range(12)),
    lost=st.sets(st.integers(0, 11), max_size=5),
    doubled=st.sets(st.integers(0, 11), max_size=3),
)
def test_whatever_the_order_within_the_window_each_packet_has_its_place(
    order: list[int], lost: set[int], doubled: set[int]
) -> None:
    window = ReorderWindow("mulaw", RATE)
    pieces = window.receive(0, UNIT, packet(249), now=0.0)
    for number in order:
        for _ in range(1 + (number in doubled)):
            if number not in lost:
                at = (number + 1) * UNIT
                pieces += window.receive(at, UNIT, packet(number), now=0.01)
    pieces += window.flush()
    heard = join(pieces)
    last = max((n for n in range(12) if n not in lost), default=-1)
    assert len(heard) == (last + 2) * UNIT
    for number in range(last + 1):
        place = heard[(number + 1) * UNIT : (number + 2) * UNIT]
        assert (place == packet(number)) == (number not in lost)


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**33), 2**33), st.integers(1, 400), st.floats(0, 5, allow_nan=False)
        ),
        max_size=30,
    )
)
def test_offsets_advance_by_at_most_what_time_and_audio_explain(
    packets: list[tuple[int, int, float]],
) -> None:
    window, now, pieces, said = ReorderWindow("mulaw", RATE), 0.0, list[Piece](), 0
    for stamp, samples, later in packets:
        now += later
        said += samples
        pieces += window.receive(stamp, samples, bytes(samples), now=now)
    pieces += window.flush()
    total = sum(piece.samples for piece in pieces)
    assert all(piece.samples > 0 for piece in pieces)
    assert total <= said + (now + 3 * len(packets)) * RATE


def test_a_hole_is_waited_for_and_then_filled() -> None:
    window = ReorderWindow("mulaw", RATE)
    window.receive(0, UNIT, packet(1), now=0.0)
    assert window.receive(3 * UNIT, UNIT, packet(4), now=0.02) == []
    assert window.next_deadline() == pytest.approx(0.08)
    assert window.handle_timer(now=0.07) == []
    pieces = window.handle_timer(now=0.081)
    assert [piece.samples for piece in pieces] == [2 * UNIT, UNIT]
    assert window.counts.concealed_samples == 2 * UNIT
    assert window.next_deadline() == float("inf")


def test_concealment_fades_and_ends_in_silence() -> None:
    loud = g711.encode(np.full(UNIT, 20_000, np.int16), "mulaw")
    window = ReorderWindow("mulaw", RATE)
    window.receive(0, UNIT, loud, now=0.0)
    window.receive(10 * UNIT, UNIT, loud, now=0.0)
    (filled, _) = window.handle_timer(now=1.0)
    assert filled.data is not None
    heard = np.abs(decode(filled.data, "mulaw")[0])
    assert len(heard) == 9 * UNIT
    assert heard[0] > 0.5 and np.all(heard[3 * UNIT :] == 0)
    assert np.all(np.diff(heard[: 3 * UNIT]) <= 1e-6)


def test_a_long_hole_is_time_and_no_audio() -> None:
    window = ReorderWindow("mulaw", RATE)
    window.receive(0, UNIT, packet(0), now=0.0)
    at = UNIT + int(LONG_S * RATE) + 1
    pieces = window.receive(at, UNIT, packet(0), now=1.1) + window.flush()
    assert pieces[0] == Piece(at - UNIT, None)


def test_silence_of_a_muted_sender_is_time_and_no_jump() -> None:
    window = ReorderWindow("mulaw", RATE)
    window.receive(0, UNIT, packet(0), now=0.0)
    pieces = window.receive(30 * RATE, UNIT, packet(1), now=30.0) + window.flush()
    assert sum(piece.samples for piece in pieces) == 30 * RATE
    assert window.counts.clock_jumps == 0


def test_a_sender_that_falls_silent_is_told_once_and_its_time_is_counted_once() -> None:
    window = ReorderWindow("mulaw", RATE)
    window.receive(0, UNIT, packet(1), now=0.0)
    assert window.handle_timer(now=SILENT_S - 0.01) == []
    assert window.handle_timer(now=SILENT_S) == [Piece(round(SILENT_S * RATE), None)]
    assert window.handle_timer(now=SILENT_S + 1) == []
    pieces = window.receive(UNIT + 5 * RATE, UNIT, packet(2), now=5.0) + window.flush()
    assert pieces == [Piece(round((5 - SILENT_S) * RATE), None), Piece(UNIT, packet(2))]


def test_a_sender_whose_clock_stood_still_while_it_was_silent_loses_no_audio() -> None:
    window = ReorderWindow("mulaw", RATE)
    window.receive(0, UNIT, packet(1), now=0.0)
    window.handle_timer(now=SILENT_S)
    assert window.receive(UNIT, UNIT, packet(2), now=4.0) == [Piece(UNIT, packet(2))]
    assert window.handle_timer(now=4.0 + SILENT_S) == [Piece(round(SILENT_S * RATE), None)]


@pytest.mark.parametrize("stamp", [2**31, -(2**31), 0])
def test_a_clock_that_jumps_takes_no_time_but_that_of_arrival(stamp: int) -> None:
    window = ReorderWindow("mulaw", RATE)
    window.receive(100 * RATE, UNIT, packet(0), now=0.0)
    pieces = window.receive(stamp, UNIT, packet(7), now=0.02)
    assert join(pieces) == packet(7)
    assert window.counts.clock_jumps == 1


def test_a_late_packet_is_counted_and_not_heard() -> None:
    window = ReorderWindow("mulaw", RATE)
    for number in (0, 2):
        window.receive(number * UNIT, UNIT, packet(number), now=0.0)
    window.handle_timer(now=1.0)
    assert window.receive(UNIT, UNIT, packet(1), now=1.0) == []
    assert window.counts.late == 1


def test_what_is_held_is_bounded() -> None:
    window = ReorderWindow("mulaw", RATE, window_s=1e9)
    window.receive(0, 1, b"a", now=0.0)
    for number in range(3 * MAX_HELD):
        window.receive(2 + 2 * number, 1, b"a", now=0.0)
        assert len(window._held) <= MAX_HELD + 1


@pytest.mark.parametrize("encoding", ["mulaw", "alaw", "pcm_s16le"])
def test_encoding_is_the_inverse_of_decoding(encoding: Encoding) -> None:
    codes = bytes(range(256))
    pcm = (decode(codes, encoding)[0] * 32_768).astype(np.int16)
    again = (decode(g711.encode(pcm, encoding), encoding)[0] * 32_768).astype(np.int16)
    np.testing.assert_array_equal(again, pcm)


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_every_sample_becomes_its_nearest_level(encoding: Encoding) -> None:
    levels = decode(bytes(range(256)), encoding)[0] * 32_768
    pcm = np.arange(-32_768, 32_768, 7).astype(np.int16)
    heard = decode(g711.encode(pcm, encoding), encoding)[0] * 32_768
    nearest = np.abs(levels[None, :] - pcm[:, None]).min(axis=1)
    np.testing.assert_allclose(np.abs(heard - pcm), nearest)


def test_silence_is_silent_in_every_encoding() -> None:
    for encoding in ("mulaw", "alaw", "pcm_s16le"):
        assert np.abs(decode(g711.silence(encoding, 100), encoding)).max() < 1e-3
