"""Finals under the names of their voices."""

from collections.abc import AsyncIterator, Sequence

import pytest

from clients.live import Heard
from clients.voices import Voices, parted
from server.wire.messages import Final, WordSpan


class Told:
    """A listener that says what it was told to (Listener)."""

    def __init__(self, *runs: tuple[int, int | None]) -> None:
        self.runs, self.heard = list(runs), b""
        self.asked = list[Sequence[tuple[int, int]]]()

    def hear(self, pcm: bytes) -> None:
        self.heard += pcm

    def label(self, words: Sequence[tuple[int, int]]) -> list[tuple[int, int | None]]:
        self.asked.append(words)
        return self.runs


class Screen:
    """Keeps the lines (Captions)."""

    def __init__(self) -> None:
        self.lines = list[tuple[str, str]]()

    def partial(self, name: str, text: str) -> None:
        self.lines.append((f"{name}?", text))

    def final(self, name: str, text: str) -> None:
        self.lines.append((name, text))


def final(text: str, *words: str) -> Final:
    spans = tuple(WordSpan(w=w, s=500 * n, e=500 * n + 400, c=1.0) for n, w in enumerate(words))
    return Final(
        id=0, channel=0, text=text, start_ms=0, end_ms=500 * len(words), cause="endpoint",
        words=spans or None,
    )  # fmt: skip


def test_a_final_of_two_voices_is_two_segments_with_their_words_and_times() -> None:
    found = parted(final("Hello you. Yes", "hello", "you", "yes"), Told((2, 0), (1, 1)), "talk")
    assert [(s.speaker, s.text, s.start_ms, s.end_ms) for s in found] == [
        ("talk 1", "Hello you.", 0, 900),
        ("talk 2", "Yes", 1_000, 1_500),
    ]
    assert [[word.text for word in s.words] for s in found] == [["hello", "you"], ["yes"]]


def test_text_with_other_words_than_the_times_stays_whole_under_most_of_its_voice() -> None:
    found = parted(final("23 yes no", "twenty", "three", "yes", "no"), Told((1, 0), (3, 1)), "talk")
    assert [(s.speaker, s.text) for s in found] == [("talk 2", "23 yes no")]


@pytest.mark.parametrize(("label", "name"), [(None, "talk"), (0, "talk 1"), (4, "talk 5")])
def test_a_voice_is_numbered_from_one_and_nobody_keeps_the_plain_name(
    label: int | None, name: str
) -> None:
    (segment,) = parted(final("yes"), Told((1, label)), "talk")
    assert segment.speaker == name


def test_a_final_without_word_times_is_asked_for_as_a_whole() -> None:
    told = Told((1, 0))
    parted(final("yes"), told, "talk")
    assert told.asked == [[(0, 0)]]


def test_the_open_text_ends_before_the_names_are_shown() -> None:
    screen, heard = Screen(), Heard()
    voices = Voices(Told((1, 0), (1, 1)), heard, screen)
    voices.partial("talk", "yes n")
    heard.finals.append(final("yes no", "yes", "no"))
    voices.final("talk", "yes no")
    assert screen.lines == [("talk?", "yes n"), ("talk", ""), ("talk 1", "yes"), ("talk 2", "no")]
    assert [segment.text for segment in voices.segments] == ["yes", "no"]


async def test_packets_are_heard_before_they_are_sent() -> None:
    async def packets() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"cd"

    told = Told()
    heard = [
        (packet, told.heard) async for packet in Voices(told, Heard(), Screen()).overhear(packets())
    ]
    assert heard == [(b"ab", b"ab"), (b"cd", b"abcd")]
