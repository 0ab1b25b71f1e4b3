"""New audio goes ahead of a backlog: both halves of a leg, joined without a link."""

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import wire
from edge.coreleg import CoreLeg
from edge.leg import Leg
from edge.ring import AudioRing
from edge.wire import AHEAD, MAX_AHEAD_S, Frame, FrameError, Kind, Open

RATE, WINDOW_MS = 100, 10_000
WINDOW = WINDOW_MS * RATE // 1000
BACKLOG = 30 * RATE
BLOCK = 8_000
"""What a ring releases at once."""


class Pair:
    """A node's leg and the core's, with what was said; frames are handed over one by one."""

    def __init__(self) -> None:
        opening = Open(session="s", secret="x", encoding="mulaw", rate=RATE)
        ring = AudioRing(sample_bytes=1, memory_bytes=10**8)
        self.node = Leg(number=3, opening=opening, ring=ring)
        self.core = CoreLeg(
            opening, 0, url="ws://127.0.0.1:1", window_ms=WINDOW_MS, on_final=lambda *_: None
        )
        self.said = bytearray()

    def connect(self) -> None:
        opening = wire.body_of(self.node.open_frame(), Open)
        self.core.attach(3, opening, self.node.receive)

    def say(self, samples: int) -> None:
        data = secrets.token_bytes(samples)
        self.node.ring.append(samples, data)
        self.said += data

    def turn(self, max_bytes: int) -> list[Frame]:
        frames = list(self.node.frames_to_send(max_bytes))
        for frame in frames:
            self.core.receive(frame)
        return frames

    def decode(self, samples: int) -> None:
        recogniser = self.core._recogniser
        recogniser.done = min(self.core.received, recogniser.done + samples)
        recogniser.safe = recogniser.done
        self.core.progressed()
        self.core.acknowledge()

    def held(self) -> bytes:
        """What the core has in order; what it released is as it was said."""
        at = self.core._ring.base
        heard = bytearray(self.said[:at])
        while (span := self.core._ring.read(at, 10**6)) is not None:
            heard += bytes(span.samples) if span.data is None else span.data
            at = span.end
        return bytes(heard)


def after_a_cut() -> Pair:
    pair = Pair()
    pair.say(BACKLOG)
    pair.connect()
    pair.say(160)
    return pair


def test_after_a_cut_new_audio_goes_first_and_is_acknowledged_before_the_backlog() -> None:
    pair = after_a_cut()
    first = pair.turn(170)[0]
    assert (first.offset, len(first.payload), first.flags) == (BACKLOG, 160, AHEAD)
    pair.core.acknowledge()
    assert pair.node.newest_acked == BACKLOG + 160
    assert pair.node.acked <= WINDOW < BACKLOG
    assert pair.core.received == pair.node.acked


def test_a_short_backlog_goes_in_its_order() -> None:
    pair = Pair()
    pair.say(RATE)
    pair.connect()
    pair.say(160)
    assert not any(frame.flags & AHEAD for frame in pair.turn(10**6))
    assert pair.held() == pair.said


def test_backlog_and_what_went_ahead_become_one_and_the_credit_goes_on() -> None:
    pair = after_a_cut()
    while pair.core.received < len(pair.said):
        pair.turn(100)
        pair.decode(100)
    assert pair.held() == pair.said
    pair.say(3 * RATE)
    pair.turn(10**6)
    assert pair.held() == pair.said
    pair.node.ring.end()
    assert [frame.kind for frame in pair.turn(10**6)] == [Kind.CLOSE]


def test_what_goes_ahead_is_bounded_while_nothing_is_decoded() -> None:
    pair = after_a_cut()
    pair.say((MAX_AHEAD_S + 5) * RATE)
    pair.turn(10**8)
    pair.core.acknowledge()
    assert pair.node.newest_acked == BACKLOG + MAX_AHEAD_S * RATE
    assert pair.core.held_bytes <= WINDOW + MAX_AHEAD_S * RATE
    with pytest.raises(FrameError, match="beyond the credit"):
        pair.core.receive(Frame(Kind.AUDIO, 3, pair.node.newest_acked, bytes(1), AHEAD))


def test_a_hole_in_what_goes_ahead_begins_it_anew() -> None:
    pair = after_a_cut()
    pair.turn(170)
    pair.core.receive(Frame(Kind.AUDIO, 3, BACKLOG + 999, bytes(1), AHEAD))
    pair.core.acknowledge()
    assert pair.core.newest == pair.core.received
    while pair.core.received < len(pair.said):
        pair.turn(100)
        pair.decode(100)
    assert pair.held() == pair.said


def test_a_second_cut_while_the_first_backlog_is_decoded_does_not_end_the_connection() -> None:
    pair = after_a_cut()
    pair.say(30 * RATE)
    while pair.core.received < len(pair.said):
        pair.turn(10**6)
        pair.decode(RATE)
    assert pair.core.received > pair.core.done + WINDOW  # what went ahead was joined
    pair.core.detach()
    pair.say(5 * RATE)
    pair.connect()
    pair.say(RATE // 2)
    while pair.core.received < len(pair.said):
        pair.turn(10**6)
        pair.decode(RATE)
    assert pair.held() == pair.said


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 12 * RATE)),
        st.tuples(st.just("lost"), st.integers(1, 3 * RATE)),
        st.tuples(st.just("turn"), st.integers(1, 5 * RATE)),
        st.tuples(st.just("decode"), st.integers(0, 8 * RATE)),
        st.tuples(st.just("cut"), st.integers(0, 4 * RATE)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_is_cut_with_audio_ahead_every_sample_arrives_once_and_in_order(
    steps: list[tuple[str, int]],
) -> None:
    pair = Pair()
    pair.connect()
    for step, number in steps:
        if step == "say":
            pair.say(number)
        elif step == "lost":
            pair.node.ring.append(number, None)
            pair.said += bytes(number)
        elif step == "turn":
            pair.turn(number)
        elif step == "decode":
            pair.decode(number)
        else:
            list(pair.node.frames_to_send(number))  # lost with the connection
            pair.core.detach()
            pair.connect()
        assert pair.core.held_bytes <= WINDOW + MAX_AHEAD_S * RATE + BLOCK
        assert pair.held() == pair.said[: pair.core.received]
    pair.node.ring.end()
    for _ in range(200):
        pair.turn(10**6)
        pair.decode(10**6)
    assert pair.held() == pair.said
    assert pair.core._ring.is_ended
