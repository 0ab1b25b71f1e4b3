"""Frames survive any cut; what cannot be read is a broken peer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.events import Final, Partial, Progress, Word
from server.worker import link

COMMANDS: list[link.Command] = [
    link.Open(1, "mulaw", 8_000, 2, 6, "en", link.Turns(eager_ms=200), "all", True),
    link.Open(2, "alaw", 8_000, 1, 6, None, link.Turns(), "all", False, (("hé", 2.5),)),
    link.Audio(1, b"\x00\x01" * 100, 1.5),
    link.Gap(1, 80),
    link.Configure(1, None, "none"),
    link.Configure(2, None, None, ()),
    link.Finalize(1, "7"),
    link.Stop(1),
    link.Drop(1),
    link.Quit(),
]


@given(st.lists(st.integers(1, 60), min_size=1))
def test_commands_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    data, reader, found = b"".join(map(link.frame, COMMANDS)), link.CommandReader(), []
    position = 0
    while position < len(data):
        size = cuts[position % len(cuts)]
        found += reader.feed(data[position : position + size])
        position += size
    assert found == COMMANDS


def test_events_come_back_as_they_were() -> None:
    word = Word("hé", 0, 80, 0.5)
    for event in (
        Final(0, "hé", 0, 80, 0.5, "stop", (word,)),
        Partial(0, 1, "a", "a b", 0, 80),
        Progress(16_000),
    ):
        step = link.Step((link.happened(3, 1, event),), 1, 2, 0.5, 3, 4)
        (report,) = link.ReportReader().feed(link.frame(step))
        assert isinstance(report, link.Step)
        assert link.event_of(report.events[0]) == event


@pytest.mark.parametrize(
    "data", [b"\x00\x00\x00\x01\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"]
)
def test_a_frame_that_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(link.LinkError):
        link.CommandReader().feed(data)
    with pytest.raises(link.LinkError):
        link.ReportReader().feed(data)


def test_an_unknown_event_is_refused() -> None:
    good = link.happened(0, 0, Progress(1))
    with pytest.raises(link.LinkError):
        link.event_of(link.Happened(0, 0, 99, good.body))
