"""Tokens become words; words that a final has published are never said twice.

Does: words with times and confidence, the stable prefix, the seam after a forked final.
Does not know: engines, turns, sessions, clocks (the caller says what ms a frame is).

The seam. A finalize copies the stream, flushes the copy and publishes what the copy says up to
frame ``cut``. The live stream then decodes the last frames again, with more context, and may say
the published words again: a little later, spelled otherwise, or in one piece where the copy had
two. So for a short while after a cut each live word is compared with the published words that the
live stream has not yet said (``_Seam.expected``); a word that has such a counterpart is dropped,
any other is kept. A word begun before the cut and published belongs to its final to its end.

The mark of a word's start may be a piece of its own. It is no word before a letter follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter

from asr.events import Word
from asr.interface import Token
from asr.state import State
from asr.tokenizer import (
    UNKNOWN,
    UNKNOWN_SIGN,
    WORD_START,
    Tokenizer,
    is_unspoken,
    with_characters,
)
from asr.unfinished import ends_no_sentence

_SEAM_FRAMES = 10
"""Frames after a cut (800 ms) in which live words may still repeat published ones."""
_SAME_WORD_FRAMES = 3
"""Unlike texts this close in time are two spellings of one word."""
_SETTLED_FRAMES = 4
"""A doubtful word is judged when this many frames brought no more of it."""
_MAX_WORD_TOKENS = 64
"""A model that never starts a word must not build one without end."""


@dataclass(slots=True, repr=False)
class _Growing:
    """A word as it grows; its frames are the engine's, its times the channel's."""

    text: str
    first_frame: int
    last_frame: int
    start_ms: int
    end_ms: int
    confidence: float
    tokens: int = 1

    @property
    def shown(self) -> str:
        """The word as people see it: ``text`` may hold characters as bytes, the last still few."""
        return with_characters(self.text)

    @property
    def key(self) -> str:
        """The word for comparison: case and punctuation may change with context."""
        return "".join(c for c in self.shown.casefold() if c.isalnum()) or self.shown

    def takes(self, piece: str) -> bool:
        """Whether a piece that starts no word is of this one."""
        is_apart = self.text != "" and UNKNOWN_SIGN in (self.text, piece)
        return self.tokens < _MAX_WORD_TOKENS and not is_apart

    def extend(self, piece: str, token: Token, end_ms: int) -> None:
        self.text += piece
        self.last_frame = token.frame
        self.end_ms = max(self.end_ms, end_ms)
        self.confidence = min(self.confidence, token.confidence)
        self.tokens += 1

    def frozen(self) -> Word:
        return Word(self.shown, self.start_ms, self.end_ms, self.confidence)


_row = attrgetter(*(part.name for part in fields(_Growing)))
"""A growing word as a tuple; ``astuple`` takes far longer."""


@dataclass(slots=True, repr=False)
class _Seam:
    cut: int
    expected: list[_Growing]
    """Published words that the live stream has not said yet, in order."""
    said: list[_Growing] = field(default_factory=list)
    """Published words that it has said since."""

    def doubts(self, frame: int) -> bool:
        """Whether a live word that starts here may have been published."""
        return frame < self.cut or (bool(self.expected) and frame < self.cut + _SEAM_FRAMES)

    def claims(self, word: _Growing) -> bool:
        """Whether the word was published; its counterpart is then used up."""
        for is_same in (_is_said_again, _is_respelled):
            for index, other in enumerate(self.expected):
                if is_same(word, other):
                    self.said += self.expected[: index + 1]
                    del self.expected[: index + 1]
                    return True
        # "can not" after a published "cannot": inside the time of a word already matched
        return word.first_frame < self.cut and any(
            other.first_frame < word.first_frame <= other.last_frame for other in self.said
        )


def _is_said_again(live: _Growing, published: _Growing) -> bool:
    if abs(live.first_frame - published.first_frame) > _SEAM_FRAMES:
        return False
    short, long = sorted((live.key, published.key), key=len)
    return short == long or (len(short) > 1 and long.startswith(short))


def _is_respelled(live: _Growing, published: _Growing) -> bool:
    return abs(live.first_frame - published.first_frame) <= _SAME_WORD_FRAMES


class Transcript:
    """The unpublished words of one stream. Published words are forgotten."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words: list[_Growing] = []
        self._open: _Growing | None = None
        """The word that may still grow: the last of ``_words``, or hidden (see ``_show``)."""
        self._is_hidden = False
        self._swallow_until: int | None = None
        """Pieces up to this frame continue a published word."""
        self._seam: _Seam | None = None
        self._published_ms = 0

    def __repr__(self) -> str:
        return f"Transcript({len(self._words)} words)"

    @property
    def words(self) -> tuple[Word, ...]:
        """All unpublished words, the growing one included."""
        return tuple(word.frozen() for word in self._words)

    @property
    def has_words(self) -> bool:
        """Whether there is unpublished text."""
        return bool(self._words)

    @property
    def start_ms(self) -> int:
        """Start of the first unpublished word."""
        return self._words[0].start_ms

    @property
    def end_ms(self) -> int:
        """End of the last unpublished word."""
        return self._words[-1].end_ms

    @property
    def text(self) -> str:
        """The unpublished words."""
        return " ".join(word.shown for word in self._words)

    @property
    def is_unfinished(self) -> bool:
        """Whether the last word is one that ends no sentence."""
        return bool(self._words) and ends_no_sentence(self._words[-1].shown)

    @property
    def stable(self) -> int:
        """How many of the words can only be published as they are."""
        return len(self._words) - (self._open is not None and not self._is_hidden)

    def add(self, token: Token, start_ms: int, end_ms: int) -> bool:
        """Take a token, in order; ``start_ms``..``end_ms`` is its frame. True: the text changed."""
        piece = self._tokenizer.pieces[token.id]
        if is_unspoken(piece):
            return False
        if piece == UNKNOWN:
            piece = UNKNOWN_SIGN
        if not piece.startswith(WORD_START):
            if self._open is not None and self._open.takes(piece):
                is_begun = bool(self._open.text)
                self._open.extend(piece, token, end_ms)
                return not self._is_hidden if is_begun else self._show()
            if self._swallow_until is not None and token.frame < self._swallow_until:
                return False
        return self._begin(piece.removeprefix(WORD_START), token, start_ms, end_ms)

    def settle(self, frame: int | None = None) -> bool:
        """Judge a word in doubt: at once, or when ``frame`` says that it is old enough.

        True: the text changed.
        """
        word = self._open
        if word is None or not self._is_hidden:
            return False
        if not word.text and frame is None:
            self._open, self._is_hidden = None, False
        if not word.text or self._seam is None:
            return False
        if frame is not None and frame < word.last_frame + _SETTLED_FRAMES:
            return False
        self._is_hidden = False
        if self._seam.claims(word):
            self._open = None
            self._swallow_until = word.last_frame + _SEAM_FRAMES
            return False
        self._words.append(word)
        return True

    def publish(self, count: int | None = None) -> tuple[Word, ...]:
        """Take out the first ``count`` words (None: all, the growing one included)."""
        if count is None:
            self.settle()
        count = len(self._words) if count is None else count
        taken, self._words = self._words[:count], self._words[count:]
        if not self._words and not self._is_hidden:
            self._open = None  # whatever follows is a new word
            self._swallow_until = None
        if taken:
            self._published_ms = max(self._published_ms, taken[-1].end_ms)
        return tuple(word.frozen() for word in taken)

    def fork(self) -> "Transcript":
        """Return a copy that goes its own way, for a forked stream."""
        other = Transcript(self._tokenizer)
        other._words = [replace(word) for word in self._words]
        other._is_hidden = self._is_hidden
        if self._open is not None:
            other._open = replace(self._open) if self._is_hidden else other._words[-1]
        other._swallow_until = self._swallow_until
        if self._seam is not None:
            seam = self._seam
            other._seam = _Seam(seam.cut, list(seam.expected), list(seam.said))
        other._published_ms = self._published_ms
        return other

    def state(self) -> State:
        """All that it is."""
        seam = self._seam
        return {
            "words": [_row(word) for word in self._words],
            "open": _row(self._open) if self._open is not None and self._is_hidden else None,
            "is_open": self._open is not None,
            "is_hidden": self._is_hidden,
            "swallow": self._swallow_until,
            "seam": None
            if seam is None
            else [seam.cut, *([_row(w) for w in words] for words in (seam.expected, seam.said))],
            "published": self._published_ms,
        }

    def restore(self, state: State) -> None:
        """Take up what ``state`` gave."""
        self._words = [_Growing(*word) for word in state["words"]]
        self._is_hidden, self._open = state["is_hidden"], None
        if state["is_open"]:
            self._open = _Growing(*state["open"]) if self._is_hidden else self._words[-1]
        self._swallow_until, self._published_ms = state["swallow"], state["published"]
        self._seam = None
        if state["seam"] is not None:
            cut, expected, said = state["seam"]
            self._seam = _Seam(cut, [_Growing(*w) for w in expected], [_Growing(*w) for w in said])

    def publish_fork(self, fork: "Transcript", cut: int) -> tuple[Word, ...]:
        """Publish all words of a ``fork`` of this transcript; its stream ended at frame ``cut``."""
        fork.settle()
        published, known = fork._words, len(self._words)  # noqa: SLF001 - our own kind
        expected = list(published[known:])
        if self._open is not None:  # its rest is the fork's: published, or judged a repetition
            first, is_begun = self._open.first_frame, bool(self._open.text)
            if self._is_hidden and expected and expected[0].first_frame == first:
                is_begun = True
                del expected[0]
            elif self._is_hidden and is_begun and self._seam is not None:
                self._seam.claims(self._open)  # as the fork found: an older final has it
            if is_begun:
                self._swallow_until = cut + _SEAM_FRAMES
        left = list(self._seam.expected) if self._seam is not None else []
        self._seam = _Seam(cut, left + expected, list(published[-4:]))
        self._words, self._open, self._is_hidden = [], None, False
        if published:
            self._published_ms = max(self._published_ms, published[-1].end_ms)
        return tuple(word.frozen() for word in published)

    def _begin(self, text: str, token: Token, start_ms: int, end_ms: int) -> bool:
        changed = self.settle()
        self._swallow_until = None
        start_ms = max(start_ms, self._published_ms)
        end_ms = max(start_ms, end_ms)
        word = _Growing(text, token.frame, token.frame, start_ms, end_ms, token.confidence)
        self._open, self._is_hidden = word, True
        return self._show() or changed

    def _show(self) -> bool:
        """Let the open word be seen, unless it is in doubt or has no letter yet."""
        word = self._open
        if word is None or not word.text or self._is_doubtful(word.first_frame):
            return False
        self._is_hidden = False
        self._words.append(word)
        return True

    def _is_doubtful(self, frame: int) -> bool:
        if self._seam is None:
            return False
        if frame >= self._seam.cut + _SEAM_FRAMES:
            self._seam = None
            return False
        return self._seam.doubts(frame)


def earlier(words: Sequence[Word], by_ms: int) -> tuple[Word, ...]:
    """Move words back in time; none begins before 0."""
    return tuple(
        replace(w, start_ms=max(0, w.start_ms - by_ms), end_ms=max(0, w.end_ms - by_ms))
        for w in words
    )


def text_of(words: Sequence[Word]) -> str:
    """Join the words with spaces."""
    return " ".join(word.text for word in words)


def confidence_of(words: Sequence[Word]) -> float:
    """Mean confidence of the words; 1.0 of none."""
    return sum(word.confidence for word in words) / len(words) if words else 1.0
