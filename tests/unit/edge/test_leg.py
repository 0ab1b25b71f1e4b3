"""The node's half of a leg: what it sends is what was asked for, within the credit."""

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import wire
from edge.leg import Leg
from edge.ring import AudioRing
from edge.wire import AHEAD, PARTIAL, Close, Credit, Frame, FrameError, Kind, Open, Policy, Result

RATE = 8_000


def a_leg(policy: Policy = "core") -> Leg:
    opening = Open(session="s", secret="x", encoding="mulaw", rate=RATE, policy=policy)
    return Leg(number=3, opening=opening, ring=AudioRing(sample_bytes=1, memory_bytes=10**7))


def need(at: int, *, safe: int = 0, limit: int = 10**9) -> Frame:
    return Frame(Kind.NEED, 3, at, Credit(safe, limit).pack())


def ack(at: int, *, safe: int = 0, limit: int = 10**9) -> Frame:
    return Frame(Kind.ACK, 3, at, Credit(safe, limit).pack())


def final(number: int, *, end_ms: int = 0) -> Frame:
    return Frame(Kind.RESULT, 3, number, Result(text="a", start_ms=0, end_ms=end_ms).pack())


def send(leg: Leg, max_bytes: int = 10**9) -> list[Frame]:
    return list(leg.frames_to_send(max_bytes))


