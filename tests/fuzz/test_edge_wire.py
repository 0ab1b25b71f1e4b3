"""Uplink frames: any cut gives the same frames, any bytes give frames or a named error."""

from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import wire
from edge.wire import Body, Frame, FrameError, FrameReader, Kind
from tests.fuzz.lengths import MINUTES, UNHURRIED, play_on

FRAMES = st.builds(
    Frame,
    st.sampled_from(Kind),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=300),
    st.integers(0, 2**16 - 1),
)


@UNHURRIED
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 2_000), max_size=6))
def test_frames_do_not_depend_on_how_the_bytes_are_cut(
    frames: list[Frame], cuts: list[int]
) -> None:
    raw, reader, found, begin = b"".join(f.pack() for f in frames), FrameReader(), [], 0
    for cut in [*sorted(cuts), len(raw)]:
        found += reader.feed(raw[begin:cut])
        begin = max(begin, cut)
    assert found == frames


@UNHURRIED
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_any_bytes_are_frames_or_a_frame_error(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            reader.feed(piece)
    except FrameError:
        return


@UNHURRIED
@given(
    st.sampled_from([wire.Hello, wire.Welcome, wire.Open, wire.Result, wire.Close]),
    st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
)
def test_any_payload_is_a_body_or_a_frame_error(kind: type[Body], payload: bytes) -> None:
    frame = Frame(Kind.OPEN, 1, 0, payload)
    for read in (lambda: wire.body_of(frame, kind), lambda: wire.credit_of(frame)):
        try:
            read()
        except FrameError:
            continue
    try:
        wire.count_of(frame)
    except FrameError:
        return


def test_a_body_comes_back_and_a_newer_field_is_skipped() -> None:
    close = wire.Close(reason="fenced", text="why")
    assert wire.body_of(Frame(Kind.CLOSE, 1, 0, close.pack()), wire.Close) == close
    newer = b'{"reason":"done","colour":1}'
    assert wire.body_of(Frame(Kind.CLOSE, 1, 0, newer), wire.Close) == wire.Close()


def test_a_kind_from_the_future_is_skipped() -> None:
    raw = wire.HEAD.pack(1, 200, 0, 1, 0, 3) + b"abc" + Frame(Kind.PING).pack()
    assert FrameReader().feed(raw) == [Frame(Kind.PING)]


@pytest.mark.parametrize(
    "head", [wire.HEAD.pack(2, 1, 0, 0, 0, 0), wire.HEAD.pack(1, 1, 0, 0, 0, 65_537)]
)
def test_another_version_or_a_giant_frame_is_refused_before_it_is_stored(head: bytes) -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(head)


def test_too_large_a_payload_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="65537 bytes"):
        Frame(Kind.AUDIO, 1, 0, bytes(65_537)).pack()


def test_every_encoding_has_a_sample_size() -> None:
    assert set(wire.SAMPLE_BYTES) == set(get_args(wire.Encoding))


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_is_documented(kind: Kind) -> None:
    assert f"| {kind.name} |" in (wire.__doc__ or "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "play",
    [
        test_frames_do_not_depend_on_how_the_bytes_are_cut,
        test_any_bytes_are_frames_or_a_frame_error,
        test_any_payload_is_a_body_or_a_frame_error,
    ],
)
def test_frames_are_read_or_refused_for_long(play: Callable[[], None]) -> None:
    play_on(play, minutes=MINUTES / 3)
