"""Live captions and tables on a terminal, append-only: what has scrolled up is never touched again.

Does: finals as solid lines, the open tails below them dim and italic, wrapped to the width of the
terminal; progress bars; tables. Without a terminal finals go to one stream as plain lines and tails
to the other.
Does not know: servers, audio, transcripts beyond the text it is given.
"""

import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

DIM_ITALIC, BOLD, PLAIN = "\x1b[2;3m", "\x1b[1m", "\x1b[0m"
CLEAR_LINE, CURSOR_UP = "\r\x1b[K", "\x1b[A"
CAPTION_COLUMNS = 78
"""Captions read badly in very long lines; a wide terminal keeps its right side empty."""
TAIL_ROWS = 3
"""Rows of one open tail: its end is what people read."""
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream is a terminal that moves its cursor; that of an editor often does not."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def clean(text: str) -> str:
    """Text without control characters: what a server sends must not drive the terminal."""
    return " ".join(CONTROLS.sub(" ", text).split())


def columns_of(text: str) -> int:
    """Columns that text takes on a terminal (wide East Asian characters take two, marks none)."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def wrap(text: str, columns: int) -> list[str]:
    """Break text between words into rows of at most ``columns``; longer words are cut."""
    rows, row = list[str](), ""
    for word in text.split():
        if row and columns_of(row) + 1 + columns_of(word) <= columns:
            row = f"{row} {word}"
            continue
        if row:
            rows.append(row)
        *full, row = _cut_word(word, columns)
        rows += full
    return [*rows, row] if row else rows


def _cut_word(word: str, columns: int) -> list[str]:
    pieces, piece = list[str](), ""
    for character in word:
        if piece and columns_of(piece) + columns_of(character) > columns:
            pieces.append(piece)
            piece = ""
        piece += character
    return [*pieces, piece]


def fit(text: str, columns: int) -> str:
    """Text in exactly ``columns``: padded, or cut with an ellipsis."""
    if columns_of(text) <= columns:
        return text + " " * (columns - columns_of(text))
    kept = ""
    for character in text:
        if columns_of(kept) + columns_of(character) > columns - 1:
            break
        kept += character
    return kept + "…" + " " * (columns - 1 - columns_of(kept))


@dataclass
class CaptionScreen:
    """Draws finals and tails of any number of named channels.

    Finals are written once, above the tails; only the tails are erased and drawn again.
    """

    finals: TextIO
    tails: TextIO
    is_terminal: bool
    width: int | None = None
    """Columns; None asks the terminal at each drawing, so that a resized window is respected."""
    _tails: dict[str, str] = field(default_factory=dict)
    _rows_drawn: int = 0

    def partial(self, name: str, text: str) -> None:
        """Show ``text`` as the open tail of a channel."""
        text = clean(text)
        if self._tails.get(name, "") == text:
            return
        if self.is_terminal:
            self._tails[name] = text
            self._redraw([])
        else:
            self._tails[name] = text
            self._write(self.tails, f"{_prefix(name)}{text}\n")

    def final(self, name: str, text: str) -> None:
        """Write a finished segment of a channel: a line that stays."""
        text = clean(text)
        self._tails.pop(name, None)
        if self.is_terminal:
            self._redraw(self._rows(name, text) if text else [])
        elif text:
            self._write(self.finals, f"{_prefix(name)}{text}\n")

    def note(self, text: str) -> None:
        """Write a line that is no caption (a title, a lost connection)."""
        text = clean(text)
        if self.is_terminal:
            self._redraw([f"{BOLD}{text}{PLAIN}"])
        else:
            self._write(self.tails, f"{text}\n")

    def close(self) -> None:
        """Erase the tails and leave the cursor on a fresh line."""
        self._tails.clear()
        if self.is_terminal:
            self._redraw([])

    def _columns(self) -> int:
        width = self.width or shutil.get_terminal_size((80, 24)).columns
        return max(8, min(CAPTION_COLUMNS, width - 1))

    def _rows(self, name: str, text: str) -> list[str]:
        prefix = _prefix(name)
        indent = min(columns_of(prefix), self._columns() // 2)
        rows = wrap(text, self._columns() - indent)
        return [
            f"{fit(prefix, indent) if i == 0 else ' ' * indent}{row}" for i, row in enumerate(rows)
        ]

    def _redraw(self, solid: Iterable[str]) -> None:
        out = [CLEAR_LINE + (CURSOR_UP + CLEAR_LINE) * (self._rows_drawn - 1)]
        out += [f"{row}\n" for row in solid]
        open_rows = list[str]()
        for name, text in self._tails.items():
            open_rows += self._rows(name, text)[-TAIL_ROWS:]
        # The last row carries no newline: an erased tail leaves no empty line behind.
        out.append("\n".join(f"{DIM_ITALIC}{row}{PLAIN}" for row in open_rows))
        self._rows_drawn = len(open_rows)
        self._write(self.finals, "".join(out))

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()


def _prefix(name: str) -> str:
    return f"{name}: " if name else ""


@dataclass
class ProgressBar:
    """One row that fills, on a terminal; silent elsewhere."""

    stream: TextIO
    label: str
    total: float
    is_terminal: bool
    _last: str = ""

    def update(self, done: float) -> None:
        """Show that ``done`` of the total is finished."""
        share = min(1.0, max(0.0, done / self.total)) if self.total > 0 else 1.0
        filled = round(share * 30)
        row = f"{self.label} [{'#' * filled}{'-' * (30 - filled)}] {share:4.0%}"
        if self.is_terminal and row != self._last:
            self._last = row
            self.stream.write(CLEAR_LINE + row)
            self.stream.flush()

    def close(self) -> None:
        """Take the row away."""
        if self.is_terminal and self._last:
            self.stream.write(CLEAR_LINE)
            self.stream.flush()


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, flexible: int
) -> str:
    """Rows in columns; the ``flexible`` one is cut so that a row fits into ``width``."""
    cells = [list(header), *[[clean(c) for c in row] for row in rows]]
    sizes = [max(columns_of(row[i]) for row in cells) for i in range(len(header))]
    others = sum(s for i, s in enumerate(sizes) if i != flexible) + 2 * (len(sizes) - 1)
    sizes[flexible] = max(8, min(sizes[flexible], width - others))
    lines = [
        "  ".join(fit(c, s) for c, s in zip(row, sizes, strict=True)).rstrip() for row in cells
    ]
    rule = "  ".join("-" * s for s in sizes)
    return "\n".join([lines[0], rule, *lines[1:]])