class FakeCore:
    """Takes frames as a core does: by offset, each sample once."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.ahead = bytearray()
        self.ahead_from: int | None = None
        self.total: int | None = None

    def take(self, frame: Frame) -> None:
        if frame.kind is Kind.CLOSE:
            self.total = frame.offset
        if frame.kind not in (Kind.AUDIO, Kind.SILENCE):
            return
        is_audio = frame.kind is Kind.AUDIO
        data = frame.payload if is_audio else bytes(wire.count_of(frame))
        if frame.flags & AHEAD:
            if self.ahead_from is None:
                self.ahead_from, self.ahead = frame.offset, bytearray()
            assert frame.offset == self.ahead_from + len(self.ahead), "a hole"
            self.ahead += data
            return
        assert frame.offset <= len(self.heard), "a hole"
        self.heard += data[len(self.heard) - frame.offset :]
        if len(self.heard) == self.ahead_from:
            self.heard += self.ahead
            self.ahead_from = None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("audio"), st.integers(1, 30_000)),
        st.tuples(st.just("lost"), st.integers(1, 30_000)),
        st.tuples(st.just("send"), st.integers(1, 20_000)),
        st.tuples(st.just("ack"), st.integers(0, 40_000)),
        st.tuples(st.just("cut"), st.integers(0, 30)),
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_whatever_is_cut_every_sample_arrives_once_and_in_order(
    steps: list[tuple[str, int]],
) -> None:
    leg, core, said = a_leg(), FakeCore(), bytearray()
    leg.open_frame()
    leg.receive(need(0))
    for step, number in steps:
        if step == "audio":
            data = secrets.token_bytes(number)
            leg.ring.append(number, data)
            said += data
        elif step == "lost":
            leg.ring.append(number, None)
            said += bytes(number)
        elif step == "send":
            for frame in send(leg, number):
                core.take(frame)
        elif step == "ack":
            heard = len(core.heard)
            leg.receive(ack(heard, safe=max(0, heard - number)))
        else:  # the frames of one turn are lost with the connection
            send(leg, number * 1_000)
            assert leg.open_frame().offset <= len(core.heard)
            core.ahead_from = None
            leg.receive(need(len(core.heard)))
    leg.ring.end()
    for frame in send(leg):
        core.take(frame)
    assert core.heard == said
    assert core.total == len(said)


def test_nothing_goes_before_the_core_has_said_from_where() -> None:
    leg = a_leg()
    leg.ring.append(160, bytes(160))
    assert send(leg) == []
    leg.receive(need(0))
    assert [frame.kind for frame in send(leg)] == [Kind.AUDIO]
    leg.open_frame()
    assert send(leg) == []


def test_credit_is_kept_to_the_sample() -> None:
    leg = a_leg()
    leg.ring.append(1_000, bytes(1_000))
    leg.ring.append(1_000, None)
    leg.receive(need(0, limit=300))
    assert sum(len(frame.payload) for frame in send(leg)) == 300
    leg.receive(ack(300, limit=1_100))
    frames = send(leg)
    assert [frame.kind for frame in frames] == [Kind.AUDIO, Kind.SILENCE]
    assert wire.count_of(frames[1]) == 100


def test_a_packet_that_the_credit_would_cut_waits() -> None:
    opening = Open(session="s", secret="x", encoding="opus", rate=48_000)
    leg = Leg(number=3, opening=opening, ring=AudioRing(sample_bytes=0, memory_bytes=10**7))
    for _ in range(3):
        leg.ring.append(960, bytes(40))
    leg.receive(need(0, limit=2_000))
    assert [frame.offset for frame in send(leg)] == [0, 960]
    leg.receive(ack(1_920, limit=2_880))
    assert [frame.offset for frame in send(leg)] == [1_920]


def test_the_end_is_told_once_per_connection_and_behind_all_audio() -> None:
    leg = a_leg()
    leg.ring.append(160, bytes(160))
    leg.ring.end()
    leg.receive(need(0))
    assert [frame.kind for frame in send(leg)] == [Kind.AUDIO, Kind.CLOSE]
    assert send(leg) == []
    leg.open_frame()
    leg.receive(need(160))
    assert [frame.kind for frame in send(leg)] == [Kind.CLOSE]


def test_a_final_is_kept_once_acknowledged_and_its_audio_forgotten() -> None:
    leg = a_leg()
    for _ in range(30):
        leg.ring.append(RATE, bytes(RATE))
    leg.receive(need(0))
    send(leg)
    leg.receive(final(0, end_ms=20_000))
    leg.receive(final(0, end_ms=20_000))
    assert [frame.offset for frame in send(leg)] == [1]
    assert send(leg) == []
    assert len(leg.transcript.finals) == 1
    assert leg.ring.base == leg.covered == 20 * RATE
    opening = wire.body_of(leg.open_frame(), Open)
    assert (opening.finals, opening.covered) == (1, 20 * RATE)


def test_open_text_replaces_open_text_and_takes_no_number() -> None:
    leg = a_leg()
    body = Result(text="open", start_ms=0, end_ms=10).pack()
    leg.receive(Frame(Kind.RESULT, 3, 0, body, PARTIAL))
    assert leg.transcript.partial is not None and not leg.transcript.finals
    leg.receive(final(0))
    assert leg.transcript.partial is None


def test_under_the_policy_edge_finals_go_up_by_number_and_never_audio() -> None:
    leg = a_leg("edge")
    leg.ring.append(RATE, bytes(RATE))
    for number in range(3):
        leg.transcript.final(number, Result(text=f"t{number}", start_ms=0, end_ms=1))
    leg.receive(need(1))
    assert [(f.kind, f.offset) for f in send(leg)] == [(Kind.RESULT, 1), (Kind.RESULT, 2)]
    assert leg.backlog == 2
    leg.receive(Frame(Kind.RESULT_ACK, 3, 3))
    assert leg.backlog == leg.audio_frames == 0
    leg.is_complete = True
    assert [frame.kind for frame in send(leg)] == [Kind.CLOSE]


def test_a_leg_that_is_over_says_nothing_more() -> None:
    leg = a_leg()
    leg.ring.append(160, bytes(160))
    leg.receive(need(0))
    leg.receive(Frame(Kind.CLOSE, 3, 0, Close(reason="fenced").pack()))
    assert leg.is_over and send(leg) == []


@pytest.mark.parametrize(
    "frame",
    [Frame(Kind.AUDIO, 3), Frame(Kind.ACK, 3, 0, b"x"), Frame(Kind.RESULT, 3, 0, b"{}")],
)
def test_what_a_core_never_sends_is_a_frame_error(frame: Frame) -> None:
    with pytest.raises(FrameError):
        a_leg().receive(frame)


def test_what_the_core_asks_for_behind_the_end_is_followed_by_the_end_again() -> None:
    leg = a_leg()
    leg.open_frame()
    leg.ring.append(480, bytes(480))
    leg.ring.end()
    leg.receive(need(0))
    assert [frame.kind for frame in send(leg)] == [Kind.AUDIO, Kind.CLOSE]
    leg.receive(need(160))  # a hole: the core did not take the end either
    assert [(frame.kind, frame.offset) for frame in send(leg)] == [
        (Kind.AUDIO, 160),
        (Kind.CLOSE, 480),
    ]
