"""The core's half of a leg: each sample and each final counts once, whatever is repeated."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import wire
from edge.coreleg import KEEP_MS, CoreLeg
from edge.wire import Close, Credit, Frame, FrameError, Kind, Open, Policy, Result

URL, WINDOW_MS, RATE = "ws://127.0.0.1:1/v1/stream", 1_000, 8_000


class Rig:
    """A leg that nobody recognises, and what it says."""

    def __init__(self, policy: Policy = "core", *, base: int = 0, covered: int = 0) -> None:
        self.said: list[Frame] = []
        self.finals: list[tuple[int, str]] = []
        self.opening = Open(
            session="s", secret="x", encoding="mulaw", rate=RATE, policy=policy, covered=covered
        )
        self.leg = CoreLeg(
            self.opening,
            base,
            url=URL,
            window_ms=WINDOW_MS,
            on_final=lambda _, number, result: self.finals.append((number, result.text)),
        )
        self.leg.attach(5, self.opening, self.said.append)

    def audio(self, offset: int, data: bytes) -> None:
        self.leg.receive(Frame(Kind.AUDIO, 5, offset, data))

    def last(self, kind: Kind) -> Frame:
        return [frame for frame in self.said if frame.kind is kind][-1]

    def held(self) -> bytes:
        heard, at = bytearray(), self.leg._ring.base
        while (span := self.leg._ring.read(at, 10**6)) is not None:
            heard += bytes(span.samples) if span.data is None else span.data
            at = span.end
        return bytes(heard)


SAID = bytes(n % 251 for n in range(4_000))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-700, 50), st.integers(0, 900)), max_size=25))
def test_whatever_comes_twice_or_too_early_the_audio_is_that_which_was_said(
    pieces: list[tuple[int, int]],
) -> None:
    r = Rig()
    for ahead, size in pieces:
        before = r.leg.received
        offset = min(max(0, before + ahead), len(SAID))
        r.audio(offset, SAID[offset : offset + size])
        assert r.leg.received == (
            before if offset > before else max(before, min(offset + size, len(SAID)))
        )
        if offset > before:
            assert r.last(Kind.NEED).offset == before
    assert r.held() == SAID[: r.leg.received]


def test_a_leg_begins_where_the_words_end_that_the_node_has() -> None:
    r = Rig(base=1_000, covered=2_500)
    assert r.last(Kind.NEED).offset == 2_500
    assert wire.credit_of(r.last(Kind.NEED)) == Credit(2_500, 2_500 + RATE, 2_500)


def test_audio_beyond_the_credit_is_the_end_of_that_connection() -> None:
    r = Rig()
    r.audio(0, bytes(RATE))
    with pytest.raises(FrameError, match="beyond the credit"):
        r.audio(RATE, bytes(1))


def test_an_acknowledgement_is_said_once_until_something_moves() -> None:
    r = Rig()
    r.leg.acknowledge()
    r.audio(0, bytes(160))
    count = len(r.said)
    r.leg.acknowledge()
    r.leg.acknowledge()
    assert len(r.said) == count + 1
    assert r.last(Kind.ACK).offset == 160


def test_finals_are_told_again_until_the_node_has_them() -> None:
    r = Rig()
    for number in range(3):
        r.leg.final(number, Result(text=f"t{number}", start_ms=0, end_ms=1))
    r.leg.detach()
    r.leg.final(3, Result(text="t3", start_ms=0, end_ms=1))
    again: list[Frame] = []
    r.leg.attach(6, msgspec.structs.replace(r.opening, finals=2), again.append)
    assert [frame.offset for frame in again if frame.kind is Kind.RESULT] == [2, 3]
    r.leg.receive(Frame(Kind.RESULT_ACK, 6, 4))
    last: list[Frame] = []
    r.leg.attach(7, msgspec.structs.replace(r.opening, finals=4), last.append)
    assert [frame.kind for frame in last] == [Kind.NEED]


def test_finals_that_a_node_has_are_told_to_another_one_whose_caller_lacks_them() -> None:
    r = Rig()
    for number in range(4):
        end_ms = number * KEEP_MS // 2
        r.leg.final(number, Result(text=f"t{number}", start_ms=0, end_ms=end_ms))
    r.leg.receive(Frame(Kind.RESULT_ACK, 5, 4))
    r.leg._recogniser.finals = 4
    assert [r.leg.has_finals_from(number) for number in range(6)] == [False] * 2 + [True] * 4
    there: list[Frame] = []
    r.leg.attach(6, msgspec.structs.replace(r.opening, finals=2), there.append)
    assert [frame.offset for frame in there if frame.kind is Kind.RESULT] == [2, 3]


def test_an_old_final_that_no_node_has_is_kept() -> None:
    r = Rig()
    for number in range(4):
        r.leg.final(number, Result(text="t", start_ms=0, end_ms=number * KEEP_MS))
    r.leg._recogniser.finals = 4
    r.leg.receive(Frame(Kind.RESULT_ACK, 5, 2))
    assert [r.leg.has_finals_from(number) for number in range(4)] == [False, False, True, True]


def test_under_the_policy_edge_a_final_counts_once_and_audio_is_refused() -> None:
    r = Rig("edge")
    for number in (0, 0, 2, 1):
        payload = Result(text=f"t{number}", start_ms=0, end_ms=1).pack()
        r.leg.receive(Frame(Kind.RESULT, 5, number, payload))
    assert r.finals == [(0, "t0"), (1, "t1")]
    assert r.last(Kind.RESULT_ACK).offset == 2
    with pytest.raises(FrameError, match="policy edge"):
        r.audio(0, bytes(160))
    r.leg.receive(Frame(Kind.CLOSE, 5, 0, Close().pack()))
    assert wire.body_of(r.last(Kind.CLOSE), Close).reason == "done"


def test_the_end_before_all_audio_is_here_asks_for_the_rest() -> None:
    r = Rig()
    r.audio(0, bytes(160))
    r.leg.receive(Frame(Kind.CLOSE, 5, 320, Close().pack()))
    assert r.last(Kind.NEED).offset == 160
    assert not r.leg._ring.is_ended


def test_a_fenced_node_is_told_and_hears_nothing_more() -> None:
    r = Rig()
    r.leg.fence("why")
    assert wire.body_of(r.last(Kind.CLOSE), Close) == Close(reason="fenced", text="why")
    count = len(r.said)
    r.leg.final(0, Result(text="t", start_ms=0, end_ms=1))
    assert len(r.said) == count
