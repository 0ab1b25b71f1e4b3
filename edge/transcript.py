"""The words of one leg as its listeners see them: finals of the authority, provisional ones behind.

Does: take finals by number, each once; keep provisional text of a cut and replace it by offset
range when the authority's finals arrive.
Does not know: who recognised, links, audio. One authority per session: provisional text never
becomes final by itself.
"""

from dataclasses import dataclass, field

from edge.wire import Result


@dataclass(slots=True)
class Transcript:
    """Finals [0, n), then provisional text that begins behind them, then the open text."""

    first: int = 0
    """Number of the first final here: a session that moved has others elsewhere."""
    finals: list[Result] = field(default_factory=list)
    provisional: list[Result] = field(default_factory=list)
    partial: Result | None = None

    @property
    def next_number(self) -> int:
        """The number that the next final must have."""
        return self.first + len(self.finals)

    @property
    def covered_ms(self) -> int:
        """Where the authority's words end."""
        return max((final.end_ms for final in self.finals), default=0)

    def final(self, number: int, result: Result) -> bool:
        """Take a final of the authority. False: we have it already, or one is missing before it."""
        if number != self.next_number:
            return False
        self.finals.append(result)
        self.partial = None
        self._replace(result.end_ms)
        return True

    def provisionally(self, result: Result) -> bool:
        """Take local text of a cut; what the authority has covered since is left out."""
        rest = _after(result, self.covered_ms)
        if rest is None or (self.provisional and rest.start_ms < self.provisional[-1].end_ms):
            return False
        self.provisional.append(rest)
        return True

    def settle(self) -> None:
        """All is final: nothing provisional stays."""
        self.provisional.clear()
        self.partial = None

    def text(self) -> str:
        """Return everything, in the order of speech."""
        shown = [*self.finals, *self.provisional]
        if self.partial and (not shown or self.partial.start_ms >= shown[-1].end_ms):
            shown.append(self.partial)
        return " ".join(result.text for result in shown if result.text)

    def final_text(self) -> str:
        """Return the authority's words only."""
        return " ".join(result.text for result in self.finals if result.text)

    def _replace(self, covered_ms: int) -> None:
        cut = (_after(result, covered_ms) for result in self.provisional)
        self.provisional = [result for result in cut if result is not None]


def _after(result: Result, covered_ms: int) -> Result | None:
    """Return what of a result lies behind a time: whole words only; None: nothing does."""
    if result.start_ms >= covered_ms:
        return result
    words = tuple(word for word in result.words if word.start_ms >= covered_ms)
    if not words:
        return None
    return Result(
        text=" ".join(word.text for word in words),
        start_ms=words[0].start_ms,
        end_ms=max(result.end_ms, words[-1].end_ms),
        words=words,
    )
