"""What was measured of a model: how often a word of a given probability is right, how late it is.

Does: fit (isotonic regression), interpolate, expected calibration error.
Does not know: decoders, where it is kept. The curve rises, so a word's confidence, which is that
of its least sure token, may be mapped token by token.
Source: Zadrozny and Elkan 2002 (isotonic); Naeini et al. 2015 (expected calibration error).
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

KNOTS = 16
BINS = 10
Judged = Sequence[tuple[float, bool]]
"""Words: their probability, and whether they were right."""


class BadCurve(ValueError):
    """The points are no curve from 0..1 to 0..1 that rises."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A piecewise linear map of 0..1 to 0..1 that rises; without points it changes nothing."""

    points: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        flat = [value for point in self.points for value in point]
        if not all(0.0 <= value <= 1.0 for value in flat):
            raise BadCurve("a point lies outside 0..1")
        pairs = list(zip(self.points, self.points[1:], strict=False))
        if any(a[0] >= b[0] or a[1] > b[1] for a, b in pairs):
            raise BadCurve("the points do not rise")

    def __call__(self, probability: float) -> float:
        """Return the share of words of this probability that are right."""
        points = self.points
        if not points:
            return probability
        at = bisect_right(points, (probability, 2.0))
        if at in (0, len(points)):
            return points[min(at, len(points) - 1)][1]
        (x0, y0), (x1, y1) = points[at - 1 : at + 1]
        return y0 + (y1 - y0) * (probability - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of a model on speech it had not seen."""

    confidence: Curve = field(default_factory=Curve)
    """From a token's probability to how often such a word is right."""
    late_ms: int = 0
    """How much later it says words than they were spoken (median)."""


def fit(words: Judged) -> Curve:
    """Fit a curve; at most KNOTS points, each of about as many words."""
    if not words:
        return Curve()
    ordered = sorted(words)
    parts = np.array_split(np.arange(len(ordered)), min(KNOTS, len(ordered)))
    blocks: list[tuple[float, float, int]] = []
    for part in parts:
        x = float(np.mean([ordered[i][0] for i in part]))
        y = float(np.mean([ordered[i][1] for i in part]))
        blocks.append((x, y, len(part)))
        while len(blocks) > 1 and not _rises(blocks[-2], blocks[-1]):
            (x0, y0, n0), (x1, y1, n1) = blocks[-2:]
            total = n0 + n1
            joined = ((x0 * n0 + x1 * n1) / total, (y0 * n0 + y1 * n1) / total, total)
            blocks[-2:] = [joined]
    return Curve(tuple((round(x, 4), round(y, 4)) for x, y, _ in blocks))


def _rises(one: tuple[float, float, int], other: tuple[float, float, int]) -> bool:
    return round(one[0], 4) < round(other[0], 4) and one[1] < other[1]


def expected_calibration_error(words: Judged) -> float:
    """Mean distance of confidence and accuracy over ten equal bins, weighted by words."""
    if not words:
        return 0.0
    sure, right = (np.array(column, float) for column in zip(*words, strict=True))
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    return float(
        sum(abs(sure[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
            for b in np.unique(bins))
    )  # fmt: skip
