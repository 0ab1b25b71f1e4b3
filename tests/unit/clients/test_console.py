"""Captions on a terminal: a small model of a screen replays what was written."""

import io
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.console import (
    CaptionScreen,
    ProgressBar,
    can_redraw,
    columns_of,
    fit,
    table,
    wrap,
)

STYLE = re.compile(r"\x1b\[[0-9;]*m")
MOVES = re.compile(r"\x1b\[A|\x1b\[K|\r|\n|[^\x1b\r\n]+")
TEXTS = st.text(st.sampled_from("abc  déñ日本\u0301"), max_size=60)


class Screen:
    """Rows of an endless terminal of ``width`` columns; a row that is too long fails."""

    def __init__(self, width: int) -> None:
        self.rows, self.at, self.width = [""], 0, width
        self.highest_touched = 0

    def write(self, text: str) -> None:
        self.highest_touched = self.at
        for move in MOVES.findall(STYLE.sub("", text)):
            if move == "\n":
                self.at += 1
                if self.at == len(self.rows):
                    self.rows.append("")
            elif move == "\x1b[A":
                assert self.at > 0, "above the first row"
                self.at -= 1
                self.highest_touched = min(self.highest_touched, self.at)
            elif move == "\x1b[K":
                self.rows[self.at] = ""
            elif move != "\r":
                self.rows[self.at] += move
                assert columns_of(self.rows[self.at]) <= self.width, "the terminal would wrap"


class Terminal(io.StringIO):
    """Feeds a Screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.screen = screen

    def write(self, text: str) -> int:
        self.screen.write(text)
        return len(text)


@given(
    st.integers(10, 120),
    st.lists(st.tuples(st.sampled_from(["", "left", "right"]), st.booleans(), TEXTS), max_size=25),
)
def test_finals_are_never_touched_again_and_nothing_is_left_of_tails(
    width: int, events: list[tuple[str, bool, str]]
) -> None:
    screen = Screen(width)
    captions = CaptionScreen(Terminal(screen), io.StringIO(), is_terminal=True, width=width)
    solid: list[str] = []
    for name, is_final, text in events:
        screen.highest_touched = screen.at
        if is_final:
            captions.final(name, text)
        else:
            captions.partial(name, text)
        assert screen.highest_touched >= len(solid), "a final was redrawn"
        assert screen.rows[: len(solid)] == solid
        if is_final:
            tails = captions._rows_drawn
            solid = screen.rows[: screen.at - max(0, tails - 1)]
    captions.close()
    assert screen.rows[: len(solid)] == solid
    assert not any(screen.rows[len(solid) :])
    shown = "".join("".join(solid).split())
    for name, is_final, text in events:
        if is_final and text.split():
            assert "".join(text.split()) in shown or name


def test_a_tail_grows_in_place_and_becomes_a_final() -> None:
    screen = Screen(20)
    captions = CaptionScreen(Terminal(screen), io.StringIO(), is_terminal=True, width=20)
    captions.partial("", "turn on")
    captions.partial("", "turn on the kitchen lights")
    assert screen.rows == ["turn on the kitchen", "lights"]
    captions.final("", "Turn on the kitchen lights.")
    assert screen.rows == ["Turn on the kitchen", "lights.", ""]


def test_a_tail_is_dim_and_italic_and_a_final_is_not() -> None:
    out = io.StringIO()
    captions = CaptionScreen(out, io.StringIO(), is_terminal=True, width=40)
    captions.partial("", "tail")
    assert "\x1b[2;3mtail\x1b[0m" in out.getvalue()
    captions.final("", "solid")
    assert "\x1b[2;3msolid" not in out.getvalue()


def test_without_a_terminal_finals_and_tails_go_to_different_streams() -> None:
    finals, tails = io.StringIO(), io.StringIO()
    captions = CaptionScreen(finals, tails, is_terminal=False)
    captions.partial("left", "turn on")
    captions.final("left", "turn on the light")
    captions.final("right", "")
    captions.close()
    assert finals.getvalue() == "left: turn on the light\n"
    assert tails.getvalue() == "left: turn on\n"


def test_text_from_the_server_cannot_drive_the_terminal() -> None:
    out = io.StringIO()
    captions = CaptionScreen(out, io.StringIO(), is_terminal=True, width=40)
    captions.final("", "a\x1b[2Jb\x9b31mc\rd")
    assert "\x1b[2J" not in out.getvalue()
    assert "\x9b" not in out.getvalue()


@given(TEXTS, st.integers(2, 40))
def test_wrapping_keeps_all_and_fits(text: str, columns: int) -> None:
    rows = wrap(text, columns)
    assert "".join("".join(rows).split()) == "".join(text.split())
    assert all(columns_of(row) <= columns for row in rows)


@given(TEXTS, st.integers(1, 40))
def test_fit_takes_exactly_the_columns(text: str, columns: int) -> None:
    assert columns_of(fit(text, columns)) == columns


def test_a_table_is_cut_to_the_width() -> None:
    text = table(("name", "words"), [("a", "x " * 100), ("b", "y")], width=30, flexible=1)
    assert max(map(len, text.splitlines())) <= 30
    assert text.splitlines()[2].endswith("…")


@pytest.mark.parametrize(("kind", "expected"), [("xterm", True), ("dumb", False)])
def test_a_terminal_without_a_cursor_is_not_drawn_on(
    kind: str,
    expected: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", kind)
    ours, theirs = os.openpty()
    with open(theirs, "w") as terminal:  # noqa: PTH123 - a descriptor
        assert can_redraw(terminal) is expected
    os.close(ours)
    assert not can_redraw(io.StringIO())


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_drawn_on_terminals_only(is_terminal: bool) -> None:  # noqa: FBT001
    out = io.StringIO()
    bar = ProgressBar(out, "work", 10.0, is_terminal)
    bar.update(5.0)
    bar.close()
    assert ("50%" in out.getvalue()) is is_terminal
