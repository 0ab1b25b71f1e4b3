"""What became of the samples of a run: rows of the table, figures, which of them failed.

Does: judge and format.
Does not know: sockets, terminals.
"""

from dataclasses import dataclass
from typing import Any

from clients.accuracy import plain_words, word_error_rate
from clients.audiofile import AudioFile
from clients.lag import percentile
from clients.live import Heard

HEADER = ("sample", "transcript", "WER", "lag p50", "lag p99", "finalize")


@dataclass(frozen=True, slots=True)
class Sample:
    """A clip and what is said in it, by channel."""

    name: str
    audio: AudioFile
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A clip and what was heard."""

    sample: Sample
    heard: Heard

    @property
    def wer(self) -> float:
        """Errors over words, pooled over channels; a fraction."""
        return word_error_rate(self.pairs)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Reference and transcript of each channel."""
        if len(self.sample.texts) == 1:
            return [(self.sample.texts[0], self.heard.text())]
        return [(text, self.heard.text(i)) for i, text in enumerate(self.sample.texts)]


def is_failed(result: Result) -> bool:
    """Whether the service failed the clip; wrong words are the model's affair."""
    if result.heard.error or result.heard.finalize_delay_s is None:
        return True
    return any(plain_words(text) and not plain_words(heard) for text, heard in result.pairs)


def row(result: Result) -> tuple[str, ...]:
    """Its row in the table."""
    heard = result.heard
    if heard.error:
        return (result.sample.name, f"FAILED {heard.error}", "-", "-", "-", "-")
    return (
        result.sample.name,
        heard.text() or "FAILED no words",
        f"{result.wer:.1%}",
        _ms(percentile(heard.lags_s, 50) if heard.lags_s else None),
        _ms(percentile(heard.lags_s, 99) if heard.lags_s else None),
        _ms(heard.finalize_delay_s),
    )


def figures(results: list[Result]) -> dict[str, Any]:
    """Return the run in numbers, pooled over its clips."""
    lags = [lag for result in results for lag in result.heard.lags_s]
    ends = [r.heard.finalize_delay_s for r in results if r.heard.finalize_delay_s is not None]
    pairs = [pair for result in results for pair in result.pairs]
    return {
        "samples": len(results),
        "failed": sum(map(is_failed, results)),
        "wer": round(word_error_rate(pairs), 4),
        "lag_p50_ms": _rounded(percentile(lags, 50) if lags else None),
        "lag_p99_ms": _rounded(percentile(lags, 99) if lags else None),
        "finalize_p50_ms": _rounded(percentile(ends, 50) if ends else None),
        "finalize_max_ms": _rounded(max(ends, default=None)),
        "client_late_max_ms": _rounded(max((r.heard.late_s for r in results), default=None)),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
