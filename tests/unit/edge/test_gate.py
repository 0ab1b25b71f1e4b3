"""The voice gate: what comes out is what came in, with time where nobody spoke."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("webrtcvad")

from edge.g711 import encode
from edge.gate import FRAME_MS, HANGOVER_MS, PRE_ROLL_MS, Gate, is_gateable
from edge.media import Piece
from edge.wire import Encoding

RATE = 8_000
MS = RATE // 1_000


def speech(seconds: float) -> np.ndarray:
    """A voiced sound: harmonics of 140 Hz whose loudness goes up and down."""
    t = np.arange(int(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 20))
    return (tone * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)) * 4_000).astype(np.int16)


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.int16)


def through(gate: Gate, data: bytes, size: int, cuts: list[int]) -> list[Piece]:
    pieces, at = [], 0
    for cut in [*cuts, len(data) // size]:
        part = data[at * size : (at + cut) * size]
        pieces += gate.receive(len(part) // size, part)
        at += cut
    return pieces + gate.flush()


def heard(pieces: list[Piece]) -> list[tuple[int, int]]:
    """Begin and end of each stretch of audio, in milliseconds."""
    spans, at = list[tuple[int, int]](), 0
    for piece in pieces:
        if piece.data is not None:
            joins = bool(spans) and spans[-1][1] == at // MS
            begin = spans.pop()[0] if joins else at // MS
            spans.append((begin, (at + piece.samples) // MS))
        at += piece.samples
    return spans


@pytest.mark.parametrize("encoding", ["pcm_s16le", "mulaw", "alaw"])
def test_speech_goes_with_what_is_just_before_and_behind_it(encoding: Encoding) -> None:
    samples = np.concatenate([quiet(2), speech(1), quiet(3), speech(0.5), quiet(2)])
    data, size = encode(samples, encoding), 2 if encoding == "pcm_s16le" else 1
    pieces = through(Gate(encoding, RATE), data, size, [160] * 425)
    assert sum(piece.samples for piece in pieces) == len(samples)
    for (begin, end), (first, last) in zip(heard(pieces), [(2, 3), (6, 6.5)], strict=True):
        assert begin == pytest.approx(first * 1_000 - PRE_ROLL_MS, abs=2 * FRAME_MS)
        assert last * 1_000 + HANGOVER_MS - FRAME_MS <= end <= last * 1_000 + HANGOVER_MS + 300


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 900), max_size=40), st.sampled_from(["pcm_s16le", "mulaw"]))
def test_no_cut_of_the_audio_changes_what_comes_out(cuts: list[int], encoding: Encoding) -> None:
    samples = np.concatenate([quiet(0.7), speech(0.4), quiet(1.5)])
    data, size = encode(samples, encoding), 2 if encoding == "pcm_s16le" else 1
    pieces = through(Gate(encoding, RATE), data, size, cuts)
    assert sum(piece.samples for piece in pieces) == len(samples)
    assert heard(pieces) == heard(through(Gate(encoding, RATE), data, size, []))
    at = 0
    for piece in pieces:
        if piece.data is not None:
            assert piece.data == data[at * size : (at + piece.samples) * size]
        at += piece.samples


def test_what_is_held_is_counted_and_lost_time_lets_it_go() -> None:
    gate, came, went = Gate("mulaw", RATE), 0, 0
    for samples in (100, 800, 4_000):
        pieces = gate.receive(samples, b"\xff" * samples)
        came, went = came + samples, went + sum(piece.samples for piece in pieces)
        assert came == went + gate.held
    assert gate.held <= (PRE_ROLL_MS + FRAME_MS) * MS
    pieces = gate.receive(RATE, None)
    assert gate.held == 0
    assert came + RATE == went + sum(piece.samples for piece in pieces)


def test_packets_of_a_codec_are_not_gated() -> None:
    assert is_gateable("mulaw", 8_000)
    assert not is_gateable("opus", 48_000)
    assert not is_gateable("pcm_s16le", 44_100)
