"""Who has the floor, with runs that are only noted down."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from unittest.mock import AsyncMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.turntaking import Ears, TurnTaking
from server.wire.messages import Final, Partial, Turn, TurnEvent


@dataclass
class FakeRun:
    """A run that says what became of it."""

    text: str
    is_over: bool = False
    is_released: bool = False
    is_cancelled: bool = False

    def release(self) -> None:
        assert not self.is_cancelled
        self.is_released = True

    async def cancel(self) -> None:
        assert not self.is_over
        self.is_cancelled = self.is_over = True

    async def wait(self) -> None:
        self.is_over = True


@dataclass
class Room:
    """A screen and a launcher that remember."""

    runs: list[FakeRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)

    def partial(self, name: str, text: str) -> None:
        self.lines.append((name, text))

    def final(self, name: str, text: str) -> None:
        self.lines.append((name, text))

    def note(self, text: str) -> None:
        self.notes.append(text)

    async def launch(self, text: str) -> FakeRun:
        self.runs.append(FakeRun(text))
        return self.runs[-1]


class Clock:
    """A clock that is set by hand."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def turn(event: TurnEvent, text: str | None = None, *, number: int = 0) -> Turn:
    return Turn(event=event, turn=number, channel=0, at_ms=0, text=text)


def said(text: str) -> Final:
    return Final(id=0, channel=0, text=text, start_ms=900, end_ms=1_200, cause="endpoint", words=())


def taking(room: Room, clock: Clock | None = None) -> TurnTaking:
    ears = Ears(clock or Clock(), 16_000)
    ears.zero_s = 100.0
    return TurnTaking(room.launch, room, ears)


async def feed(floor: TurnTaking, *messages: Turn | Final | Partial) -> None:
    for message in messages:
        await floor.hear(message)
        await asyncio.sleep(0)  # who is told to end hears it


async def test_a_turn_without_an_eager_end_runs_the_command_once() -> None:
    room = Room()
    floor = taking(room)
    await feed(floor, turn("start"), turn("end", "turn on the light"))
    assert [(run.text, run.is_released) for run in room.runs] == [("turn on the light", True)]


async def test_an_eager_end_starts_the_command_and_the_end_releases_that_very_run() -> None:
    room = Room()
    floor = taking(room)
    await feed(floor, turn("start"), turn("eager_end", "yes"))
    assert [(run.text, run.is_released) for run in room.runs] == [("yes", False)]
    await feed(floor, turn("end", "yes"))
    assert [(run.text, run.is_released) for run in room.runs] == [("yes", True)]
    assert floor.acted[0].is_eager


async def test_a_resumed_turn_cancels_the_run_begun_ahead_and_nothing_of_it_is_shown() -> None:
    room = Room()
    floor = taking(room)
    await feed(floor, turn("start"), turn("eager_end", "turn on"), turn("resumed"))
    await feed(floor, turn("end", "turn on the light"))
    assert [(run.text, run.is_cancelled) for run in room.runs] == [
        ("turn on", True),
        ("turn on the light", False),
    ]
    assert not room.runs[0].is_released
    assert floor.cancelled == 1


async def test_an_end_with_other_words_than_its_eager_end_runs_the_command_anew() -> None:
    room = Room()
    floor = taking(room)
    await feed(floor, turn("start"), turn("eager_end", "turn on"), turn("end", "turn off"))
    assert [(run.text, run.is_released) for run in room.runs] == [
        ("turn on", False),
        ("turn off", True),
    ]


async def test_speech_over_an_answer_ends_it_and_says_so() -> None:
    room = Room()
    floor = taking(room)
    await feed(floor, turn("start"), turn("end", "tell me a story"), turn("start", number=1))
    assert room.runs[0].is_cancelled
    assert floor.barge_ins == 1
    assert any("barge-in" in note for note in room.notes)


async def test_captions_and_the_next_turn_go_on_while_an_answer_will_not_end() -> None:
    room = Room()
    floor, may_end = taking(room), asyncio.Event()

    class Stubborn(FakeRun):
        async def cancel(self) -> None:
            await may_end.wait()
            await super().cancel()

    stubborn = Stubborn("tell me a story")
    room.runs.append(stubborn)
    floor._launch = AsyncMock(side_effect=[stubborn, FakeRun("stop")])
    async with asyncio.timeout(5):
        await feed(floor, turn("start"), turn("end", "tell me a story"), turn("start", number=1))
        await feed(floor, said("stop"), turn("end", "stop", number=1))
        assert ("you", "stop") in room.lines
        assert [acted.text for acted in floor.acted] == ["tell me a story", "stop"]
        finishing = asyncio.create_task(floor.finish())
        await asyncio.sleep(0)
        assert not finishing.done()
        may_end.set()
        await finishing
    assert stubborn.is_cancelled


async def test_an_answer_that_is_over_is_no_barge_in() -> None:
    room = Room()
    floor = taking(room)
    await feed(floor, turn("start"), turn("end", "yes"))
    room.runs[0].is_over = True
    await feed(floor, turn("start", number=1))
    assert floor.barge_ins == 0
    assert not room.runs[0].is_cancelled


async def test_a_turn_without_words_runs_nothing() -> None:
    room = Room()
    await feed(taking(room), turn("start"), turn("end", " "))
    assert room.runs == []


async def test_times_count_from_the_end_of_the_last_word() -> None:
    room, clock = Room(), Clock()
    floor = taking(room, clock)
    clock.now_s = 101.4
    await feed(floor, turn("start"), turn("eager_end", "yes"))
    clock.now_s = 101.8
    await feed(floor, said("yes"), turn("end", "yes"))
    (acted,) = floor.acted
    assert (acted.started_ms, acted.acted_ms) == (200, 600)


async def test_audio_began_when_its_least_late_packet_says() -> None:
    clock = Clock()
    ears = Ears(clock, 16_000)

    async def packets() -> AsyncIterator[bytes]:
        for now_s in (100.30, 100.41, 100.55):
            clock.now_s = now_s
            yield bytes(2 * 1_600)

    assert [len(packet) async for packet in ears.listen(packets())] == [3_200] * 3
    assert ears.zero_s == pytest.approx(100.2)


# ---- every legal course of turns

ENDS = st.sampled_from(["", "yes", "turn on the light"])
COURSES = st.lists(st.tuples(st.lists(st.tuples(ENDS, st.booleans()), max_size=3), ENDS))


@given(COURSES, st.data())
def test_whatever_happens_each_turn_with_words_is_answered_once_with_its_own_words(
    course: list[tuple[list[tuple[str, bool]], str]], data: st.DataObject
) -> None:
    room = Room()
    floor = taking(room)

    async def play() -> list[str]:
        expected = []
        for number, (eagers, text) in enumerate(course):
            await feed(floor, turn("start", number=number))
            final = text
            for eager, is_last in eagers:
                await feed(floor, turn("eager_end", eager, number=number))
                if is_last:  # the end follows without a word between: it says the same
                    final = eager
                    break
                await feed(floor, turn("resumed", number=number))
            await feed(floor, turn("end", final, number=number))
            alive = [run for run in room.runs if not run.is_over]
            assert [run.text for run in alive] == ([final] if final else [])
            if final:
                expected.append(final)
            if data.draw(st.booleans()):
                for run in alive:
                    run.is_over = True
        await floor.finish()
        return expected

    expected = asyncio.run(play())
    assert [run.text for run in room.runs if run.is_released] == expected
    assert all(run.is_over for run in room.runs)
