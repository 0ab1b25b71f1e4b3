"""Readable text: capitals, full stops and digits where the model writes none, by rules.

Does: partials, finals and turns of a session, in order -> the same with readable text.
Does not know: sockets, engines, what a model can write (its caller says which rules are wanted).

Nothing that was said as stable or final is ever written otherwise later: a number that may go on
is kept out of the stable words, a capital depends on what came before only, and a full stop comes
with the final. Commas and names are left to models.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from server import numerals
from server.wire.messages import Final, Partial, Readable, ServerMessage, Turn, WordSpan

_ALWAYS = {"i": "I", "i'm": "I'm", "i've": "I've", "i'll": "I'll", "i'd": "I'd"}
_SUBJECTS = frozenset("i you we they he she it".split())
_AUXILIARIES = frozenset(
    "is are was were am does did can could will would shall should has isn't aren't doesn't "
    "didn't can't won't".split()
)
"""A sentence that begins with one of these ends with a question mark."""
_GOING_ON = frozenset("be been do have not to".split())
"""The same, but not in front of these: "should be fine", "will do", "has been a long day"."""
_ORDERS = frozenset("do don't had have may".split())
"""The same, but only in front of a subject: "don't worry", "had a nice day", "may first"."""
_TIMES = frozenset("when where".split())
"""The same, but only in front of such a verb: "when the war was over they came home"."""
_ASKING = frozenset("what who whom whose why which how".split())
"""The same, but not in front of a subject, or of "a": "what you need is sleep", "what a day".
"Which is fine" goes on with what was said before.
"""
_SENTENCE_CAUSES = ("endpoint", "finalize", "stop")
_MARKS = ".,?!;:"
MAX_TURN_WORDS = 5_000
"""Kept of one turn; a client may never end one."""


@dataclass(slots=True)
class _Channel:
    is_beginning: bool = True
    """Whether the next word begins a sentence."""
    raw: list[str] = field(default_factory=list)
    """Words of the turn's finals, as the model wrote them."""
    said: list[str] = field(default_factory=list)
    """The same, readable."""
    segment: int | None = None
    count: int = 0
    """Stable words of the open segment that are said."""


class Writer:
    """One session's text."""

    def __init__(self, rules: Readable) -> None:
        self._rules = rules
        self._channels: dict[int, _Channel] = {}

    def write(self, message: ServerMessage) -> ServerMessage:
        """Return a message with readable text; any that has none as it is."""
        match message:
            case Partial():
                return self._partial(message, self._of(message.channel))
            case Final():
                return self._final(message, self._of(message.channel))
            case Turn():
                return self._turn(message, self._of(message.channel))
            case _:
                return message

    def _of(self, channel: int) -> _Channel:
        return self._channels.setdefault(channel, _Channel())

    def _partial(self, message: Partial, channel: _Channel) -> Partial:
        words = message.text.split()
        stable = message.stable.split()
        kept = numerals.open_from(stable) if self._rules.numbers else len(stable)
        if channel.segment != message.id:
            channel.segment, channel.count = message.id, 0
        channel.count = kept = max(kept, channel.count)
        first = self._written(words[:kept], begins=channel.is_beginning)
        rest = self._written(words[kept:], begins=channel.is_beginning and not kept)
        settled = " ".join(first)
        return msgspec.structs.replace(message, stable=settled, text=" ".join([*first, *rest]))

    def _final(self, message: Final, channel: _Channel) -> Final:
        words = message.text.split()
        begins, is_over = channel.is_beginning, message.cause in _SENTENCE_CAUSES
        text = " ".join(self._sentence(words, begins=begins, is_over=is_over))
        spans = message.words
        if spans is not None and [span.w for span in spans] == words:
            spans = self._spans(spans, begins=begins, is_over=is_over)
        if words:
            channel.raw += words
            channel.said.append(text)
            channel.is_beginning = is_over
            if len(channel.raw) > MAX_TURN_WORDS:
                channel.raw, channel.said = [], []
        channel.segment, channel.count = None, 0
        return msgspec.structs.replace(message, text=text, words=spans)

    def _turn(self, message: Turn, channel: _Channel) -> Turn:
        text = message.text
        if text is not None:
            words, known = text.split(), len(channel.raw)
            rest = words[known:] if words[:known] == channel.raw else []
            more = self._sentence(rest, begins=channel.is_beginning, is_over=True)
            text = " ".join([*channel.said, *more])
        if message.event in ("start", "end"):
            channel.raw, channel.said = [], []
        return msgspec.structs.replace(message, text=text)

    # ---- words

    def _sentence(self, words: Sequence[str], *, begins: bool, is_over: bool) -> list[str]:
        found = self._written(words, begins=begins)
        if found and is_over:
            found[-1] += self._stop(words, begins=begins)
        return found

    def _spans(
        self, spans: tuple[WordSpan, ...], *, begins: bool, is_over: bool
    ) -> tuple[WordSpan, ...]:
        words, found = [span.w for span in spans], list[WordSpan]()
        for text, begin, end in self._pieces(words, begins=begins):
            chances = [span.c for span in spans[begin:end] if span.c is not None]
            found.append(
                WordSpan(
                    w=text,
                    s=spans[begin].s,
                    e=spans[end - 1].e,
                    c=min(chances) if chances else None,
                )
            )
        if found and is_over:
            mark = self._stop(words, begins=begins)
            found[-1] = msgspec.structs.replace(found[-1], w=found[-1].w + mark)
        return tuple(found)

    def _stop(self, words: Sequence[str], *, begins: bool) -> str:
        """Return the mark behind a sentence; none where the model wrote one."""
        if not self._rules.punctuation or words[-1][-1] in _MARKS:
            return ""
        return "?" if begins and _asks(words) else "."

    def _written(self, words: Sequence[str], *, begins: bool) -> list[str]:
        return [text for text, _, _ in self._pieces(words, begins=begins)]

    def _pieces(self, words: Sequence[str], *, begins: bool) -> list[tuple[str, int, int]]:
        """Return what is written, each with the words it stands for (from, to)."""
        found, at = list[tuple[str, int, int]](), 0
        while at < len(words):
            run = numerals.run_at(words, at) if self._rules.numbers else at
            parts = numerals.parts(words[at:run]) if run > at else [(words[at], 1)]
            for text, count in parts:
                found.append((text, at, at + count))
                at += count
        if self._rules.capitals:
            return [(_capital(text, begins=begins and not n), n, to) for text, n, to in found]
        return found


def _asks(words: Sequence[str]) -> bool:
    first, second = (*(word.lower() for word in words[:2]), "")[:2]
    if first in _ORDERS:
        return second in _SUBJECTS
    if first in _TIMES:
        return not second or second in _AUXILIARIES | _ORDERS
    if first == "which" and second in _AUXILIARIES | {"means"}:
        return False
    if first in _ASKING:
        return second not in _SUBJECTS | {"a", "an"}
    if first in _AUXILIARIES:
        return second not in _GOING_ON
    return first.endswith("'s") and first[:-2] in _ASKING | _TIMES


def _capital(word: str, *, begins: bool) -> str:
    word = _ALWAYS.get(word, word)
    return word[:1].upper() + word[1:] if begins else word
